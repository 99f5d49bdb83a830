"""Clean raw prompts for pictures worth judging."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Annotated

from .. import plugins, progress
from ..options import STDIO, Input, Output, option, plugin
from ..plugins import Polished
from ..records import Prompt, prompt_key
from ..streams import Out, count, read_prompts

Polisher = Callable[[list[str]], list[Polished]]

CHUNK = 64
"""Prompts handed to the polisher at once."""


def polished(
    prompts: Iterable[Prompt],
    polish: Polisher,
    *,
    known: Mapping[str, Prompt],
    keep_unsafe: bool,
    dropped: Counter[str],
) -> Iterator[Prompt]:
    """The prompts made clean: `prompt` is the new text, `source_prompt` the old one, `prompt_id` that of the old one.

    Records that are `known` by their id are taken as they are. What is empty afterwards is dropped, and so is what is
    unsafe, unless it is kept with its reason in `unsafe`; `dropped` counts why.
    """
    source = iter(prompts)
    while chunk := list(islice(source, CHUNK)):
        new = [one["prompt"] for one in chunk if prompt_key(one) not in known]
        fresh = iter(polish(new))
        for record in chunk:
            own_id = prompt_key(record)
            if own_id in known:
                yield known[own_id]
                continue
            clean = next(fresh)
            if not clean.prompt or (clean.unsafe and not keep_unsafe):
                dropped["unsafe" if clean.unsafe else "empty"] += 1
                continue
            done: Prompt = {
                **record,
                "prompt": clean.prompt,
                "prompt_id": own_id,
                "source_prompt": record.get("source_prompt", record["prompt"]),
            }
            if clean.unsafe:
                done["unsafe"] = clean.unsafe
            yield done


def distinct(prompts: Iterable[Prompt], similarity: float, dropped: Counter[str]) -> Iterator[Prompt]:
    """The prompts without those that say again what one before them said.

    Texts that differ only in case, punctuation and spacing are the same. Others are compared by the Jaccard similarity
    of their sets of words in pairs, estimated by MinHash: from `similarity` on they are near duplicates; 1 compares
    nothing but the text.
    """
    from ..duplicates import NearDuplicates, plain

    seen: set[str] = set()
    near = NearDuplicates(similarity)
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
    dropped: Counter[str] = Counter()
    with Out(out, Prompt, prompt_key) as sink:
        done_before = {prompt_key(one): one for one in read_prompts(out)} if sink.resumed else {}
        clean = plugins.load("polisher", spec)
        records = progress.track(read_prompts(prompts), "prompts", total=count(prompts))
        written = 0
        for record in distinct(
            polished(records, clean, known=done_before, keep_unsafe=keep_unsafe, dropped=dropped), similarity, dropped
        ):
            if sink.claim(prompt_key(record)):
                sink.write(record)
                written += 1
    reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.most_common())
    progress.finished(f"{written} prompts", resumed=sink.resumed)
    if reasons:
        progress.note(f"dropped: {reasons}")
