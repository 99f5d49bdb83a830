"""How the pictures of a round are divided into optimizer steps and batches."""

from itertools import pairwise

from ..errors import UserError
from ..progress import plural

Span = tuple[int, int]
"""A batch, as a range of pictures: its first, and one past its last."""


def spans(pictures: int, updates: int, batch: int) -> list[list[Span]]:
    """The batches of each optimizer step of a round.

    Without --packed, drawing and training use the same batches, so both compute the same numbers. Which pictures belong
    to a step does not depend on the batch size.
    """
    bounds = [round(number * pictures / updates) for number in range(updates + 1)]
    return [
        [(start, min(start + batch, last)) for start in range(first, last, batch)]
        for first, last in pairwise(bounds)
        if first < last
    ]


def check_batches(pictures: int, updates: int, batch: int, processes: int, *, sharded: bool = False) -> None:
    """Raise `UserError` if an optimizer step has fewer batches than there are processes.

    If weights or gradients are `sharded`, also raise it if the processes have not all as many.
    """
    counts = [*map(len, spans(pictures, updates, batch))]
    if (smallest := min(counts)) < processes:
        raise UserError(
            f"--batch {batch}: an optimizer step has {plural(smallest, 'batch')} for {processes} processes; lower "
            "--batch or --updates"
        )
    uneven = [count for count in counts if count % processes]
    if sharded and uneven:
        raise UserError(
            f"--batch {batch}: an optimizer step has {plural(uneven[0], 'batch')} for {processes} processes; with FSDP "
            "or ZeRO each needs as many as the others: change --batch, --updates or --prompts-per-epoch"
        )
