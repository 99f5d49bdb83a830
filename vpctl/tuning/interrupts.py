"""Interrupts of a training: the first one waits for the step under way, the second one does not."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def deferred(first: Callable[[], None]) -> Iterator[None]:
    """Within, the first SIGINT or SIGTERM calls `first`; each one after it raises `KeyboardInterrupt`.

    A signal that is ignored stays ignored. Outside the main thread, where Python delivers no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = False

    def handle(_: int, __: FrameType | None) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of a write to stderr
            first()

    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    before = {one: handler for one, handler in handlers.items() if handler != signal.SIG_IGN}
    for one in before:
        signal.signal(one, handle)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
