"""Runs several commands of vpctl one after the other in this process: each argument is a command line.

Environment variables may stand before a command, as in a shell. They are set for all commands after it. The libraries
are imported only once, and with several processes they meet only once.
"""

import os
import sys

from vpctl.cli import main

if __name__ == "__main__":
    for words in sys.argv[1:]:
        command = words.split()
        while "=" in command[0]:
            name, _, value = command.pop(0).partition("=")
            os.environ[name] = value
        sys.argv = ["vpctl", *command]
        if code := main():
            sys.exit(code)
