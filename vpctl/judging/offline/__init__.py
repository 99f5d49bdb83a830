"""Judging by batch: what is to be asked goes into files, and the answers come hours later, to another run.

`asked` writes what is asked, `packing` makes it of pictures, `results` reads what came of it, `journal` remembers what
is under way, `server` has a server do it, and `file` leaves it to whoever runs the file.
"""

import os
from collections.abc import Callable, Iterator
from typing import cast

from ... import flow, progress
from ...configs import ServerConfig
from ...contracts import OfflineAnnotator
from ...errors import UserError
from ...flow import Brake
from ...streams.places import hidden_beside
from ...streams.writing import Out
from ..plan import Group, Plan
from ..run import Desk, Tally
from .asked import Stubs
from .file import Exchange
from .journal import STUBS, Journal
from .results import Reader
from .server import BatchRun


def judge(
    groups: Iterator[Group],
    plan: Plan,
    desk: Desk,
    tally: Tally,
    config: ServerConfig,
    out: Out,
    *,
    file: str = "",
    retry: bool = False,
) -> None:
    """Write to `out` the judgements that have come, and ask for the others: a server, or by the batch file `file`.

    Batches that a server would not begin twice are tried again if it is to `retry`.
    """
    annotator = asked_by_batch(desk)
    reader = Reader(desk, annotator, tally, mending=not file, at_once=config.concurrency)

    async def work(brake: Brake) -> None:
        if file:
            await Exchange(desk, annotator, tally, out, reader, file, brake).work(groups, plan)
            return
        journal = Journal(folder(out.target))
        try:
            async with annotator.running(brake):
                await BatchRun(desk, annotator, tally, out, reader, journal, brake).work(groups, plan, retry=retry)
        finally:
            journal.close()

    try:
        flow.run(work, max_time=config.max_time)
    finally:
        spent = annotator.model.engine.budget.spent
        more = "; ".join(text for text in (tally.told(), f"{spent:.4f} USD" if spent else "") if text)
        progress.finished(
            progress.plural(reader.judgements, "judgement"),
            out.target,
            resumed=out.resumed,
            failed=tally.lost,
            more=more,
        )


def asked_by_batch(desk: Desk) -> OfflineAnnotator:
    """The annotator, as one that can be asked by batch. Raises `UserError` if it cannot."""
    if OfflineAnnotator not in type(desk.annotator).__mro__:  # nor a guarded one of the user's: nothing checks it here
        raise UserError(f"--annotator {desk.name}: does not support batches; use openai:MODEL")
    return cast(OfflineAnnotator, desk.annotator)


def price_share(desk: Desk) -> float:
    """The part of the usual price that a question costs by batch. Raises `UserError` if it cannot be asked so."""
    share: float = asked_by_batch(desk).model.engine.batch_share
    return share


def leave_out(out: str, claim: Callable[[str], bool]) -> int:
    """Claim what is asked in batches of an output, lest it be asked twice; how many requests these are."""
    if not os.path.isdir(folder(out)):
        return 0
    journal = Journal(folder(out))
    jobs = [job for job in journal.jobs.values() if not job.state]
    for job in jobs:
        for stub in Stubs(journal.path(job.tag, STUBS)):
            for key in stub.call.fresh:
                claim(key)
    journal.close()
    return sum(job.requests for job in jobs)


def folder(out: str) -> str:
    """Where an output's batches are kept."""
    return hidden_beside(out, "batches")
