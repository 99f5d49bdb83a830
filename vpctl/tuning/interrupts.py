"""Interrupts of a training: they end it at a point where its state can be saved."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from types import FrameType

ONE_INTERRUPT = 1.0
"""Seconds after the first signal in which more signals count as the same interrupt.

A terminal, `timeout` and launchers of process groups send several signals for one interrupt.
"""


@contextlib.contextmanager
def deferred(is_over: Callable[[bool], bool]) -> Iterator[None]:
    """A context in which SIGINT and SIGTERM raise `KeyboardInterrupt` only if `is_over` returns true.

    `is_over` is called with False for the first signal, and with True for each signal that comes more than
    `ONE_INTERRUPT` seconds after the first. A signal that is ignored stays ignored. Outside the main thread, where
    Python delivers no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: float | None = None

    def handle(_: int, __: FrameType | None) -> None:
        nonlocal first
        now, again = monotonic(), first is not None
        if first is None:
            first = now
        elif now - first < ONE_INTERRUPT:
            return
        if is_over(again):
            raise KeyboardInterrupt

    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    before = {one: handler for one, handler in handlers.items() if handler != signal.SIG_IGN}
    for one in before:
        signal.signal(one, handle)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
