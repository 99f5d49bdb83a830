"""An event loop in which nothing takes time but what waits: hours pass in milliseconds, the same in every run."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Idle(selectors.SelectSelector):
    """Waits for nothing; what it would have waited, the loop's clock jumps over."""

    jumped: float = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is ready, no timer is set, and somebody waits: this would hang")
        self.jumped += timeout
        return super().select(0)


class Virtual(asyncio.SelectorEventLoop):
    """Its time is 0 at first, and jumps to the next timer when nothing is ready."""

    def __init__(self) -> None:
        self._idle = _Idle()
        super().__init__(self._idle)

    def time(self) -> float:
        return self._idle.jumped


def passing(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work` in virtual time. What hangs in it is an error and not a test that never ends."""
    with asyncio.Runner(loop_factory=Virtual) as runner:
        return runner.run(work)
