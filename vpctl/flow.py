"""Concurrent work in one event loop: reading ahead, results in the order of the input, and stopping early.

A run that stops early finishes the work in progress, because that is paid for, and begins nothing new.
"""

import asyncio
import contextlib
import queue
import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any, TypeVar

from . import progress
from .errors import LimitReached, Stopped, UserError

T = TypeVar("T")
R = TypeVar("R")

WAITING = "interrupted: waiting for running work to finish; interrupt again to stop immediately"
"""What is said at the first interrupt."""


class StopSignal:
    """Stops a run early, after an interrupt or when a limit is reached.

    Once `stopped` is true, finish the work in progress and begin nothing new; `why` is the reason. `check()` and
    `await sleep(seconds)` raise `Stopped` of vpctl.errors once it is set; let this error pass. The second
    interrupt cancels the work in progress, too.
    """

    def __init__(self) -> None:
        self.why = self._way_out = ""
        self._interrupted = False
        self._waiting: list[Callable[[], object]] = []
        self._set = asyncio.Event()

    @property
    def stopped(self) -> bool:
        """Whether nothing new may begin."""
        return self._set.is_set()

    def stop(self, why: str, way_out: str = "run the same command again to continue") -> None:
        """Begin nothing new from now on; the first reason counts. `way_out` is what the user can do about it."""
        if not self.stopped:
            self.why, self._way_out = why, way_out
            self._set.set()
            for call in self._waiting:
                call()

    def on_stop(self, call: Callable[[], object]) -> None:
        """Register `call`, which is called when the signal is set."""
        self._waiting.append(call)

    def check(self) -> None:
        """Raise `Stopped` if the signal is set."""
        if self.stopped:
            raise Stopped

    async def sleep(self, seconds: float) -> None:
        """Wait for this time. Raise `Stopped` as soon as the signal is set."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._set.wait(), seconds)
        self.check()

    def interrupt(self, all_of_it: "asyncio.Task[Any]") -> None:
        """Handle an interrupt: the first stops the run in order, the second cancels it."""
        if self._interrupted:
            all_of_it.cancel()
            return
        self._interrupted = True
        self.stop("interrupted")
        progress.note(WAITING)

    def end(self) -> None:
        """Raise `KeyboardInterrupt` or `LimitReached` if the run ended early."""
        if self._interrupted:
            raise KeyboardInterrupt
        if self.stopped:
            raise LimitReached(f"stopped: {self.why}; {self._way_out}")


class WeightedSemaphore:
    """Limits what is in use at the same time, such as pixels, to `most` in total. A single use may exceed the limit."""

    def __init__(self, most: float) -> None:
        self._most, self._taken = most, 0.0
        self._given_back = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def holding(self, size: float) -> AsyncIterator[None]:
        """Wait until there is room for `size`, and use it while the block lasts."""
        async with self._given_back:
            await self._given_back.wait_for(lambda: not self._taken or self._taken + size <= self._most)
            self._taken += size
        try:
            yield
        finally:
            self._taken -= size
            async with self._given_back:
                self._given_back.notify_all()


def run(work: Callable[[StopSignal], Coroutine[Any, Any, R]], *, max_time: float | None = None) -> R:
    """Run `work` in a new event loop and return its result. Interrupts, and `max_time` in seconds, set the stop signal.

    Raises `KeyboardInterrupt` or `LimitReached` at the end if the stop signal was set. If a group of tasks raised
    errors, only the first of them is raised.
    """

    async def all_of_it() -> R:
        stop_signal = StopSignal()
        if max_time is not None:
            asyncio.get_running_loop().call_later(max_time, stop_signal.stop, f"--max-time of {max_time:g} s is over")
        with _signals(stop_signal):
            try:
                result = await work(stop_signal)
            except asyncio.CancelledError:
                raise KeyboardInterrupt from None
        stop_signal.end()
        return result

    try:
        return asyncio.run(all_of_it())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


@contextlib.contextmanager
def _signals(stop_signal: StopSignal) -> Iterator[None]:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task
    loop.set_exception_handler(_unless_interrupted)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    before = {one: handler for one, handler in handlers.items() if handler != signal.SIG_IGN}
    for one in before:
        loop.add_signal_handler(one, stop_signal.interrupt, task)
    try:
        yield
    finally:
        for one, handler in before.items():
            loop.remove_signal_handler(one)
            signal.signal(one, handler)


def _unless_interrupted(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report errors that no task waits for, except an interrupt during the handling of another interrupt."""
    if not isinstance(context.get("exception"), KeyboardInterrupt):
        loop.default_exception_handler(context)


def hand_over(
    items: Iterator[T], put: Callable[[tuple[T] | BaseException | None], object], most: int = 1
) -> tuple[threading.Semaphore, Callable[[], None]]:
    """Have a thread `put` each item, in a tuple, and at the end None or the error that `items` raised.

    The thread makes `most` items, and one more for each time that the semaphore is released. The function that is
    returned with it ends the thread. The thread also dies with the process: a read from a silent pipe cannot delay an
    interrupt.
    """
    taken = threading.Semaphore(most - 1)
    ended = threading.Event()

    def make() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                put((item,))
                del item  # it would stay in memory while the next one is made
                taken.acquire()
                if ended.is_set():
                    return
        except BaseException as raised:
            error = raised
        finally:
            if isinstance(items, Generator):  # with it, what it reads from
                items.close()
        with contextlib.suppress(RuntimeError):  # the event loop has ended first
            put(error)

    def end() -> None:
        ended.set()
        taken.release()

    threading.Thread(target=make, daemon=True).start()
    return taken, end


def ahead(items: Iterator[T], *, is_large: Callable[[T], bool] = lambda _: False) -> Generator[T, None, None]:
    """Yield the items. A thread makes them, at most one ahead.

    After a large item, the thread waits until the caller asks for the next one. No reference to an item is kept here,
    so its memory can be freed before the next one is made.
    """
    made: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()
    taken, end = hand_over(items, made.put)
    try:
        while (one := made.get()) is not None:
            if isinstance(one, BaseException):
                raise one
            [item] = one
            del one
            large = is_large(item)
            if not large:
                taken.release()
            yield item
            del item
            if large:
                taken.release()
    finally:
        end()


async def in_background(items: Iterator[T]) -> AsyncIterator[T]:
    """Yield the items of a blocking iterator in an event loop. A thread reads them, at most one ahead."""
    loop = asyncio.get_running_loop()
    made: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()
    taken, end = hand_over(items, lambda one: loop.call_soon_threadsafe(made.put_nowait, one))
    try:
        while (one := await made.get()) is not None:
            if isinstance(one, BaseException):
                raise one
            taken.release()
            yield one[0]
    finally:
        end()


async def in_order(
    items: AsyncIterator[T], work: Callable[[T], Awaitable[R]], *, at_once: int, stop_signal: StopSignal
) -> AsyncGenerator[R, None]:
    """Yield the result of `work` for each item, in the order of the items, with `at_once` items in progress.

    A result is yielded as soon as it and all results before it are complete. After the stop signal, no new item is
    begun. The items in progress finish, and their results are yielded, because they are paid for; an item that raises
    `Stopped` has no result. If an item raises `UserError`, the same happens, and the error is raised at the end.
    """
    under_way: set[asyncio.Task[R]] = set()
    arrived: asyncio.Queue[asyncio.Task[R] | None] = asyncio.Queue()
    slots = asyncio.Semaphore(at_once)

    async def start(item: T) -> R:
        try:
            return await work(item)
        except UserError as error:
            stop_signal.stop(str(error))  # before anybody else has a turn
            raise
        finally:
            slots.release()

    async def feed() -> None:
        try:
            async for item in items:
                await slots.acquire()
                stop_signal.check()
                under_way.add(task := asyncio.ensure_future(start(item)))
                task.add_done_callback(under_way.discard)
                arrived.put_nowait(task)
        except Stopped:
            pass
        finally:
            arrived.put_nowait(None)

    feeder = asyncio.ensure_future(feed())
    stop_signal.on_stop(feeder.cancel)
    fatal: UserError | None = None
    try:
        while (task := await arrived.get()) is not None:
            try:
                result = await task
            except Stopped:
                continue
            except UserError as error:
                fatal = fatal or error
                continue
            yield result
        with contextlib.suppress(asyncio.CancelledError):
            await feeder
        if fatal:
            raise fatal
    finally:
        for one in [feeder, *under_way]:
            one.cancel()
