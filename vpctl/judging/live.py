"""Judging now: questions are asked, and answers come, while the run lasts."""

from collections.abc import Coroutine, Iterable
from typing import Any

from .. import flow, progress
from ..configs import ServerConfig
from ..errors import LimitReached
from ..flow import Brake
from ..records import Judgement
from ..streams.writing import Out
from . import run
from .plan import Group, Plan
from .run import Desk, Tally


def judge(
    groups: Iterable[Group],
    plan: Plan,
    desk: Desk,
    tally: Tally,
    server: ServerConfig,
    *,
    pictures: int | None,
    out: Out,
) -> None:
    """Judge the groups and write judgements to `out`; a bar shows how far it is of so many `pictures`, if known."""
    with progress.Counter("judgements", None, desk.annotator.status) as counter:

        def emit(*done: Judgement) -> None:
            desk.emit(*done)
            counter.expected = tally.expected(pictures, plan)
            counter(len(done))

        def work(brake: Brake) -> Coroutine[Any, Any, None]:
            return run.judge(
                iter(groups), plan, desk._replace(emit=emit), at_once=server.concurrency, brake=brake, tally=tally
            )

        def tell() -> None:
            counter.close()
            more = "; ".join(text for text in (tally.told(), desk.annotator.summary()) if text)
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
