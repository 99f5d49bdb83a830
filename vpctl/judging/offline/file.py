"""Judging through a batch file: it is written here, run elsewhere by the user, and its results are read here later."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import aclosing

from ... import progress
from ...api.dialects import Dialect
from ...contracts import OfflineAnnotator
from ...errors import UserError
from ...flow import StopSignal
from ...streams.places import hidden_beside
from ...streams.writing import Out
from ..plan import Group, Plan
from ..run import JudgingContext, Tally
from . import packing
from .asked import PART, BatchFileWriter, StubFile, model_of, parse_name
from .results import Reader, since


def results_of(requests: str) -> str:
    """The path where the results of a file of requests are expected: ``requests.out.jsonl`` for ``requests.jsonl``."""
    stem, ending = os.path.splitext(requests)
    return f"{stem}.out{ending}"


class BatchFileRun:
    """One run over a file of requests and the file of their results."""

    def __init__(
        self,
        context: JudgingContext,
        judge: OfflineAnnotator,
        tally: Tally,
        out: Out,
        reader: Reader,
        requests: str,
        stop_signal: StopSignal,
    ) -> None:
        self._context, self._judge, self._tally, self._out = context, judge, tally, out
        self._reader, self._stop_signal = reader, stop_signal
        self._requests, self._results = requests, results_of(requests)
        self._stubs = hidden_beside(requests, "stubs")
        if not self._stubs or os.path.isdir(requests):
            raise UserError(f"--batch-file {requests}: name a file")
        if os.path.exists(requests) and not os.path.exists(self._stubs):
            raise UserError(f"--batch-file {requests}: exists, and this command did not write it; name another file")

    async def work(self, groups: Iterator[Group], plan: Plan) -> None:
        """Read the results, and write a file of the requests that are still to be asked."""
        left = self._left()
        asked = len(left)
        model, used = model_of(self._judge), Dialect(*left.dialect)
        model.speak(used)
        if asked and os.path.exists(self._results):
            there = since(self._out.target, left.at)
            await self._reader.read(
                left, [self._results], there, reserved=0.0, used=used, stop_signal=self._stop_signal
            )
            self._out.sync()
            self._tell(len(left))
            if self._reader.hopeless:
                raise UserError(f"{self._results}: {self._reader.hopeless}")
        if model.dialect != used or not os.path.exists(self._requests):
            left.drop(*left.names())  # these requests are written again
        if left and os.path.getsize(self._requests) != left.bytes:  # the user has changed the file
            left.missing.update(await asyncio.to_thread(self._missing, left))
        for stub in left:
            if stub.id not in left.missing:
                model.engine.budget.adjust_reserved(packing.dollars(self._judge, stub))
                for key in stub.call.pending_keys:
                    self._context.ledger.claim(key)
        await self._pack(groups, plan, left, asked)

    def _left(self) -> StubFile:
        """The stubs of the existing file of requests.

        If a run was killed in `BatchFileWriter.commit`, the stubs are in place and the requests are not. They are put
        in place here.
        """
        way_out = f"; restore it, or remove it and {self._requests} to ask all requests again"
        left = StubFile(self._stubs if os.path.exists(self._stubs) else "", way_out)
        part = self._requests + PART
        if left and os.path.exists(part) and os.path.getsize(part) == left.bytes:
            os.replace(part, self._requests)
        return left

    def _missing(self, left: StubFile) -> set[str]:
        """The names of the stubs whose requests are not in the file."""
        with open(self._requests, "rb") as file:
            present = set(map(parse_name, file))
        return {name for name in left.names() if name not in present}

    async def _pack(self, groups: Iterator[Group], plan: Plan, left: StubFile, asked: int) -> None:
        budget = model_of(self._judge).engine.budget
        packer: BatchFileWriter | None = None
        new, why = 0, ""
        requests = packing.requests(groups, plan, self._context, self._judge, self._tally, self._stop_signal)
        try:
            async with aclosing(requests) as packed:
                async for line, stub in packed:
                    dollars = packing.dollars(self._judge, stub)
                    if why := budget.allows(dollars):
                        break
                    packer = packer or self._again(left)
                    packer.add(line, stub)
                    budget.adjust_reserved(dollars)
                    budget.requests += 1
                    new += 1
            self._stop_signal.check()
            if left and len(left) < asked:
                packer = packer or self._again(left)
            if packer:
                packer.commit()
        except BaseException:
            if packer:
                packer.discard()
            raise
        if left.missing:
            lost = progress.plural(len(left.missing), "request")
            progress.note(f"{self._requests}: {lost} missing; they are asked again if their pictures are in the input")
        if present := len(left) - len(left.missing) + new:
            progress.note(
                f"{progress.plural(present, 'request')} in {self._requests}, {new:,} of them new: "
                f"run vllm run-batch -i {self._requests} -o {self._results} --model {model_of(self._judge).model}, "
                "or upload the file and save the results there; then run the same command again to read them"
            )
        elif not left.missing:
            self._end()
        if why:
            self._stop_signal.stop(why)

    def _end(self) -> None:
        progress.note("nothing is left to ask")
        for path in (self._requests, self._stubs):
            if os.path.exists(path):
                os.unlink(path)

    def _again(self, left: StubFile) -> BatchFileWriter:
        """A packer for a new file, which begins with the existing requests that have no answer."""
        dialect = model_of(self._judge).dialect
        packer = BatchFileWriter(self._requests, self._stubs, at=os.path.getsize(self._out.target), dialect=dialect)
        if left:
            with open(self._requests, "rb") as file:
                for line in file:
                    name = parse_name(line)
                    if name in left:
                        packer.add(line.rstrip() + b"\n", left[name])
            for name in left.missing:
                packer.keep(left[name])
        return packer

    def _tell(self, left: int) -> None:
        """Print what the results contained."""
        reader = self._reader
        told = {
            "requests without a result": left,
            "incomplete or invalid lines": reader.torn,
            "results for unknown requests": reader.unknown,
        }
        rest = "".join(f"; {number:,} {text}" for text, number in told.items() if number)
        progress.note(f"{self._results}: {progress.plural(reader.judgements, 'judgement')}{rest}")
