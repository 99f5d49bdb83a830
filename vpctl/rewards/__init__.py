"""What scores pictures. A module here is a reward: `vpctl.contracts` has the contract."""
