"""Turns the calls that are still to be made into requests, for one prompt's pictures at a time."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, NamedTuple

from ... import flow, progress
from ...contracts import OfflineAnnotator, Question
from ...errors import RecordFailed
from ...flow import StopSignal
from ..plan import Call, Group, Plan
from ..run import JudgingContext, Tally, claim_calls, count_lost
from .asked import MOST_BYTES, Stub, model_of, request_hash, request_line, request_name


class PackedRequest(NamedTuple):
    """The line of a request, and its stub."""

    line: bytes
    stub: Stub


class _Wanted(NamedTuple):
    group: Group
    calls: list[Call]


async def requests(
    groups: Iterator[Group],
    plan: Plan,
    context: JudgingContext,
    judge: OfflineAnnotator,
    tally: Tally,
    stop_signal: StopSignal,
) -> AsyncGenerator[PackedRequest, None]:
    """The requests of all calls that are still to be made.

    The pictures of a prompt are prepared once, for up to `judge.preparing` prompts at a time. Calls whose pictures
    cannot be opened, and requests that are too large for a batch, are reported and counted as lost.
    """

    async def wanted() -> AsyncIterator[_Wanted]:
        async for group in flow.in_background(groups):
            if calls := list(claim_calls(group, plan, context, tally)):
                yield _Wanted(group, calls)

    async def ready(one: _Wanted) -> tuple[_Wanted, dict[int, Any]]:
        places = sorted({place for call in one.calls for place in call.shown})
        names = [one.group.images[place]["file_name"] for place in places]
        try:
            made = await asyncio.to_thread(lambda: [judge.prepare(context.open_picture(name), name) for name in names])
        except RecordFailed as failure:
            count_lost(failure, one.calls, tally)
            return one._replace(calls=[]), {}
        return one, dict(zip(places, made, strict=True))

    with progress.Counter("requests", None) as counter:
        async with aclosing(
            flow.in_order(wanted(), ready, at_once=judge.preparing, stop_signal=stop_signal)
        ) as prepared:
            async for one, pictures in prepared:
                for call in one.calls:
                    packed = _packed(call, one.group.images[0]["prompt"], pictures, judge)
                    if len(packed.line) > MOST_BYTES:
                        too_large = f"the request has {len(packed.line)} bytes; shrink the pictures with --max-side"
                        count_lost(RecordFailed(too_large), [call], tally)
                        continue
                    yield packed
                    counter()


def _packed(call: Call, prompt: str, pictures: dict[int, Any], judge: OfflineAnnotator) -> PackedRequest:
    shown = [pictures[place] for place in call.shown]
    request = judge.request(Question(prompt, shown, *call.kind[:2]))
    line = request_line(request_name(call), model_of(judge).body(request))
    return PackedRequest(line, Stub(call, request.estimate, request_hash(request)))


def dollars(judge: OfflineAnnotator, stub: Stub) -> float:
    """The maximum cost of a request in dollars, at the price of a batch."""
    engine = model_of(judge).engine
    most: float = engine.budget.most(stub.estimate) * engine.batch_share
    return most
