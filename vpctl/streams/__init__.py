"""Records on disk and on pipes: JSON Lines, reading, writing, and what must agree between joined files."""
