"""Clean raw prompts, and drop unsafe prompts and duplicates."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

from .. import plugins, progress
from ..configs import ServerConfig
from ..contracts import AsyncPolisher, Polished, Polisher
from ..errors import LimitReached, RecordFailed, SomeFailed, Unusable, UserError
from ..models import sources
from ..options import STDIO, Device, Output, Prompts, option, options, plugin
from ..records import LONGEST_PROMPT, ORIGINAL, Prompt, prompt_key
from ..streams.places import beside
from ..streams.reading import count, read_prompts
from ..streams.writing import Out

if TYPE_CHECKING:
    from ..flow import Brake


CLIP_READS = 75
"""Tokens of a prompt that Stable Diffusion sees: 77 less the marks for its beginning and end."""

NSFW_THRESHOLD = 0.5
"""Detoxify learns the share of people who call a text toxic: above a half, most do."""


class Scorer(Protocol):
    """What says how unsafe prompts are."""

    def scores(self, prompts: list[str]) -> list[float]:
        """A number from 0 to 1 for each prompt."""
        ...


def fresh(prompts: Iterable[Prompt], outs: Sequence[Out], counts: Counter[str]) -> Iterator[Prompt]:
    """The prompts that are in none of the outputs yet, each once; `counts` says how many were `repeated`."""
    seen: set[str] = set()
    for prompt in prompts:
        key = prompt_key(prompt)
        if key in seen:
            counts["repeated"] += 1
        elif all(out.claim(key) for out in outs):
            yield prompt
        seen.add(key)


def too_long(prompt: Prompt) -> str:
    """Why a prompt is dropped for its length, or nothing. `source_prompt` counts too: --keep-original writes it."""
    length = max(len(prompt["prompt"]), len(prompt.get("source_prompt", "")))
    return f"too long: {length} characters; the maximum is {LONGEST_PROMPT}" if length > LONGEST_PROMPT else ""


def scored(prompts: Iterable[Prompt], scorer: Scorer, batch: int) -> Iterator[Prompt]:
    """The prompts with `prompt_nsfw`, which those that have it already keep. Prompts that are too long get none."""
    source = iter(prompts)
    while chunk := list(islice(source, batch)):
        unknown = [one for one in chunk if "prompt_nsfw" not in one and not too_long(one)]
        texts = [one.get("source_prompt", one["prompt"]) for one in unknown]
        for one, score in zip(unknown, scorer.scores(texts) if texts else [], strict=True):
            one["prompt_nsfw"] = round(score, 6)
        yield from chunk


def polished(
    prompts: Iterable[Prompt],
    polisher: Polisher,
    *,
    spec: str,
    keep_unsafe: bool,
    threshold: float,
    counts: Counter[str],
) -> Iterator[Prompt]:
    """The prompts made clean: `prompt` is the new text, `source_prompt` the old one, `prompt_id` that of the old one.

    A dropped prompt has the reason in `dropped`: it is too long, before or after polishing, or empty afterwards, or
    unsafe. With `keep_unsafe` an unsafe prompt is kept and has the reason in `unsafe`. A prompt that is dropped for
    what is known before polishing is not polished. A prompt that failed is left out, counted and warned of.
    """
    for chunk in chunks(prompts, polisher.at_once, threshold):
        wanted = wanted_of(chunk, keep_unsafe)
        with plugins.blamed("polisher", spec):
            answers = checked(polisher(wanted), wanted, spec) if wanted else []
        yield from outcomes(chunk, answers, keep_unsafe=keep_unsafe, counts=counts)


def checked(answers: object, prompts: list[str], spec: str) -> list[Polished | RecordFailed]:
    """What a polisher made of the prompts. Raises `UserError` if it is not one `Polished` for each."""
    if not isinstance(answers, list) or not all(isinstance(one, Polished | RecordFailed) for one in answers):
        raise plugins.misfit("polisher", spec, answers)
    if len(answers) != len(prompts):
        results, asked = progress.plural(len(answers), "result"), progress.plural(len(prompts), "prompt")
        raise UserError(f"--polisher {spec}: gave {results} for {asked}")
    for one in answers:
        texts = [*one] if isinstance(one, Polished) else [str(one)]
        if not all(isinstance(text, str) for text in texts):
            raise plugins.misfit("polisher", spec, one, contract="the fields of a Polished are texts")
        plugins.check_texts("polisher", spec, *texts)
    return answers


async def polished_on_a_server(
    prompts: Iterator[Prompt],
    polisher: AsyncPolisher,
    keep: Callable[[Iterable[Prompt]], None],
    *,
    spec: str,
    keep_unsafe: bool,
    threshold: float,
    counts: Counter[str],
    at_once: int,
    brake: "Brake",
) -> None:
    """As `polished`, with `at_once` calls under way; what becomes of the prompts goes to `keep`, in their order."""
    from .. import flow

    async def work(chunk: list[Prompt]) -> list[Prompt]:
        wanted = wanted_of(chunk, keep_unsafe, polisher.template)
        with plugins.blamed("polisher", spec):
            answers = checked(await polisher(wanted), wanted, spec) if wanted else []
        return [*outcomes(chunk, answers, keep_unsafe=keep_unsafe, counts=counts, words=polisher.template)]

    async with polisher.running(brake):
        source = flow.in_background(chunks(prompts, polisher.at_once, threshold))
        async for done in flow.in_order(source, work, at_once=at_once, brake=brake):
            keep(done)


def chunks(prompts: Iterable[Prompt], size: int, threshold: float) -> Iterator[list[Prompt]]:
    """The prompts, so many together, with their ids, what is known of their safety, and `dropped` if too long."""
    source = iter(prompts)
    while chunk := [_begun(one, threshold) for one in islice(source, size)]:
        yield chunk


def wanted_of(chunk: list[Prompt], keep_unsafe: bool, words: str = "") -> list[str]:
    """The texts of a chunk that are to be polished: not those that are dropped whatever becomes of them.

    Nor are those that were polished in the same `words` before: a model may say it in yet another way.
    """
    return [one["prompt"] for one in chunk if _is_wanted(one, keep_unsafe, words)]


def _is_wanted(record: Prompt, keep_unsafe: bool, words: str) -> bool:
    done = bool(words) and record.get("template") == words
    return not done and "dropped" not in record and (keep_unsafe or "unsafe" not in record)


def outcomes(
    chunk: list[Prompt],
    answers: Iterable[Polished | RecordFailed],
    *,
    keep_unsafe: bool,
    counts: Counter[str],
    words: str = "",
) -> Iterator[Prompt]:
    """The records of a chunk with their polished texts; `answers` are the results for the texts of `wanted_of`."""
    left = iter(answers)
    for record in chunk:
        if not _is_wanted(record, keep_unsafe, words):
            drop = "unsafe" in record and "dropped" not in record and not keep_unsafe
            yield _unsafe(record) if drop else record
            continue
        clean = next(left)
        if isinstance(clean, RecordFailed):
            progress.warn_each("prompts could not be polished", str(clean))
            if isinstance(clean, Unusable):
                yield {**record, "dropped": f"failed: {clean}"}
            else:
                counts["failed"] += 1
            continue
        done: Prompt = {
            **record,
            "prompt": clean.prompt,
            "source_prompt": record.get("source_prompt", record["prompt"]),
        }
        if words:
            done["template"] = words
        done.pop("rejected", None)  # of a run before
        if clean.rejected:
            counts["rejected"] += 1
            done["rejected"] = clean.rejected
        if clean.unsafe:
            done["unsafe"] = clean.unsafe
        if not clean.prompt:
            yield {**done, "dropped": "empty"}
        elif reason := too_long(done):
            yield {**done, "dropped": reason}
        elif clean.unsafe and not keep_unsafe:
            yield _unsafe(done)
        else:
            yield done


def _begun(record: Prompt, threshold: float) -> Prompt:
    """A record with its id and what is known of its safety, `dropped` if it is too long and for no earlier reason."""
    begun: Prompt = {**record, "prompt_id": prompt_key(record)}
    begun.pop("dropped", None)
    if reason := too_long(begun):
        begun["dropped"] = reason
    if begun.get("prompt_nsfw", 0.0) > threshold:
        begun.setdefault("unsafe", f"prompt_nsfw: {begun['prompt_nsfw']:.2f}")
    return begun


def _unsafe(record: Prompt) -> Prompt:
    """A record dropped for what is in `unsafe`, which is not left there: who tries it again may see it otherwise."""
    why = record.pop("unsafe")
    return {**record, "dropped": f"unsafe: {why}"}


class Distinct:
    """Gives prompts a reason in `dropped` that say again what one before them, or a `known` one, said.

    Texts that differ only in case, punctuation and spacing are the same. Others are near duplicates from a Jaccard
    similarity of their runs of words of `similarity` on; 1 compares nothing but the text.
    """

    def __init__(self, similarity: float, *, known: Iterable[Prompt]) -> None:
        from ..prompts.duplicates import NearDuplicates, plain

        self._plain = plain
        self._seen: dict[str, str] = {}
        self._near = NearDuplicates(similarity) if similarity < 1 else None
        for prompt in known:
            text = plain(prompt["prompt"])
            self._seen.setdefault(text, prompt_key(prompt))
            if self._near:
                self._near.find(text, prompt_key(prompt))

    def __call__(self, prompt: Prompt) -> Prompt:
        """The prompt, dropped if it is no news, and otherwise remembered."""
        if "dropped" in prompt:
            return prompt
        text, own_id = self._plain(prompt["prompt"]), prompt_key(prompt)
        if text in self._seen:
            return {**prompt, "dropped": f"duplicate of {self._seen[text]}"}
        if self._near and (like := self._near.find(text, own_id)):
            return {**prompt, "dropped": f"near duplicate of {like}"}
        self._seen[text] = own_id
        return prompt


def original(prompt: Prompt) -> Prompt | None:
    """A polished prompt's form as first given, if its words are others; its id is the prompt's and `-original`.

    So the id says which two belong together, is the same in every run, and lets merge and train-rm keep both in one
    part of the data.
    """
    from ..prompts.duplicates import plain

    first = prompt.get("source_prompt", prompt["prompt"])
    if plain(first) == plain(prompt["prompt"]):
        return None
    of_the_rewrite = ("source_prompt", "template", "rejected")
    kept = {key: value for key, value in prompt.items() if key not in of_the_rewrite}
    return cast(Prompt, {**kept, "prompt": first, "prompt_id": prompt_key(prompt) + ORIGINAL})


def originals(prompts: Iterable[Prompt], claim: Callable[[str], bool]) -> Iterator[Prompt]:
    """The forms as first given of polished prompts, as far as they are claimed; dropped prompts have none."""
    for prompt in prompts:
        form = None if "dropped" in prompt else original(prompt)
        if form and claim(prompt_key(form)):
            yield form


def with_originals(prompts: Iterable[Prompt], claim: Callable[[str], bool]) -> Iterator[Prompt]:
    """The prompts, each with its form as first given behind it."""
    for prompt in prompts:
        yield prompt
        yield from originals([prompt], claim)


class Outputs:
    """The files that polished prompts go to: those that are kept, and `apart` those that are dropped; and what is said.

    `counts` says how many there were of a kind, `reasons` why prompts were dropped.
    """

    def __init__(self, kept: Out, apart: Out | None) -> None:
        from ..prompts.clip_tokens import ClipTokens

        self._kept, self._apart = kept, apart
        self._tokens = ClipTokens()
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def write(self, prompts: Iterable[Prompt]) -> None:
        """Write each prompt where it belongs; those that are kept with their length."""
        for prompt in prompts:
            if "dropped" in prompt:
                self.reasons[re.split(":| of ", prompt["dropped"])[0]] += 1
                if self._apart:
                    self._apart.write(prompt)
                continue
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
            yield f"{prompts} of more than {LONGEST_PROMPT} characters, the maximum length; shorten or split them"
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
            "this off: then only duplicates are dropped.",
        ),
    ] = 0.8,
    server: ServerConfig,
    device: Device = "auto",
) -> None:
    """Clean raw prompts, and drop unsafe prompts and duplicates.

    Prompts that people write contain many words that do not describe the picture: quality words, resolutions, lists
    of artists, names of platforms and renderers, contradictory styles. polish removes these words. Then
    annotators judge whether a picture shows what the prompt asks for, and not whose style it copies.

    The input is JSON Lines, or plain text with one prompt per line. A .txt file and standard input can be plain text.
    The old text is kept as `source_prompt`, and `prompt_id` is its hash. With --keep-original, the old text is also
    written as a second record; its id is the `prompt_id` with `-original` at the end. `clip_tokens` is the length of
    the new text. Stable Diffusion reads at most 75 tokens.

    polish drops unsafe prompts, duplicates, near duplicates, and prompts that are empty after polishing. It also drops
    prompts of more than 10000 characters as `too long`, because no text encoder reads that much.

    A repeat is a prompt with the same `prompt_id` as an earlier one: the same original text. Repeats are counted, but
    they are in no output. A duplicate is a prompt whose new text has the same words as the new text of an earlier
    prompt: case, punctuation and spacing do not matter. A near duplicate shares most of its runs of two and three words
    with an earlier prompt. The similarity, from 0 to 1, is the share of runs that both have among the runs that at
    least one of them has.

    A rewrite by a language model is rejected if it adds something, or if it loses the subject of the prompt. Then the
    rules polish the prompt instead, and `rejected` gives the reason.

    A prompt is unsafe if the polisher says so, if the model refuses, or if its `prompt_nsfw` is above --nsfw-threshold.
    `prompt_nsfw` is a column of DiffusionDB.

    With --out prompts.jsonl, dropped prompts go to prompts.dropped.jsonl, with the reason in `dropped`. A resumed run
    skips them. To try a dropped prompt again, delete its line from that file.

    If a model's answer for a prompt is unusable, a second call asks again. If that answer is unusable, too, the prompt
    is dropped as `failed`. If the server fails, the prompt is in neither file, and the next run tries again. The exit
    code is 3 if any record failed, and 5 if a limit was reached.

    Examples:

        vpctl polish prompts.txt --out prompts.jsonl

        head -100 prompts.txt | vpctl polish - --polisher openai:gpt-4o-mini

        vpctl polish diffusiondb.jsonl --keep-original --nsfw-threshold 0.2
            --out prompts.jsonl
    """
    spec = plugins.check("polisher", polisher)
    if out.endswith(".txt"):
        raise UserError(f"--out {out}: a .txt file is read as plain text; name a .jsonl file for these records")
    drops = beside(out, "dropped")
    if drops and os.path.realpath(prompts) in map(os.path.realpath, (out, drops)):
        raise UserError(f"{prompts}: is both read and written by this command; name another file with --out")
    if unsafe_model:
        sources.check("unsafe", unsafe_model, option="--unsafe-model ")
    with ExitStack() as files:
        kept = files.enter_context(Out(out, Prompt, prompt_key))
        apart = files.enter_context(Out(drops, Prompt, prompt_key, optional=True)) if drops else None
        outputs = Outputs(kept, apart)
        work = plugins.load("polisher", spec, device=device, server=server)
        work.check()
        raw = progress.track(read_prompts(prompts), "prompts", total=count(prompts))
        records = fresh(raw, [kept, apart] if apart else [kept], outputs.counts)
        if unsafe_model:
            from ..prompts.safety import BATCH, UnsafeModel

            records = scored(records, UnsafeModel(unsafe_model, device=device), BATCH)
        distinct = Distinct(similarity, known=_polished_in(out) if kept.resumed else ())

        def keep(some: Iterable[Prompt]) -> None:
            new = map(distinct, some)
            outputs.write(with_originals(new, kept.claim) if keep_original else new)

        how: dict[str, Any] = {
            "spec": spec,
            "keep_unsafe": keep_unsafe,
            "threshold": nsfw_threshold,
            "counts": outputs.counts,
        }
        if keep_original and kept.resumed:
            outputs.write(originals([*_polished_in(out)], kept.claim))
        try:
            if not plugins.is_a(work, AsyncPolisher):
                keep(polished(records, work, **how))
            else:
                from .. import flow

                how["at_once"] = server.concurrency
                flow.run(
                    lambda brake: polished_on_a_server(records, work, keep, brake=brake, **how),
                    max_time=server.max_time,
                )
        except (KeyboardInterrupt, LimitReached):
            outputs.tell(work.summary())
            raise
        outputs.tell(work.summary())
    if outputs.counts["failed"] or outputs.reasons["failed"]:
        raise SomeFailed


def _polished_in(out: str) -> Iterator[Prompt]:
    """The prompts of an output that could be polished: not those that `original` made, and none that is too long."""
    found = (one for one in read_prompts(out) if "source_prompt" in one or not prompt_key(one).endswith(ORIGINAL))
    return (one for one in found if not too_long(one))
