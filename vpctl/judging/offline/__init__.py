"""Judging by batch: the questions are written to files, and a later run reads the answers, hours later.

`packing` prepares the requests, `asked` writes them to files, `results` reads the answers, and `journal` records the
pending batches. `server` submits the files to a Batch API. `file` leaves it to the user to run them.
"""

import os
from collections.abc import Iterator
from typing import cast

from ... import flow, progress
from ...configs import ServerConfig
from ...contracts import OfflineAnnotator
from ...errors import UserError
from ...flow import StopSignal
from ...streams.places import hidden_beside
from ...streams.writing import Out
from ..ledger import OutputLedger
from ..plan import Group, Plan
from ..run import JudgingContext, Tally
from .asked import model_of
from .file import BatchFileRun
from .journal import Journal
from .results import Reader
from .server import BatchRun, stubs_of


def judge(
    groups: Iterator[Group],
    plan: Plan,
    context: JudgingContext,
    tally: Tally,
    config: ServerConfig,
    out: Out,
    *,
    file: str = "",
    retry: bool = False,
) -> None:
    """Write the judgements that have arrived to `out`, and ask for the missing ones.

    The requests go to a server, or into the batch file `file` if one is given.

    With `retry`, requests that the server has rejected twice are submitted again. Raises `UserError` if the annotator
    cannot be asked by batch.
    """
    annotator = as_offline_annotator(context)
    reader = Reader(context, annotator, tally, mending=not file, at_once=config.concurrency)

    async def work(stop_signal: StopSignal) -> None:
        if file:
            await BatchFileRun(context, annotator, tally, out, reader, file, stop_signal).work(groups, plan)
            return
        journal = Journal(batch_folder(out.target))
        try:
            async with annotator.running(stop_signal):
                await BatchRun(context, annotator, tally, out, reader, journal, stop_signal).work(
                    groups, plan, retry=retry
                )
        finally:
            journal.close()

    try:
        flow.run(work, max_time=config.max_time)
    finally:
        budget = model_of(annotator).engine.budget
        spent = f"{'at most ' if budget.silent else ''}{budget.spent:.4f} USD" if budget.spent else ""
        more = "; ".join(text for text in (tally.summary(), spent) if text)
        progress.finished(
            progress.plural(reader.judgements, "judgement"),
            out.target,
            resumed=out.resumed,
            failed=tally.lost,
            more=more,
        )


def as_offline_annotator(context: JudgingContext) -> OfflineAnnotator:
    """The annotator as an `OfflineAnnotator`. Raises `UserError` if it does not support batches."""
    if OfflineAnnotator not in type(context.annotator).__mro__:  # refuses a user's own, which nothing would check here
        raise UserError(f"--annotator {context.name}: does not support batches; use openai:MODEL")
    return cast(OfflineAnnotator, context.annotator)


def batch_price_fraction(context: JudgingContext) -> float:
    """The fraction of the live price that a batch costs. Raises `UserError` if batches are not supported."""
    share: float = model_of(as_offline_annotator(context)).engine.batch_share
    return share


def claim_pending(out: OutputLedger) -> int:
    """Claim the judgements that the pending batches of an output will bring, so that they are not asked for twice.

    Returns the number of requests in these batches.
    """
    if not os.path.isdir(batch_folder(out.target)):
        return 0
    journal = Journal(batch_folder(out.target))
    jobs = [job for job in journal.jobs.values() if not job.state]
    for job in jobs:
        for stub in stubs_of(journal, job):
            for key in stub.call.pending_keys:
                out.claim(key)
    journal.close()
    return sum(job.requests for job in jobs)


def batch_folder(out: str) -> str:
    """The hidden folder beside an output that holds its batches."""
    return hidden_beside(out, "batches")
