"""What annotators said of single pictures: a verdict on each aspect, and the reasons."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from statistics import fmean
from typing import NamedTuple

from ..records import Image, Judgement, prompt_key
from .preferences import latest

MAX_REASONS = 3
"""Number of different reasons of a remark. Those of further judgements are left out."""
MAX_CHARS = 300
"""A longer reason is cut off."""


class Outcomes(NamedTuple):
    """How a picture did in comparisons with another one."""

    wins: int
    ties: int
    losses: int


class Remark(NamedTuple):
    """What an annotator said of a picture on an aspect.

    `score` is the mean of its scores. If all pictures were shown in pairs, it is the share of comparisons won, in which
    a tie counts one half, and `outcomes` has their numbers. It is None if all judgements were refused.
    """

    annotator: str
    aspect: str
    score: float | None
    outcomes: Outcomes | None
    reasons: list[str]


class _Verdict(NamedTuple):
    score: float | None
    is_compared: bool
    reason: str


_Key = tuple[str, str]
"""A prompt and a picture of it, or an annotator and an aspect."""


class Remarks:
    """The remarks of judgements about their pictures. Judgements that a later one replaces do not count."""

    def __init__(self, judgements: Iterable[Judgement]) -> None:
        self._said: dict[tuple[str, str], dict[tuple[str, str], list[_Verdict]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self._ids: dict[_Key, str] = {}
        for _, judgement in latest(enumerate(judgements), Counter()):
            about = judgement["annotator"], judgement["aspect"]
            for image_id, file, verdict in _verdicts(judgement):
                self._said[judgement["prompt_id"], image_id][about].append(verdict)
                self._ids[judgement["prompt_id"], file] = image_id

    def of(self, picture: Image) -> list[Remark]:
        """What was said of a picture, by annotator and aspect in the order of the judgements."""
        prompt_id = prompt_key(picture)
        image_id = self._ids.get((prompt_id, picture["file_name"]), picture.get("image_id", ""))
        return [_remark(*about, verdicts) for about, verdicts in self._said.get((prompt_id, image_id), {}).items()]


def _verdicts(judgement: Judgement) -> Iterator[tuple[str, str, _Verdict]]:
    """What a judgement says of each of its pictures, with the id and the file of the picture."""
    scores: list[float] = judgement["scores"]
    reasons = judgement.get("rationales", [])
    in_pair = judgement.get("mode") == "pair" and len(scores) == 2
    for place, (image_id, file) in enumerate(zip(judgement["image_ids"], judgement["file_names"], strict=True)):
        score = scores[place] if scores else None
        if in_pair:
            other = scores[1 - place]
            score = 0.5 + 0.5 * ((scores[place] > other) - (scores[place] < other))
        yield image_id, file, _Verdict(score, in_pair, reasons[place] if place < len(reasons) else "")


def _remark(annotator: str, aspect: str, verdicts: list[_Verdict]) -> Remark:
    """One remark of verdicts. Of verdicts on pairs and on single pictures, those on single pictures give the score."""
    single = [one.score for one in verdicts if not one.is_compared and one.score is not None]
    compared = [one.score for one in verdicts if one.is_compared and one.score is not None]
    outcomes = Outcomes(*(compared.count(value) for value in (1.0, 0.5, 0.0))) if compared and not single else None
    reasons = list(dict.fromkeys(one.reason for one in verdicts if one.reason))[:MAX_REASONS]
    return Remark(
        annotator,
        aspect,
        fmean(single or compared) if single or compared else None,
        outcomes,
        [text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 1]}…" for text in reasons],
    )
