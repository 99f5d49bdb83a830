"""Clean raw prompts, and drop unsafe prompts and duplicates."""

import os
import re
from collections import Counter
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import ExitStack
from typing import Annotated

from .. import plugins, progress
from ..configs import ServerConfig
from ..contracts import AsyncPolisher
from ..errors import LimitReached, SomeFailed, UserError
from ..models import sources
from ..options import STDIO, Device, Output, Prompts, option, options, plugin
from ..prompts.duplicates import Distinct
from ..prompts.polishing import Polishing, original, scored, too_long
from ..records import MAX_PROMPT_CHARS, ORIGINAL_SUFFIX, Prompt, prompt_key
from ..streams.places import beside
from ..streams.reading import count, read_prompts
from ..streams.writing import Out

CLIP_READS = 75
"""Tokens of a prompt that Stable Diffusion sees: 77 less the marks for its beginning and end."""

SCORED_AT_ONCE = 32
"""Prompts that --unsafe-model scores in one batch."""
AGAIN = {"failed": "failed: ", "refused": "unsafe: refused by the model: "}
"""The reasons of dropped prompts that --retry tries again, as `dropped` begins with them."""
NSFW_THRESHOLD = 0.5
"""Detoxify learns the share of people who call a text toxic: above a half, most do."""


class Outputs:
    """The files of a run: `kept` prompts, and `apart` those that are dropped. They tell how the run went.

    `counts` has the number of prompts of each kind, and `reasons` the number dropped for each reason. With
    `keep_original` the original form of each kept prompt is written after it.
    """

    def __init__(self, kept: Out, apart: Out | None, distinct: Distinct, *, keep_original: bool) -> None:
        from ..prompts.clip_tokens import ClipTokens

        self._kept, self._apart, self._distinct, self._keep_original = kept, apart, distinct, keep_original
        self._tokens = ClipTokens()
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def fresh(self, prompts: Iterable[Prompt]) -> Iterator[Prompt]:
        """The prompts that are in none of the files yet, each once."""
        seen: set[str] = set()
        for prompt in prompts:
            key = prompt_key(prompt)
            if key in seen:
                self.counts["repeated"] += 1
            elif self._kept.claim(key) and (not self._apart or self._apart.claim(key)):
                yield prompt
            seen.add(key)

    def write(self, prompts: Iterable[Prompt]) -> None:
        """Write polished prompts, unless they are duplicates of earlier ones."""
        for one in prompts:
            prompt = self._distinct(one)
            if "dropped" not in prompt:
                self._keep(prompt)
                self.write_original(prompt)
                continue
            self.reasons[re.split(":| of ", prompt["dropped"])[0]] += 1
            if self._apart:
                self._apart.write(prompt)

    def write_original(self, prompt: Prompt) -> None:
        """Write the original form of a kept prompt, if that is wanted and it is not there yet."""
        form = original(prompt) if self._keep_original else None
        if form and self._kept.claim(prompt_key(form)):
            self._keep(form)

    def _keep(self, prompt: Prompt) -> None:
        prompt["clip_tokens"] = self._tokens.count(prompt["prompt"])
        self.counts["long"] += prompt["clip_tokens"] > CLIP_READS
        self.counts["written"] += 1
        self._kept.write(prompt)

    def tell(self, spent: str) -> None:
        """Say how the run went."""
        failed = self.counts["failed"]
        progress.finished(
            progress.plural(self.counts["written"], "prompt"),
            self._kept.target,
            resumed=self._kept.resumed,
            failed=failed,
            more=spent,
        )
        for text in self._notes():
            progress.note(text)

    def _notes(self) -> Iterator[str]:
        counts = self.counts
        if self.reasons:
            listed = f"; see {self._apart.target}" if self._apart else ""
            yield f"dropped: {', '.join(f'{number} {why}' for why, number in self.reasons.most_common())}{listed}"
        if number := self.reasons["too long"]:
            prompts = progress.plural(number, "prompt")
            yield f"{prompts} of more than {MAX_PROMPT_CHARS} characters, the maximum length; shorten or split them"
        if self._apart and self._apart.resumed:
            prompts = progress.plural(self._apart.resumed, "prompt")
            yield f"{prompts} dropped by an earlier run; see {self._apart.target}"
        if counts["rejected"]:
            rewrites = progress.plural(counts["rejected"], "rewrite")
            yield f"{rewrites} rejected and replaced by the text of the rules; see rejected"
        if counts["repeated"]:
            yield f"{progress.plural(counts['repeated'], 'more prompt')} left out: repeats of earlier prompts"
        if long := counts["long"]:
            prompts = progress.plural(long, "prompt")
            yield f"{prompts} of more than the {CLIP_READS} tokens that Stable Diffusion reads; see clip_tokens"


@options(ServerConfig, "server")
def polish(
    prompts: Prompts,
    out: Output = STDIO,
    *,
    polisher: Annotated[
        str,
        plugin(
            "polisher",
            group="Model",
            help="Polisher that cleans the prompts: rules, or a language model such as openai:gpt-4o-mini.",
        ),
    ] = "rules",
    keep_original: Annotated[
        bool,
        option(
            "--keep-original",
            group="Prompt",
            help="Also write the original prompt as a second record, if its words differ from the polished prompt.",
        ),
    ] = False,
    keep_unsafe: Annotated[
        bool,
        option(
            "--keep-unsafe",
            group="Prompt",
            help="Do not drop unsafe prompts: keep them, with the reason in `unsafe`.",
        ),
    ] = False,
    nsfw_threshold: Annotated[
        float,
        option(
            metavar="P", min=0, max=1, group="Prompt", help="A prompt is unsafe if its `prompt_nsfw` is above this."
        ),
    ] = NSFW_THRESHOLD,
    unsafe_model: Annotated[
        str,
        option(
            metavar="MODEL",
            group="Model",
            help="Classifier that computes `prompt_nsfw` for prompts that do not have it: a folder or a hub id, such "
            "as unitary/unbiased-toxic-roberta (Detoxify's model).",
            show_default="none",
        ),
    ] = "",
    similarity: Annotated[
        float,
        option(
            metavar="S",
            min=0,
            max=1,
            group="Prompt",
            help="Drop a prompt as a near duplicate if its similarity to an earlier prompt is at least this. 1 turns "
            "this off: near duplicates are then kept.",
        ),
    ] = 0.8,
    retry: Annotated[
        list[str] | None,
        option(
            "--retry",
            choices=tuple(AGAIN),
            group="Prompt",
            help="Polish dropped prompts again if their answer failed, or if the model refused them; repeatable.",
        ),
    ] = None,
    server: ServerConfig,
    device: Device = "auto",
) -> None:
    """Clean raw prompts, and drop unsafe prompts and duplicates.

    Prompts that people write contain many words that do not describe the picture: quality words, resolutions, lists
    of artists, names of platforms and renderers, contradictory styles. polish removes these words. Then
    annotators judge whether a picture shows what the prompt asks for, and not whose style it copies.

    The input is JSON Lines, or plain text with one prompt per line. Plain text is read only from a .txt file or from
    standard input. The old text is kept as `source_prompt`, and `prompt_id` is the hash of the old text. With
    --keep-original, the old text is also written as a second record; its id is the `prompt_id` with `-original` at the
    end. `clip_tokens` is the length of the new text. Stable Diffusion reads at most 75 tokens.

    polish drops unsafe prompts, duplicates, near duplicates, and prompts that are empty after polishing. It also drops
    prompts of more than 10000 characters as `too long`, because no text encoder reads that much.

    A repeat is a prompt with the same `prompt_id` as an earlier one: the same original text. Repeats are counted, but
    they are in no output. A duplicate is a prompt whose new text has the same words in the same order as the new text
    of an earlier prompt: case, punctuation and spacing do not matter. A near duplicate is not a duplicate, but its
    similarity to an earlier prompt is at least --similarity. For the similarity of two prompts, polish lists every run
    of two or three neighbouring words of each new text. The similarity is the number of runs in both lists, divided by
    the number of runs in either (the Jaccard index).

    A rewrite by a language model is rejected if it adds something, or if it loses the subject of the prompt. Then the
    rules polish the prompt instead, and `rejected` gives the reason.

    A prompt is unsafe if the polisher says so, if the model refuses, or if its `prompt_nsfw` is above --nsfw-threshold.
    `prompt_nsfw` is a column of DiffusionDB.

    With --out prompts.jsonl, dropped prompts go to prompts.dropped.jsonl, with the reason in `dropped`. A resumed run
    skips dropped prompts. --retry tries those again that failed, or that a model refused; their old lines stay in the
    file. To try another dropped prompt again, delete its line.

    If a model's answer for a prompt is unusable, a second call asks again. If that answer is unusable, too, the prompt
    is dropped as `failed`, and only --retry tries it again. If the server fails or rejects the request, the prompt is
    in neither prompts.jsonl nor prompts.dropped.jsonl, and the next run tries again. The exit code is 3 if any record
    failed, and 5 if a limit was reached, or the account is exhausted.

    Examples:

        vpctl polish prompts.txt --out prompts.jsonl

        head -100 prompts.txt | vpctl polish - --polisher openai:gpt-4o-mini

        vpctl polish diffusiondb.jsonl --keep-original --nsfw-threshold 0.2
            --out prompts.jsonl
    """
    spec = plugins.check("polisher", polisher)
    if out.endswith(".txt"):
        raise UserError(f"--out {out}: a .txt file is read as plain text; name a .jsonl file for these records")
    again = tuple(AGAIN[one] for one in retry or [])
    drops = beside(out, "dropped")
    if drops and os.path.realpath(prompts) in map(os.path.realpath, (out, drops)):
        raise UserError(f"{prompts}: is both read and written by this command; name another file with --out")
    if unsafe_model:
        sources.check("unsafe", unsafe_model, option="--unsafe-model ")
    with ExitStack() as files:
        kept = files.enter_context(Out(out, Prompt, prompt_key))

        def dropped_key(prompt: Prompt) -> str:
            return "" if prompt.get("dropped", "").startswith(again) else prompt_key(prompt)

        apart = files.enter_context(Out(drops, Prompt, dropped_key, optional=True)) if drops else None
        work = plugins.load("polisher", spec, device=device, server=server)
        work.check()
        raw = progress.track(read_prompts(prompts), "prompts", total=count(prompts))
        scorer = None
        if unsafe_model:
            from ..prompts.safety import UnsafeModel

            scorer = UnsafeModel(unsafe_model, device=device)
        distinct = Distinct(similarity, known=_polished_in(out) if kept.resumed else ())  # slow for a large output
        outputs = Outputs(kept, apart, distinct, keep_original=keep_original)
        records = outputs.fresh(raw)
        if scorer:
            records = scored(records, scorer, SCORED_AT_ONCE)
        for prompt in [*_polished_in(out)] if keep_original and kept.resumed else ():
            outputs.write_original(prompt)
        is_async = plugins.implements(work, AsyncPolisher)
        polishing = Polishing(
            spec,
            keep_unsafe=keep_unsafe,
            threshold=nsfw_threshold,
            counts=outputs.counts,
            template=work.template if is_async else "",
        )
        chunks = polishing.chunks(records, work.at_once)
        try:
            if is_async:
                _polish_on_a_server(chunks, polishing, work, outputs, server)
            else:
                for chunk in chunks:
                    outputs.write(polishing.polished(chunk, work))
        except (KeyboardInterrupt, LimitReached):
            outputs.tell(work.summary())
            raise
        outputs.tell(work.summary())
    if outputs.counts["failed"] or outputs.reasons["failed"]:
        raise SomeFailed


def _polish_on_a_server(
    chunks: Iterator[list[Prompt]],
    polishing: Polishing,
    polisher: AsyncPolisher,
    outputs: Outputs,
    server: ServerConfig,
) -> None:
    """Polish the chunks with many calls under way; the results are written in their order."""
    from .. import flow

    def work(chunk: list[Prompt]) -> Awaitable[list[Prompt]]:
        return polishing.polished_on_a_server(chunk, polisher)

    async def run(stop_signal: flow.StopSignal) -> None:
        async with polisher.running(stop_signal):
            source = flow.in_background(chunks)
            async for done in flow.in_order(source, work, at_once=server.concurrency, stop_signal=stop_signal):
                outputs.write(done)

    flow.run(run, max_time=server.max_time)


def _polished_in(out: str) -> Iterator[Prompt]:
    """The polished prompts of an output: not the original forms that --keep-original wrote, and none too long."""
    found = (
        one for one in read_prompts(out) if "source_prompt" in one or not prompt_key(one).endswith(ORIGINAL_SUFFIX)
    )
    return (one for one in found if not too_long(one))
