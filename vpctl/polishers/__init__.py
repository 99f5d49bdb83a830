"""What cleans prompts. A module here is a polisher: see `rules` for the whole contract."""
