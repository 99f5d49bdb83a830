"""Live judging: questions are asked and answered during the run."""

from collections.abc import Coroutine, Iterable
from typing import Any

from .. import flow, progress
from ..configs import ServerConfig
from ..errors import LimitReached
from ..flow import StopSignal
from ..records import Judgement
from ..streams.writing import Out
from . import run
from .plan import Group, Plan
from .run import JudgingContext, Tally


def judge(
    groups: Iterable[Group],
    plan: Plan,
    context: JudgingContext,
    tally: Tally,
    server: ServerConfig,
    *,
    pictures: int | None,
    out: Out,
) -> None:
    """Judge the groups and write the judgements to `out`, with a progress bar.

    `pictures` is the number of pictures in the input, from which the bar's total is estimated; None if it is unknown.
    """
    with progress.Counter("judgements", None, context.annotator.status) as counter:

        def emit(*done: Judgement) -> None:
            context.emit(*done)
            counter.expected = tally.expected(pictures, plan)
            counter(len(done))

        def work(stop_signal: StopSignal) -> Coroutine[Any, Any, None]:
            return run.judge(
                iter(groups),
                plan,
                context._replace(emit=emit),
                at_once=server.concurrency,
                stop_signal=stop_signal,
                tally=tally,
            )

        def tell() -> None:
            counter.close()
            more = "; ".join(text for text in (tally.summary(), context.annotator.summary()) if text)
            progress.finished(
                progress.plural(counter.total, "judgement"),
                out.target,
                resumed=out.resumed,
                failed=tally.lost,
                more=more,
            )

        try:
            flow.run(work, max_time=server.max_time)
        except (KeyboardInterrupt, LimitReached):
            tell()
            raise
        tell()
