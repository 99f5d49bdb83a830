"""Opens the model and the run of a command. A run that has ended is recognized without importing torch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import plugins, progress
from ..configs import PRECISIONS, OptimizerConfig
from ..models import launcher
from .folder import ended, note_ended

if TYPE_CHECKING:
    from .run import Run


def announce_once() -> None:
    """Let the first process of a launcher say what all of them do."""
    if launcher.rank():
        progress.mute()


def to_tune(spec: str, config: OptimizerConfig, device: str) -> Any:
    """The `TunableGenerator` whose model is trained, without its weights.

    With --full they are read in float32: to begin with, 16 bits would round them. Weights that will be sharded are read
    in the precision of the training, and stay in the memory of the CPU until each process has its part: together they
    may be larger than a GPU. Raises `UserError` if the generator cannot be tuned.
    """
    if launcher.shards():
        return plugins.tunable(spec, device="cpu", dtype=config.dtype or PRECISIONS[0])
    return plugins.tunable(spec, device=device, dtype=PRECISIONS[0] if config.full else "")


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
