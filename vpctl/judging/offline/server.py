"""Judging through a server's Batch API: a run collects finished batches, submits what is new, and does not wait."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import aclosing, suppress

from ... import progress
from ...api.dialects import Dialect, common, first_dialect
from ...api.engine import SHOWN, NotThere
from ...api.jobs import ENDED, BatchJobs, BatchState
from ...contracts import OfflineAnnotator
from ...errors import Stopped, UserError
from ...flow import StopSignal
from ...streams.writing import Out
from ..plan import Group, Plan
from ..run import JudgingContext, Tally
from . import packing
from .asked import BatchFileWriter, StubFile, model_of
from .journal import ANSWERS, ERRORS, REQUESTS, STUBS, Journal, PendingBatch, new_tag
from .results import Reader, since

LOOKED_UP = 8
"""Maximum number of batches whose state is requested at the same time."""
SHOWN_ERRORS = 5
"""Maximum number of error messages shown for a batch that the server rejected."""
QUEUE_FULL = "token_limit_exceeded"
"""Error code of a batch that failed because the pending batches use the server's whole limit."""


def stubs_of(journal: Journal, job: PendingBatch) -> StubFile:
    """The stubs of a batch. Raises `UserError` if their file cannot be read or is damaged."""
    way_out = (
        f"; batch {job.id or job.tag} cannot be read without this file: restore it, or remove {journal.folder}, "
        "which gives up the answers of all pending batches"
    )
    return StubFile(journal.path(job.tag, STUBS), way_out)


class BatchRun:
    """One run over the batches of an output."""

    def __init__(
        self,
        context: JudgingContext,
        judge: OfflineAnnotator,
        tally: Tally,
        out: Out,
        reader: Reader,
        journal: Journal,
        stop_signal: StopSignal,
    ) -> None:
        self._context, self._judge, self._tally, self._out = context, judge, tally, out
        self._reader, self._journal, self._stop_signal = reader, journal, stop_signal
        engine = model_of(judge).engine
        self._engine, self._api = engine, BatchJobs(engine)
        self._collected: list[PendingBatch] = []
        self._failed: list[PendingBatch] = []
        self._full: list[PendingBatch] = []
        self._begun: list[PendingBatch] = []
        self._answered = 0
        self._why = ""

    def _jobs(self, state: str) -> list[PendingBatch]:
        """The batches in a state that belong to this annotator and server. Batches of others are left alone."""
        ours = (self._context.name, self._engine.server)
        jobs = self._journal.jobs.values()
        return [job for job in jobs if (job.annotator, job.server) == ours and job.state == state]

    async def work(self, groups: Iterator[Group], plan: Plan, *, retry: bool) -> None:
        """Collect finished batches, then submit what is new. With `retry`, also requests that failed twice."""
        with suppress(Stopped):
            known = [*self._jobs("done"), *self._jobs("failed"), *self._jobs("")]
            server = self._engine.server
            model_of(self._judge).speak(
                common(server, first_dialect(server), *(Dialect(*job.dialect) for job in known))
            )
            if retry:
                self._allow_retry()
            self._journal.remove_stale_files()
            under_way = self._jobs("")
            self._engine.budget.adjust_reserved(sum(job.reserved for job in under_way))
            for job in under_way:
                if not job.id:
                    await self._begin(job)
            await self._look([job for job in self._jobs("") if job not in self._begun])
            self._check()
            await self._pack(groups, plan)
        self._journal.remove_stale_files()
        self._tell()
        if self._why:
            self._stop_signal.stop(self._why)

    async def _begin(self, job: PendingBatch) -> None:
        """Upload and create a batch that is in the journal. An earlier run may have uploaded its file already."""
        tag = job.tag
        begun = bool(job.file)
        if not job.file:
            path = self._journal.path(tag, REQUESTS)
            if not os.path.exists(path):
                self._engine.budget.adjust_reserved(-job.reserved)
                self._journal.update(tag, state="done")
                return
            try:
                file = await self._api.upload(path, f"vpctl-{tag}.jsonl")
            except NotThere as error:  # nothing was asked, so nothing is pending
                self._engine.budget.adjust_reserved(-job.reserved)
                self._journal.update(tag, state="done")
                raise UserError(f"{error}: {self._engine.server} has no Batch API; leave --batch-api out") from None
            job = self._journal.update(tag, file=file)
        job = self._journal.update(tag, id=await self._api.create(job.file, tag, job.time, begun=begun))
        with suppress(FileNotFoundError):
            os.unlink(self._journal.path(tag, REQUESTS))
        self._begun.append(job)

    async def _look(self, jobs: list[PendingBatch]) -> None:
        """Collect the batches that have ended, and claim the judgements of those that are pending."""
        slots = asyncio.Semaphore(LOOKED_UP)

        async def look(job: PendingBatch) -> BatchState:
            async with slots:
                way_out = f"; if batch {job.id} is permanently lost, remove {self._journal.folder} to ask again"
                return await self._api.get(job.id, way_out)

        found = list(zip(jobs, await asyncio.gather(*map(look, jobs)), strict=True))
        for job, batch in found:
            if batch.status == "failed":
                self._fail(job, batch)
            elif batch.status not in ENDED:
                self._answered += batch.completed
        for job, batch in found:
            if batch.status in ENDED:
                await self._collect(job, batch)
        accepted = sum(job.requests for job, batch in found if batch.status != "failed")
        self._learn_limit(accepted)
        for job in self._jobs(""):
            for stub in stubs_of(self._journal, job):
                for key in stub.call.pending_keys:
                    self._context.ledger.claim(key)

    async def _collect(self, job: PendingBatch, batch: BatchState) -> None:
        journal = self._journal
        paths = []
        for kind, file_id in ((ANSWERS, batch.answers), (ERRORS, batch.errors)):
            if file_id:
                paths.append(journal.path(job.tag, kind))
                way_out = f"; if the answers of batch {job.id} are lost, remove {journal.folder} to ask again"
                await self._api.download(file_id, paths[-1], way_out)
                self._stop_signal.check()
        stubs = stubs_of(journal, job)
        share = job.reserved / job.requests
        used = Dialect(*job.dialect)
        there = since(self._out.target, stubs.at)
        await self._reader.read(stubs, paths, there, reserved=share, used=used, stop_signal=self._stop_signal)
        self._out.sync()
        self._engine.budget.adjust_reserved(-share * len(stubs))
        if self._reader.hopeless:
            self._give_up(job, self._reader.hopeless)
            return
        journal.update(job.tag, state="done", dialect=[*model_of(self._judge).dialect])
        self._collected.append(job)
        if job.again:
            self._allow_retry()

    def _fail(self, job: PendingBatch, batch: BatchState) -> None:
        """Handle a batch that the server rejected."""
        self._engine.budget.adjust_reserved(-job.reserved)
        if any(problem.code == QUEUE_FULL for problem in batch.problems):
            self._journal.update(job.tag, state="done")
            self._full.append(job)
            return
        texts = [self._engine.redacted(problem.message or problem.code or "no reason") for problem in batch.problems]
        for text in texts[:SHOWN_ERRORS]:
            progress.warn(f"batch {job.id}: {text[:SHOWN]}")
        if len(texts) > SHOWN_ERRORS:
            progress.warn(f"batch {job.id}: {len(texts) - SHOWN_ERRORS} more errors")
        self._give_up(job, texts[0][:SHOWN] if texts else "no reason")

    def _give_up(self, job: PendingBatch, why: str) -> None:
        """Mark a batch as failed: its requests are asked again, but after a second failure only with --retry failed."""
        self._journal.update(job.tag, state="failed", why=why)
        self._failed.append(job)

    def _allow_retry(self) -> None:
        for job in self._jobs("failed"):
            self._journal.update(job.tag, state="done")

    def _check(self) -> None:
        """Raise `UserError` if requests have failed twice."""
        if stuck := [job for job in self._jobs("failed") if job.again]:
            requests = progress.plural(sum(job.requests for job in stuck), "request")
            raise UserError(
                f"{self._engine.name}: {requests} failed twice, because whole batches failed: {stuck[0].why}; "
                "fix the cause, then ask again with --retry failed"
            )

    def _learn_limit(self, accepted: int) -> None:
        """Update the number of requests that the server accepts at a time.

        If it rejected a batch because its limit was reached, this is the number of requests that it has accepted, or
        half of the smallest rejected batch if it has accepted none. Otherwise a run that collects a batch raises the
        number by a quarter.
        """
        if self._full:
            self._journal.limit(accepted or max(1, min(job.requests for job in self._full) // 2))
        elif self._journal.most is not None and self._collected:
            self._journal.limit(self._journal.most * 5 // 4 + 1)

    async def _pack(self, groups: Iterator[Group], plan: Plan) -> None:
        """Submit what is new, in as many batches as needed, until a limit of the server or the budget is reached."""
        budget = self._engine.budget
        failed = {name for job in self._jobs("failed") for name in stubs_of(self._journal, job).names()}
        most = self._journal.most
        room = None if most is None else most - sum(job.requests for job in self._jobs(""))
        packer: BatchFileWriter | None = None
        tag, reserved, again = "", 0.0, False

        async def begin(packer: BatchFileWriter) -> None:
            packer.commit()
            job = self._journal.add(
                packer.count,
                tag,
                annotator=self._context.name,
                server=self._engine.server,
                reserved=reserved,
                again=again,
                dialect=[*model_of(self._judge).dialect],
            )
            await self._begin(job)

        requests = packing.requests(groups, plan, self._context, self._judge, self._tally, self._stop_signal)
        try:
            async with aclosing(requests) as packed:
                async for line, stub in packed:
                    self._stop_signal.check()
                    dollars = packing.dollars(self._judge, stub)
                    if room is not None and room <= 0:
                        progress.note(
                            "the server accepts no more batches now; run the same command again when a batch has ended"
                        )
                        break
                    self._why = budget.allows(dollars)
                    if self._why:
                        break
                    if packer and not packer.fits(line):
                        await begin(packer)
                        packer = None
                    if not packer:
                        tag, reserved, again = new_tag(), 0.0, False
                        paths = self._journal.path(tag, REQUESTS), self._journal.path(tag, STUBS)
                        at = os.path.getsize(self._out.target)
                        packer = BatchFileWriter(*paths, at=at, dialect=model_of(self._judge).dialect)
                    packer.add(line, stub)
                    budget.adjust_reserved(dollars)
                    budget.requests += 1
                    reserved += dollars
                    again = again or stub.id in failed
                    room = None if room is None else room - 1
            self._stop_signal.check()
            if packer:
                await begin(packer)
        except BaseException:
            if packer:
                if tag not in self._journal.jobs:
                    with suppress(FileNotFoundError):
                        os.unlink(packer.stubs)
                packer.discard()
            raise

    def _tell(self) -> None:
        """Print the state of the batches."""
        begun = {job.tag for job in self._begun}
        packed = [job for job in self._jobs("") if not job.id]
        waiting = [job for job in self._jobs("") if job.id and job.tag not in begun]
        asked, new = (sum(job.requests for job in jobs) for jobs in (waiting, self._begun))
        told = {
            f"collected ({progress.plural(self._reader.judgements, 'judgement')})": len(self._collected),
            "rejected by the server": len(self._failed) + len(self._full),
            f"pending ({self._answered:,} of {progress.plural(asked, 'request')} done)": len(waiting),
            f"new ({progress.plural(new, 'request')})": len(begun),
            "packed but not uploaded": len(packed),
        }
        number = sum(told.values())
        if not number:
            progress.note("no batches are pending, and nothing is left to ask")
            return
        what = ", ".join(f"{count} {text}" for text, count in told.items() if count)
        again = "; to collect the answers, run the same command again, without --refresh and --retry"
        goes_on = again if self._jobs("") else ""
        progress.note(f"{number} {'batch' if number == 1 else 'batches'}: {what}{goes_on}")
