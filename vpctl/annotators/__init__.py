"""What judges pictures. A module here is an annotator: `vpctl.contracts` has the contract."""
