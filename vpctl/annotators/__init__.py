"""Annotators, which judge pictures. Each module is a plug-in; `vpctl.contracts` has the contract."""
