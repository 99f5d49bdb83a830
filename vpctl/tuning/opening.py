"""Opens the run of a command. A run that has ended is recognized without importing torch."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import progress
from .folder import ended, note_ended

if TYPE_CHECKING:
    from .run import Run


def announce_once() -> None:
    """Let the first process of a launcher say what all of them do."""
    if os.environ.get("RANK", "0") != "0":
        progress.mute()


@contextmanager
def opened(out: str, options: Mapping[str, Any], device: str) -> Iterator["Run | None"]:
    """A context with the run of these options in the folder `out`. If it has ended, prints a note and gives None.

    Raises `UserError` if the folder cannot be used, and `OutputLocked` while another run writes there.
    """
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
