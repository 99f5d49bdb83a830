"""Annotators that are plain functions or coroutine functions."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from .. import plugins
from ..contracts import Annotator, Question, Verdicts
from ..flow import StopSignal
from .answers import check_numbers, fault_of
from .questions import comparison_scores


def as_annotator(made: Any) -> Annotator:
    """The result of `plugins.load` for an annotator as an `Annotator`. A function is wrapped."""
    is_function = not plugins.implements(made, Annotator)
    return FunctionAnnotator(made) if is_function else cast(Annotator, made)


class FunctionAnnotator(Annotator):
    """An annotator made from a function ``(prompt, pictures, aspect) -> Verdicts``, which may be a coroutine function.

    A plain function runs in a thread, one call at a time, so a slow one does not block the event loop. The threads are
    daemon threads: a running call does not delay the end of the process.
    """

    preparing = 1
    """One prompt at a time, so that judgements come out in the order of the input and every run is the same."""

    def __init__(self, annotate: Callable[..., Any]) -> None:
        self._annotate = annotate
        self._waits = inspect.iscoroutinefunction(annotate) or inspect.iscoroutinefunction(type(annotate).__call__)
        self._turn = asyncio.Lock()
        self._stop_signal: StopSignal | None = None

    @asynccontextmanager
    async def running(self, stop_signal: StopSignal) -> AsyncIterator[None]:
        """Calls that wait for their turn raise `Stopped` once `stop_signal` is set."""
        self._stop_signal = stop_signal
        yield

    async def ask(self, question: Question) -> list[Verdicts]:
        """One `Verdicts` for each aspect. The function is called once for each aspect."""
        found = []
        for aspect in question.aspects:
            arguments = (question.prompt, list(question.pictures), aspect)
            if self._waits:
                verdicts = await self._annotate(*arguments)
            else:
                verdicts = await self._in_its_turn(*arguments)
                verdicts = await verdicts if inspect.isawaitable(verdicts) else verdicts
            if question.mode == "pair" and isinstance(verdicts, Verdicts) and not fault_of(verdicts):
                check_numbers(verdicts, 2)
                verdicts = verdicts._replace(scores=comparison_scores(verdicts.scores))
            found.append(verdicts)
        return found

    async def _in_its_turn(self, *arguments: Any) -> Any:
        async with self._turn:
            if self._stop_signal:
                self._stop_signal.check()
            return await _in_a_thread(lambda: self._annotate(*arguments))


async def _in_a_thread(call: Callable[[], Any]) -> Any:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error:
            done.set_exception(error)
        else:
            done.set_result(result)

    def work() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the event loop is already closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, daemon=True).start()
    return await done
