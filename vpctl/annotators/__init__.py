"""What judges pictures. A module here is an annotator: see `shapes` for the whole contract."""
