"""Polishers, which clean prompts. Each module is a plug-in; `vpctl.contracts` has the contract."""
