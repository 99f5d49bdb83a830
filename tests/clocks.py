"""An event loop in which only waiting takes time: hours pass in milliseconds, the same way in every run."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Idle(selectors.SelectSelector):
    """A selector that never waits. Instead, the clock of the loop jumps ahead."""

    jumped: float = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is ready, no timer is set, and somebody waits: this would hang")
        self.jumped += timeout
        return super().select(0)


class Virtual(asyncio.SelectorEventLoop):
    """An event loop whose time starts at 0, and jumps to the next timer when nothing is ready."""

    def __init__(self) -> None:
        self._idle = _Idle()
        super().__init__(self._idle)

    def time(self) -> float:
        return self._idle.jumped


def passing(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work` in virtual time. If it hangs, this raises an error, so a test always ends."""
    with asyncio.Runner(loop_factory=Virtual) as runner:
        return runner.run(work)
