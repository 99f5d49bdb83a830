"""What scores pictures. A module here is a reward: see `shapes` for the whole contract."""
