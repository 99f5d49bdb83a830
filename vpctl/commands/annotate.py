"""Have pictures judged by a multimodal model."""

from typing import Annotated

import typer

from .. import plugins, progress
from ..options import STDIO, Device, Input, Output, Roots, Seed, option, plugin
from ..records import Image, Judgement, judgement_key
from ..streams import Out, folder_of, read

SOME_FAILED = 3


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
        from ..judging import judge

        with progress.Counter("judgements", None) as count:

            def emit(judgement: Judgement) -> None:
                sink.write(judgement)
                count()

            failed = judge(
                read(images, Image),
                aspects,
                plugins.load("annotator", spec, device=device),
                name=spec,
                seed=seed,
                in_flight=in_flight,
                open_picture=Pictures([folder_of(images), *(root or [])]).open,
                claim=sink.claim,
                emit=emit,
            )
        progress.finished(f"{count.total} judgements", resumed=sink.resumed, failed=failed)
    if failed:
        raise typer.Exit(SOME_FAILED)
