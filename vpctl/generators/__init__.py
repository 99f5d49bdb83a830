"""What draws pictures. A module here is a generator: see `diffusion` for the whole contract."""
