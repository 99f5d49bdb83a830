"""Votes of people: a page on which they judge pictures, and the server of the page."""
