"""Runs several commands of vpctl one after the other in this process: each argument is a command line.

The libraries are imported only once, and with several processes they meet only once.
"""

import sys

from vpctl.cli import main

if __name__ == "__main__":
    for words in sys.argv[1:]:
        sys.argv = ["vpctl", *words.split()]
        if code := main():
            sys.exit(code)
