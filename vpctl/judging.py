"""Judging pictures: many calls to an annotator at once, each judgement out as soon as it is there."""

import asyncio
import contextlib
import inspect
import math
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from itertools import groupby
from random import Random
from typing import Any, TypeVar, cast

from PIL import Image as PIL

from . import progress
from .errors import RecordFailed, Refused, UserError
from .plugins import Aspect, Verdicts
from .records import Image, Judgement, digest, judgement_key

T = TypeVar("T")

Annotator = Callable[[str, list[PIL.Image], Aspect], Verdicts | Awaitable[Verdicts]]


def unjudged(images: list[Image], aspect: Aspect, annotator: str, seed: int) -> Judgement:
    """The judgement of one prompt's pictures on one aspect, with all but its scores.

    `order` is in which order the annotator is to see the pictures, shuffled by prompt, aspect, pictures and seed.
    """
    first = images[0]
    image_ids = [image["image_id"] for image in images]
    order = list(range(len(images)))
    Random(digest([first["prompt_id"], aspect.name, sorted(image_ids), seed])).shuffle(order)
    inherited: dict[str, object] = {key: first[key] for key in ("source_prompt", "split") if key in first}
    record = {
        "prompt_id": first["prompt_id"],
        "prompt": first["prompt"],
        **inherited,
        "aspect": aspect.name,
        "annotator": annotator,
        "image_ids": image_ids,
        "file_names": [image["file_name"] for image in images],
        "scores": [],
        "order": order,
    }
    return cast(Judgement, record)


async def judged(judgement: Judgement, pictures: list[PIL.Image], aspect: Aspect, annotate: Annotator) -> Judgement:
    """The judgement with its scores and rationales put back into the order of its pictures."""
    order = judgement["order"]
    try:
        answer = annotate(judgement["prompt"], [pictures[index] for index in order], aspect)
        verdicts = await answer if inspect.isawaitable(answer) else answer
    except Refused as refusal:
        return {**judgement, "refused": str(refusal)}
    _check_verdicts(verdicts, len(pictures))
    done: Judgement = {
        **judgement,
        "scores": _put_back(verdicts.scores, order),
        "rationales": _put_back(verdicts.rationales, order),
    }
    if verdicts.usage:
        done["usage"] = verdicts.usage
    return done


def _check_verdicts(verdicts: Verdicts, pictures: int) -> None:
    """What is not a number cannot be compared, and JSON cannot say it."""
    for name, values in (("scores", verdicts.scores), ("rationales", verdicts.rationales)):
        if len(values) != pictures:
            raise RecordFailed(f"the annotator gave {len(values)} {name} for {pictures} pictures")
    for score in verdicts.scores:
        if not math.isfinite(score):
            raise RecordFailed(f"the annotator gave {score}, which is no score")


def _put_back(shuffled: list[Any], order: list[int]) -> list[Any]:
    back = [None] * len(order)
    for position, index in enumerate(order):
        back[index] = shuffled[position]
    return back


def judge(images: Iterator[Image], aspects: list[Aspect], annotate: Annotator, **how: Any) -> int:
    """`judge_all` for neighbouring pictures of one prompt, in an event loop of its own."""
    try:
        return asyncio.run(judge_all(in_background(grouped(images)), aspects, annotate, **how))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def judge_all(
    groups: AsyncIterable[list[Image]],
    aspects: list[Aspect],
    annotate: Annotator,
    *,
    name: str,
    seed: int,
    in_flight: int,
    open_picture: Callable[[str], PIL.Image],
    claim: Callable[[str], bool],
    emit: Callable[[Judgement], None],
) -> int:
    """Judge every group on every aspect, `in_flight` calls at a time, and emit each judgement once it is there.

    Returns how many could not be judged; each is reported. Where the input is not right, or the annotator says that no
    further call could do better, calls that are under way are let end first: they have been paid for.
    """
    failed = 0
    slots = asyncio.Semaphore(in_flight)
    asyncio.get_running_loop().set_exception_handler(_unless_interrupted)
    fatal: UserError | None = None

    async def one(judgement: Judgement, pictures: list[PIL.Image], aspect: Aspect) -> None:
        nonlocal failed, fatal
        try:
            emit(await judged(judgement, pictures, aspect, annotate))
        except UserError as error:
            fatal = fatal or error
            reader.cancel()
        except RecordFailed as failure:
            failed += 1
            progress.warn(f"{judgement['prompt'][:60]!r}, {aspect.name}: {failure}")
        finally:
            slots.release()

    async def all_of(calls: asyncio.TaskGroup) -> None:
        nonlocal fatal
        try:
            async for images in groups:
                await each(images, calls)
        except UserError as error:
            fatal = fatal or error

    async def each(images: list[Image], calls: asyncio.TaskGroup) -> None:
        nonlocal failed
        wanted = [(unjudged(images, aspect, name, seed), aspect) for aspect in aspects]
        wanted = [(judgement, aspect) for judgement, aspect in wanted if claim(judgement_key(judgement))]
        if not wanted:
            return
        try:
            pictures = await asyncio.to_thread(lambda names: [*map(open_picture, names)], wanted[0][0]["file_names"])
        except RecordFailed as failure:
            failed += len(wanted)
            progress.warn(str(failure))
            return
        for judgement, aspect in wanted:
            await slots.acquire()
            calls.create_task(one(judgement, pictures, aspect))

    async with asyncio.TaskGroup() as calls:
        reader = calls.create_task(all_of(calls))
    if fatal:
        raise fatal
    return failed


def _unless_interrupted(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report what nobody waits for, but not that an interrupt came while another was being dealt with."""
    if not isinstance(context.get("exception"), KeyboardInterrupt):
        loop.default_exception_handler(context)


def grouped(images: Iterator[Image]) -> Iterator[list[Image]]:
    """Neighbouring pictures of one prompt, together."""
    for _, neighbours in groupby(images, key=lambda image: image["prompt_id"]):
        yield list(neighbours)


async def in_background(items: Iterator[T]) -> AsyncIterator[T]:
    """The items, taken from a blocking iterator by a thread that is at most one ahead.

    The thread dies with the process: a read from a silent pipe cannot hold up an interrupt.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()
    taken_over = threading.Semaphore(0)

    def take() -> None:
        end: BaseException | None = None
        try:
            for item in items:
                loop.call_soon_threadsafe(queue.put_nowait, (item,))
                taken_over.acquire()
        except BaseException as error:
            end = error
        with contextlib.suppress(RuntimeError):  # the loop has ended before us
            loop.call_soon_threadsafe(queue.put_nowait, end)

    threading.Thread(target=take, daemon=True).start()
    while (taken := await queue.get()) is not None:
        if isinstance(taken, BaseException):
            raise taken
        taken_over.release()
        yield taken[0]
