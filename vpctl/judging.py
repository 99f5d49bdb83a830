"""Judging pictures: many calls to an annotator at once, each judgement out as soon as it is there."""

import asyncio
import contextlib
import inspect
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from itertools import groupby
from random import Random
from typing import Any, TypeVar, cast

from PIL import Image as PIL

from . import progress
from .errors import RecordFailed, Refused
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
    done: Judgement = {
        **judgement,
        "scores": _put_back(verdicts.scores, order),
        "rationales": _put_back(verdicts.rationales, order),
    }
    if verdicts.usage:
        done["usage"] = verdicts.usage
    return done


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

    Returns how many could not be judged; each is reported.
    """
    failed = 0
    slots = asyncio.Semaphore(in_flight)

    async def one(judgement: Judgement, pictures: list[PIL.Image], aspect: Aspect) -> None:
        nonlocal failed
        try:
            emit(await judged(judgement, pictures, aspect, annotate))
        except RecordFailed as failure:
            failed += 1
            progress.warn(f"{judgement['prompt'][:60]!r}, {aspect.name}: {failure}")
        finally:
            slots.release()

    async with asyncio.TaskGroup() as calls:
        async for images in groups:
            wanted = [(unjudged(images, aspect, name, seed), aspect) for aspect in aspects]
            wanted = [(judgement, aspect) for judgement, aspect in wanted if claim(judgement_key(judgement))]
            if not wanted:
                continue
            try:
                pictures = await asyncio.to_thread(
                    lambda names: [*map(open_picture, names)], wanted[0][0]["file_names"]
                )
            except RecordFailed as failure:
                failed += len(wanted)
                progress.warn(str(failure))
                continue
            for judgement, aspect in wanted:
                await slots.acquire()
                calls.create_task(one(judgement, pictures, aspect))
    return failed


def grouped(images: Iterator[Image]) -> Iterator[list[Image]]:
    """Neighbouring pictures of one prompt, together."""
    for _, neighbours in groupby(images, key=lambda image: image["prompt_id"]):
        yield list(neighbours)


async def in_background(items: Iterator[T]) -> AsyncIterator[T]:
    """The items, taken from a blocking iterator by a thread that is at most one ahead.

    The thread dies with the process: a read from a silent pipe cannot hold up an interrupt.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue(1)

    def take() -> None:
        end: BaseException | None = None
        try:
            for item in items:
                asyncio.run_coroutine_threadsafe(queue.put((item,)), loop).result()
        except BaseException as error:
            end = error
        with contextlib.suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(queue.put(end), loop).result()

    threading.Thread(target=take, daemon=True).start()
    while (taken := await queue.get()) is not None:
        if isinstance(taken, BaseException):
            raise taken
        yield taken[0]
