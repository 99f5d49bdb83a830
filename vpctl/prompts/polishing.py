"""Polishes prompts. Each one is kept with its polished text, dropped with a reason, or failed.

A `Polishing` splits prompts into chunks, asks a polisher about each chunk, and makes records of the answers.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Protocol, cast

from .. import plugins, progress
from ..contracts import AsyncPolisher, Polished, Polisher
from ..errors import RecordFailed, Unusable, UserError
from ..records import MAX_PROMPT_CHARS, ORIGINAL_SUFFIX, Prompt, prompt_key
from .duplicates import plain

MAX_SHOWN = 60
"""Maximum length of a prompt in a message, in characters."""


class Scorer(Protocol):
    """Rates how unsafe prompts are."""

    def scores(self, prompts: list[str]) -> list[float]:
        """A number from 0 to 1 for each prompt."""
        ...


def too_long(prompt: Prompt) -> str:
    """Why a prompt is dropped for its length, or an empty text.

    `source_prompt` counts too: --keep-original writes it.
    """
    length = max(len(prompt["prompt"]), len(prompt.get("source_prompt", "")))
    return f"too long: {length} characters; the maximum is {MAX_PROMPT_CHARS}" if length > MAX_PROMPT_CHARS else ""


def scored(prompts: Iterable[Prompt], scorer: Scorer, batch: int) -> Iterator[Prompt]:
    """Yield the prompts with `prompt_nsfw`. An existing value is kept, and a prompt that is too long gets none."""
    source = iter(prompts)
    while chunk := list(islice(source, batch)):
        unknown = [one for one in chunk if "prompt_nsfw" not in one and not too_long(one)]
        texts = [one.get("source_prompt", one["prompt"]) for one in unknown]
        for one, score in zip(unknown, scorer.scores(texts) if texts else [], strict=True):
            one["prompt_nsfw"] = round(score, 6)
        yield from chunk


def original(prompt: Prompt) -> Prompt | None:
    """The original form of a polished prompt, with `-original` appended to its id. None if the words are the same.

    The id shows which two prompts belong together, and is the same in every run. With it, merge and train-rm keep both
    forms in the same part of the data.
    """
    first = prompt.get("source_prompt", prompt["prompt"])
    if plain(first) == plain(prompt["prompt"]):
        return None
    of_the_rewrite = ("source_prompt", "template", "rejected")
    kept = {key: value for key, value in prompt.items() if key not in of_the_rewrite}
    return cast(Prompt, {**kept, "prompt": first, "prompt_id": prompt_key(prompt) + ORIGINAL_SUFFIX})


class Polishing:
    """Polishes prompts with the polisher that `spec` names. Counts failed and rejected prompts in `counts`.

    A prompt is unsafe if its `prompt_nsfw` is above `threshold` or the polisher says so. With `keep_unsafe` it is kept
    and has the reason in `unsafe`; otherwise it is dropped. `template` identifies the instructions of a language model:
    a prompt that was polished with the same instructions is not polished again, because the model might reword it.
    """

    def __init__(
        self, spec: str, *, keep_unsafe: bool, threshold: float, counts: Counter[str], template: str = ""
    ) -> None:
        self._spec, self._keep_unsafe, self._threshold = spec, keep_unsafe, threshold
        self._counts, self._template = counts, template

    def chunks(self, prompts: Iterable[Prompt], size: int) -> Iterator[list[Prompt]]:
        """Yield the prompts in chunks of at most `size`, with their ids and the results of the first checks.

        A prompt that is too long is `dropped`. A prompt whose `prompt_nsfw` is above the threshold is `unsafe`.
        """
        source = iter(prompts)
        while chunk := [self._begun(one) for one in islice(source, size)]:
            yield chunk

    def _begun(self, record: Prompt) -> Prompt:
        begun: Prompt = {**record, "prompt_id": prompt_key(record)}
        begun.pop("dropped", None)
        if reason := too_long(begun):
            begun["dropped"] = reason
        if begun.get("prompt_nsfw", 0.0) > self._threshold:
            begun.setdefault("unsafe", f"prompt_nsfw: {begun['prompt_nsfw']:.2f}")
        return begun

    def polished(self, chunk: list[Prompt], polisher: Polisher) -> list[Prompt]:
        """Return the records of a chunk: polished, or `dropped` with a reason.

        A polished record has the new text in `prompt` and the old one in `source_prompt`. A prompt is dropped if it is
        too long (before or after polishing), empty after polishing, or unsafe, or if its answer could not be used. A
        prompt that failed is left out, counted, and reported with a warning. Raises `UserError` if the polisher returns
        something invalid.
        """
        texts = self._texts(chunk)
        with plugins.blamed("polisher", self._spec):
            answers = checked(polisher(texts), texts, self._spec) if texts else []
        return self._outcomes(chunk, answers)

    async def polished_on_a_server(self, chunk: list[Prompt], polisher: AsyncPolisher) -> list[Prompt]:
        """Like `polished`, for an asynchronous polisher."""
        texts = self._texts(chunk)
        with plugins.blamed("polisher", self._spec):
            answers = checked(await polisher(texts), texts, self._spec) if texts else []
        return self._outcomes(chunk, answers)

    def _texts(self, chunk: list[Prompt]) -> list[str]:
        """The texts of a chunk that are sent to the polisher."""
        return [one["prompt"] for one in chunk if self._is_wanted(one)]

    def _is_wanted(self, record: Prompt) -> bool:
        """Whether a prompt must be polished: not if it is dropped anyway, or was polished with this template."""
        done = bool(self._template) and record.get("template") == self._template
        return not done and "dropped" not in record and (self._keep_unsafe or "unsafe" not in record)

    def _outcomes(self, chunk: list[Prompt], answers: Iterable[Polished | RecordFailed]) -> list[Prompt]:
        """The records of a chunk; `answers` are the results for `_texts`."""
        left, found = iter(answers), []
        for record in chunk:
            outcome = self._outcome(record, next(left)) if self._is_wanted(record) else self._judged_unsafe(record)
            if outcome is not None:
                found.append(outcome)
        return found

    def _outcome(self, record: Prompt, answer: Polished | RecordFailed) -> Prompt | None:
        """The record of a prompt with its answer, or None if it failed and the next run has to try it again."""
        if isinstance(answer, RecordFailed):
            prompt = repr(record["prompt"][:MAX_SHOWN])
            progress.warn_each("prompts could not be polished", f"{prompt}: {answer}", str(answer))
            if isinstance(answer, Unusable):
                return {**record, "dropped": f"failed: {answer}"}
            self._counts["failed"] += 1
            return None
        done: Prompt = {
            **record,
            "prompt": answer.prompt,
            "source_prompt": record.get("source_prompt", record["prompt"]),
        }
        if self._template:
            done["template"] = self._template
        done.pop("rejected", None)  # set by an earlier run
        if answer.rejected:
            self._counts["rejected"] += 1
            done["rejected"] = answer.rejected
        if answer.unsafe:
            done["unsafe"] = answer.unsafe
        if not answer.prompt:
            return {**done, "dropped": "empty"}
        if reason := too_long(done):
            return {**done, "dropped": reason}
        return self._judged_unsafe(done)

    def _judged_unsafe(self, record: Prompt) -> Prompt:
        """The record, dropped if it is unsafe.

        The reason moves to `dropped`, because a later run may decide otherwise.
        """
        if self._keep_unsafe or "unsafe" not in record or "dropped" in record:
            return record
        reason = record.pop("unsafe")
        return {**record, "dropped": f"unsafe: {reason}"}


def checked(answers: Any, prompts: list[str], spec: str) -> list[Polished | RecordFailed]:
    """Return the answers of a polisher. Raises `UserError` unless there is one of the right type for each prompt."""
    if not isinstance(answers, list) or not all(isinstance(one, Polished | RecordFailed) for one in answers):
        raise plugins.contract_error("polisher", spec, answers)
    if len(answers) != len(prompts):
        results, asked = progress.plural(len(answers), "result"), progress.plural(len(prompts), "prompt")
        raise UserError(f"--polisher {spec}: gave {results} for {asked}")
    for one in answers:
        texts = [*one] if isinstance(one, Polished) else [str(one)]
        if not all(isinstance(text, str) for text in texts):
            raise plugins.contract_error("polisher", spec, one, contract="the fields of a Polished are texts")
        plugins.check_texts("polisher", spec, *texts)
    return answers
