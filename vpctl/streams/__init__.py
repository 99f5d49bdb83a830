"""Read and write records on disk and on pipes: JSON Lines, file names, and checks of joined files."""
