"""The HTML pages: what is on them, how it looks, and the plots of a training."""
