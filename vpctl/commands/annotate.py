"""Have pictures judged by a multimodal model."""

import asyncio
import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from itertools import groupby
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .. import plugins, progress
from ..errors import RecordFailed, Refused
from ..options import STDIO, Device, Input, Output, Roots, Seed, option, plugin
from ..plugins import Aspect, Verdicts
from ..records import Image, Judgement, digest, judgement_key
from ..streams import Out, folder_of, in_background, read

if TYPE_CHECKING:
    from PIL import Image as PIL

Annotator = Callable[["str", "list[PIL.Image]", Aspect], "Verdicts | Awaitable[Verdicts]"]

SOME_FAILED = 3


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


async def judged(judgement: Judgement, pictures: "list[PIL.Image]", aspect: Aspect, annotate: Annotator) -> Judgement:
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


async def judge_all(
    groups: AsyncIterable[list[Image]],
    aspects: list[Aspect],
    annotate: Annotator,
    *,
    name: str,
    seed: int,
    in_flight: int,
    open_picture: "Callable[[str], PIL.Image]",
    claim: Callable[[str], bool],
    emit: Callable[[Judgement], None],
) -> int:
    """Judge every group on every aspect, `in_flight` calls at a time, and emit each judgement once it is there.

    Returns how many could not be judged; each is reported.
    """
    failed = 0
    slots = asyncio.Semaphore(in_flight)

    async def one(judgement: Judgement, pictures: "list[PIL.Image]", aspect: Aspect) -> None:
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


def annotate(
    images: Input,
    out: Output = STDIO,
    *,
    annotator: Annotated[str, plugin("annotator", help="Who judges.", show_default="shapes, the pixel judge")] = "",
    aspect: Annotated[
        list[str] | None,
        plugin(
            "aspect", help="What to judge; repeatable; a Markdown file of your own too.", show_default="all there are"
        ),
    ] = None,
    in_flight: Annotated[
        int, option("--concurrency", metavar="N", min=1, help="Calls under way at once, for an annotator on a server.")
    ] = 16,
    root: Roots = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Have pictures judged by a multimodal model.

    Neighbouring records of one prompt are judged together, one call for each aspect, the pictures in an order shuffled
    for each call. Every judgement is written as soon as it is there: with --out FILE an interrupted run goes on where
    it stopped, and new pictures are judged without asking again for the old ones.

    A refusal is recorded as one, in `refused`, and never as a score. A call that fails is reported and left out of the
    output, so that the next run tries it again; the exit is then 3.

    Examples:

        vpctl annotate images/metadata.jsonl --annotator openai:gpt-4o --out judgements.jsonl

        vpctl generate prompts.jsonl | vpctl annotate - | vpctl merge - > pairs.jsonl
    """
    spec = plugins.check("annotator", annotator or "shapes")
    aspects = [plugins.aspect(name) for name in aspect or plugins.aspects()]
    if not annotator:
        progress.note("no --annotator is named: judging with the pixel judge of the built-in shapes world")
    with Out(out, Judgement, judgement_key) as sink:
        from ..images import Pictures

        pictures = Pictures([folder_of(images), *(root or [])])
        with progress.Counter("judgements", None) as count:

            def emit(judgement: Judgement) -> None:
                sink.write(judgement)
                count()

            work = judge_all(
                in_background(grouped(read(images, Image))),
                aspects,
                plugins.load("annotator", spec, device=device),
                name=spec,
                seed=seed,
                in_flight=in_flight,
                open_picture=pictures.open,
                claim=sink.claim,
                emit=emit,
            )
            try:
                failed = asyncio.run(work)
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
        progress.finished(f"{count.total} judgements", resumed=sink.resumed, failed=failed)
    if failed:
        raise typer.Exit(SOME_FAILED)
