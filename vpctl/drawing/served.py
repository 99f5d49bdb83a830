"""Calls of generators on servers. They run in an event loop of a thread of its own, while other generators draw."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from .. import flow, plugins, progress
from ..contracts import AsyncGenerator
from ..errors import LimitReached, Stopped, UserError

T = TypeVar("T")


class Calls:
    """Calls of `generators`, which are given by their SPECs, for at most `max_time` seconds.

    A call that raises `UserError` ends the run: no new one begins, the others finish, and the error is raised at the
    end of the context. `at_once` is how many calls are worth having in progress.

    So does an interrupt, if the result of a call is still awaited; then the context ends with `KeyboardInterrupt`. A
    second interrupt is raised at once.
    """

    def __init__(
        self, generators: Mapping[str, AsyncGenerator], *, at_once: int, max_time: float | None = None
    ) -> None:
        self.at_once = at_once
        self.interrupted = False
        self._awaited = 0
        self._generators, self._max_time = generators, max_time
        self._ready: Future[None] = Future()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._fatal: UserError | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result()
        self._before: Any = None
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it when all calls have ended. `KeyboardInterrupt` cancels those that still run."""
        if kind:
            self.stop("interrupted")
        if kind and issubclass(kind, KeyboardInterrupt):
            self._loop.call_soon_threadsafe(self._cancel)
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if self.interrupted and kind in (None, Stopped):
            raise KeyboardInterrupt from None
        if self._error and not kind:
            raise self._error

    @property
    def stopped(self) -> bool:
        """Whether no new call may begin."""
        return self._stop_signal.stopped

    @property
    def failed(self) -> bool:
        """Whether a call has shown that no further one can succeed. A limit that is reached does not show that."""
        return self._fatal is not None and not isinstance(self._fatal, LimitReached)

    def stop(self, why: str) -> None:
        """Begin no new call. Those that run finish: they are paid for."""
        self._loop.call_soon_threadsafe(self._stop_signal.stop, why)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. It may have come in the middle of a message, so another thread prints ours."""
        if self.interrupted or not self._awaited:
            signal.default_int_handler(number, frame)
        self.interrupted = True
        self.stop("interrupted")
        self._loop.call_soon_threadsafe(progress.note, flow.WAITING)

    def submit(self, work: Coroutine[Any, Any, T]) -> Callable[[], T | None]:
        """Begin a call. What is returned waits for its result: None if the run has stopped before it was answered."""
        future = asyncio.run_coroutine_threadsafe(self._attended(work), self._loop)
        self._awaited += 1

        def result() -> T | None:
            found = future.result()
            self._awaited -= 1
            return found

        return result

    async def _attended(self, work: Coroutine[Any, Any, T]) -> T | None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            return await work
        except Stopped:
            return None
        except UserError as error:
            self._fatal = self._fatal or error
            self._stop_signal.stop(str(error))
            return None
        finally:
            self._tasks.discard(task)

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _run(self) -> None:
        try:
            flow.run(self._serve, max_time=self._max_time)
        except BaseException as error:
            self._error = error
            if not self._ready.done():
                self._ready.set_exception(error)

    async def _serve(self, stop_signal: flow.StopSignal) -> None:
        self._loop, self._closed, self._stop_signal = asyncio.get_running_loop(), asyncio.Event(), stop_signal
        async with AsyncExitStack() as contexts:
            for spec, one in self._generators.items():
                with plugins.blamed("generator", spec):
                    await contexts.enter_async_context(one.running(stop_signal))
            self._ready.set_result(None)
            await self._closed.wait()
            while self._tasks:
                await asyncio.wait(self._tasks)
        if self._fatal:
            raise self._fatal
