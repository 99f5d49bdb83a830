"""Clean raw prompts for pictures worth judging."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Annotated

import typer

from .. import plugins, progress
from ..errors import RecordFailed, UserError
from ..options import STDIO, Input, Output, option, plugin
from ..plugins import Polished
from ..records import Prompt, prompt_key
from ..streams import Out, count, read_prompts

Polisher = Callable[[list[str]], Sequence[Polished | RecordFailed]]

FAILED = "failed"
SOME_FAILED = 3


def polished(
    prompts: Iterable[Prompt], polish: Polisher, *, keep_unsafe: bool, dropped: Counter[str]
) -> Iterator[Prompt]:
    """The prompts made clean: `prompt` is the new text, `source_prompt` the old one, `prompt_id` that of the old one.

    What is empty afterwards is dropped, and so is what is unsafe, unless it is kept with its reason in `unsafe`; so is,
    with a warning, what could not be done. `dropped` counts why.
    """
    source, at_once = iter(prompts), getattr(polish, "at_once", 1)
    while chunk := list(islice(source, at_once)):
        for record, clean in zip(chunk, polish([one["prompt"] for one in chunk]), strict=True):
            if isinstance(clean, RecordFailed):
                progress.warn(str(clean))
                dropped[FAILED] += 1
            elif not clean.prompt:
                dropped["empty"] += 1
            elif clean.unsafe and not keep_unsafe:
                dropped["unsafe"] += 1
            else:
                done: Prompt = {
                    **record,
                    "prompt": clean.prompt,
                    "prompt_id": prompt_key(record),
                    "source_prompt": record.get("source_prompt", record["prompt"]),
                }
                yield {**done, "unsafe": clean.unsafe} if clean.unsafe else done


def distinct(
    prompts: Iterable[Prompt], similarity: float, *, known: Iterable[str], dropped: Counter[str]
) -> Iterator[Prompt]:
    """The prompts without those that say again what one before them, or a `known` text, said.

    Texts that differ only in case, punctuation and spacing are the same. Others are near duplicates from a Jaccard
    similarity of their runs of words of `similarity` on; 1 compares nothing but the text.
    """
    from ..duplicates import NearDuplicates, plain

    seen: set[str] = set()
    near = NearDuplicates(similarity)
    for text in map(plain, known):
        seen.add(text)
        near.knows(text)
    for prompt in prompts:
        text = plain(prompt["prompt"])
        if text in seen:
            dropped["duplicate"] += 1
        elif similarity < 1 and near.knows(text):
            dropped["near duplicate"] += 1
        else:
            seen.add(text)
            yield prompt


def polish(
    prompts: Input,
    out: Output = STDIO,
    *,
    polisher: Annotated[
        str, plugin("polisher", help="What cleans: rules, or a language model, as openai:gpt-4o-mini.")
    ] = "rules",
    keep_unsafe: Annotated[
        bool,
        option("--keep-unsafe", help="Flag unsafe prompts with their reason in `unsafe` instead of dropping them."),
    ] = False,
    similarity: Annotated[
        float,
        option(
            metavar="S",
            min=0,
            max=1,
            help="Drop prompts this similar to an earlier one; 1 drops exact duplicates only.",
        ),
    ] = 0.8,
) -> None:
    """Clean raw prompts for pictures worth judging.

    People's prompts are full of what is no content: quality and resolution words, lists of artists, names of platforms
    and renderers, styles that contradict each other. Polishing takes it away, so that what is judged is whether a
    picture shows what was asked for, and not whose style it apes. Unsafe prompts, exact and near duplicates, and what
    is empty afterwards are dropped.

    Reads JSON Lines, or plain text with one prompt a line, from a .txt file or standard input. The old text is kept as
    `source_prompt`, and `prompt_id` is its hash.

    Examples:

        vpctl polish prompts.txt --out prompts.jsonl

        head -100 prompts.txt | vpctl polish - --polisher openai:gpt-4o-mini
    """
    spec = plugins.check("polisher", polisher)
    if out.endswith(".txt"):
        raise UserError(f"--out {out}: a .txt file is read as plain text; name a .jsonl file for these records")
    dropped: Counter[str] = Counter()
    written = 0
    with Out(out, Prompt, prompt_key) as sink:
        known = [one["prompt"] for one in read_prompts(out)] if sink.resumed else []
        raw = progress.track(read_prompts(prompts), "prompts", total=count(prompts))
        new = (one for one in raw if sink.claim(prompt_key(one)))
        clean = polished(new, plugins.load("polisher", spec), keep_unsafe=keep_unsafe, dropped=dropped)
        for record in distinct(clean, similarity, known=known, dropped=dropped):
            sink.write(record)
            written += 1
    failed = dropped.pop(FAILED, 0)
    reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.most_common())
    progress.finished(f"{written} prompts", resumed=sink.resumed, failed=failed)
    if reasons:
        progress.note(f"dropped: {reasons}")
    if failed:
        raise typer.Exit(SOME_FAILED)
