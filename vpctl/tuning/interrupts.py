"""Interrupts of a training: they end it where its state can be kept."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from types import FrameType

ONE_INTERRUPT = 1.0
"""Seconds after the first signal in which others count as the same interrupt.

A terminal, `timeout` and launchers of process groups send several signals for one.
"""


@contextlib.contextmanager
def deferred(is_over: Callable[[bool], bool]) -> Iterator[None]:
    """Within, SIGINT and SIGTERM raise `KeyboardInterrupt` only where `is_over` says so.

    It is asked for the first signal, with False, and for each that comes more than `ONE_INTERRUPT` after it, with True.
    A signal that is ignored stays ignored. Outside the main thread, where Python delivers no signals, nothing changes.
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
