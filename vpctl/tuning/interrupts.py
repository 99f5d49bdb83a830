"""Interrupts of a training: they end it where its state can be kept."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def deferred(is_over: Callable[[int], bool]) -> Iterator[None]:
    """Within, SIGINT and SIGTERM raise `KeyboardInterrupt` only where `is_over` says so, given how many came so far.

    A signal that is ignored stays ignored. Outside the main thread, where Python delivers no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    number = 0

    def handle(_: int, __: FrameType | None) -> None:
        nonlocal number
        number += 1
        if is_over(number):
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
