"""Models with weights: what a folder holds, where a hub id's files lie, and the one place that opens them."""
