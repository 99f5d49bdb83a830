"""Generators, which draw pictures. Each module is a plug-in; `vpctl.contracts` has the contract."""
