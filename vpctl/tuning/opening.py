"""Opens the run of a command. A run that has ended is recognized without importing torch."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .folder import ended, note_ended

if TYPE_CHECKING:
    from .run import Run


@contextmanager
def opened(out: str, options: Mapping[str, Any], device: str, *, several: bool = False) -> Iterator["Run | None"]:
    """A context with the run of these options in the folder `out`. If it has ended, prints a note and gives None.

    `several` says whether the command can train in several processes. Raises `UserError` if the folder cannot be used,
    and `OutputLocked` while another run writes there.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1" and not several:
        raise UserError(
            f"this command trains in one process, and {processes} were launched; start it without a launcher"
        )
    if ended(out, options):
        yield None
        return
    from ..models.devices import join_world
    from .run import Run

    with Run(out, options, join_world(device)) as run:
        if run.ended:  # another process has ended it since
            note_ended(out)
            yield None
        else:
            yield run
