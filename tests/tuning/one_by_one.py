"""Runs several commands of vpctl one after the other in this process: each argument is a command line.

An environment variable may stand before a command, as in a shell. It is set for all commands after it. The libraries
are imported only once, and with several processes they meet only once.
"""

import os
import sys

from vpctl.cli import main

if __name__ == "__main__":
    for words in sys.argv[1:]:
        first, *rest = words.split()
        name, is_variable, value = first.partition("=")
        if is_variable:
            os.environ[name] = value
        sys.argv = ["vpctl", *(rest if is_variable else [first, *rest])]
        if code := main():
            sys.exit(code)
