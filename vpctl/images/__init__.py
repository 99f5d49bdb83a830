"""Pictures on disk: allowed folders, opening, saving, and hashes of their files."""
