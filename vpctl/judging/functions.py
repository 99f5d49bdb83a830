"""Annotators that are functions."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from .. import plugins
from ..contracts import Annotator, Question, Verdicts
from ..flow import Brake
from .answers import check_numbers
from .questions import compared


def as_annotator(made: Any) -> Annotator:
    """What `plugins.load` returned for an annotator, which may be a function, as an `Annotator`."""
    is_function = not plugins.is_a(made, Annotator)
    return FunctionAnnotator(made) if is_function else cast(Annotator, made)


class FunctionAnnotator(Annotator):
    """An annotator of a function ``(prompt, pictures, aspect) -> Verdicts``, which may be a coroutine function.

    A plain function is called in a thread, one call at a time, so a slow one holds up nothing else. The thread dies
    with the process: no call can hold up its end.
    """

    preparing = 1
    """So that what it judges comes out in the order of the input, and every run of it is the same."""

    def __init__(self, annotate: Callable[..., Any]) -> None:
        self._annotate = annotate
        self._waits = inspect.iscoroutinefunction(annotate) or inspect.iscoroutinefunction(type(annotate).__call__)
        self._turn = asyncio.Lock()
        self._brake: Brake | None = None

    @asynccontextmanager
    async def running(self, brake: Brake) -> AsyncIterator[None]:
        """Whoever waits for its turn gets `Stopped` once `brake` is pulled."""
        self._brake = brake
        yield

    async def ask(self, question: Question) -> list[Verdicts]:
        """One `Verdicts` for each aspect, from a call of its own."""
        found = []
        for aspect in question.aspects:
            arguments = (question.prompt, list(question.pictures), aspect)
            if self._waits:
                verdicts = await self._annotate(*arguments)
            else:
                verdicts = await self._in_its_turn(*arguments)
                verdicts = await verdicts if inspect.isawaitable(verdicts) else verdicts
            if question.mode == "pair" and isinstance(verdicts, Verdicts):
                check_numbers(verdicts, 2)
                verdicts = verdicts._replace(scores=compared(verdicts.scores))
            found.append(verdicts)
        return found

    async def _in_its_turn(self, *arguments: Any) -> Any:
        async with self._turn:
            if self._brake:
                self._brake.check()
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
        with suppress(RuntimeError):  # the loop has ended before us
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, daemon=True).start()
    return await done
