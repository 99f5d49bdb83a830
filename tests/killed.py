"""Kills vpctl at one of its events.

An event is a write to a descriptor, a file opened for writing, a rename, or a database opened. The process kills itself
before the event with this number, counted from 1, so the speed of the machine does not matter. With 0 it is not killed,
and writes the number of its events to the file `events` in the working directory.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

events = 0


def due(number: int) -> None:
    """Count one more event, and kill the process if this is the event."""
    global events
    events += 1
    if events == number:
        os.kill(os.getpid(), signal.SIGKILL)


def watched(main: Callable[[], int], number: int) -> int:
    """Call `main`, and count the events below the working directory. The process must not do anything else then."""
    write, here = os.write, os.getcwd()

    def written(file: int, content: Any) -> int:
        due(number)
        return write(file, content)

    def heard(event: str, values: tuple[Any, ...]) -> None:
        opened = event == "open" and values[2] & (os.O_WRONLY | os.O_RDWR)
        if opened or event in ("os.rename", "sqlite3.connect"):
            path = os.fsdecode(values[0]) if isinstance(values[0], str | bytes | os.PathLike) else ""
            if os.path.abspath(path).startswith(here):
                due(number)

    os.write = written
    sys.addaudithook(heard)
    code = main()
    if not number:
        total = events
        Path("events").write_text(str(total))
    return code
