"""What cleans prompts. A module here is a polisher: `vpctl.contracts` has the contract."""
