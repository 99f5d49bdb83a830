"""What draws pictures. A module here is a generator: `vpctl.contracts` has the contract."""
