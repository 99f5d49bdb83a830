"""Pictures on disk: which folders they may be read from, opening, saving, hashes of their files."""
