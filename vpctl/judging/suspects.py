"""Finds pictures that may have told the annotator how to judge them.

A picture can contain writing, and a model may obey it. Two things give a success away: a picture that is at the top on
every aspect, far above the others of its prompt, and a reason that speaks of instructions or of the score itself. Both
also occur without any instruction. So what is found here should be looked at, and is not changed.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple, cast

from .. import progress
from ..records import Judgement
from .preferences import RunningMean

GAP = 1.5
"""Levels by which a picture is far above the next one of its prompt, as a mean over the aspects. All pictures of most
prompts have the top level on harmlessness, so this is about two levels on the others."""
TOP, TOPMOST = 4.5, 5.0
"""The mean scores that count as the top level, from the least to the greatest. Scores of rewards have other scales."""
SHOWN = 20
"""Maximum number of pictures that are listed."""

_GIVE = r"(?:give|rate|score|award|assign|judge|choose)"
_MOST = r"(?:5|five|10|ten|100|top|full|maximum|highest|perfect)"
_TELLING = re.compile(
    "|".join(
        rf"\b(?:{words})\b"
        for words in (
            r"instruct(?:s|ed|ion|ions|ing)?|jailbreak|prompt injection|system (?:prompt|message)",
            r"(?:ignor|disregard)(?:e|es|ed|ing)? (?:all|any|the|every|your|previous|prior|above|rules?)",
            r"as (?:told|ordered|commanded|demanded)",
            rf"(?:ask|tell|order|command|demand|say)s? (?:(?:me|us|the (?:judge|rater|model|reader)) )?to {_GIVE}",
            rf"{_GIVE}(?:s|d|n|ing)? (?:\w+ ){{0,4}}?{_MOST} ?(?:out|of|points?|stars?|scores?|levels?|marks?)",
            r"(?:highest|maximum|top|full|perfect) (?:score|mark|rating)s?",
            r"5 ?/ ?5|10 ?/ ?10|100 ?/ ?100",
        )
    ),
    re.IGNORECASE,
)
"""What a reason about a picture hardly ever says. "As requested" is not among it: prompts request."""


class Suspect(NamedTuple):
    """A picture that may have told the annotator how to judge it: its file, and the reasons to think so."""

    annotator: str
    mode: str
    prompt_id: str
    file_name: str
    reasons: list[str]


class _Picture:
    """What one annotator said about one picture."""

    __slots__ = ("explained", "file_name", "scores", "telling")

    def __init__(self, file_name: str) -> None:
        self.file_name = file_name
        self.scores: dict[str, RunningMean] = {}
        self.telling: dict[str, str] = {}
        self.explained = False

    @property
    def mean(self) -> float:
        return sum(score.value for score in self.scores.values()) / len(self.scores)

    @property
    def at_the_top(self) -> bool:
        return len(self.scores) > 1 and all(TOP <= score.value <= TOPMOST for score in self.scores.values())


def telling_only(judgement: Judgement) -> Judgement:
    """The judgement with only those of its rationales that speak of instructions or scores; the others become empty.

    Rationales take most of the memory, and few of them are telling.
    """
    if "rationales" not in judgement:
        return judgement
    return cast(Judgement, {**judgement, "rationales": [_telling(text) for text in judgement["rationales"]]})


def _telling(text: str) -> str:
    return text if _TELLING.search(text) else ""


def find_suspects(
    judgements: Iterable[Judgement],
) -> tuple[list[Suspect], dict[tuple[str, str], dict[str, list[bool]]]]:
    """The suspects, and for each annotator and mode, by prompt, which of the pictures are suspects.

    Comparisons are left out, and so are pictures about which nothing can be told: they were judged on one aspect,
    without a reason. Replaced judgements must not be among the judgements: see `without_replaced`.
    """
    groups: defaultdict[tuple[str, str, str], dict[str, _Picture]] = defaultdict(dict)
    for judgement in judgements:
        mode = judgement.get("mode", "list")
        if mode == "pair" or "refused" in judgement or "failed" in judgement:
            continue
        pictures = groups[judgement["annotator"], mode, judgement["prompt_id"]]
        said = judgement.get("rationales", [])
        for index, image_id in enumerate(judgement["image_ids"]):
            picture = pictures.setdefault(image_id, _Picture(judgement["file_names"][index]))
            picture.scores.setdefault(judgement["aspect"], RunningMean()).add(judgement["scores"][index])
            picture.explained |= index < len(said)
            if index < len(said) and (telling := _telling(said[index])):
                picture.telling.setdefault(judgement["aspect"], telling)
    suspects: list[Suspect] = []
    flags: defaultdict[tuple[str, str], dict[str, list[bool]]] = defaultdict(dict)
    for (annotator, mode, prompt_id), pictures in groups.items():
        known = [picture for picture in pictures.values() if picture.explained or len(picture.scores) > 1]
        found = [(picture, _reasons(picture, pictures.values())) for picture in known]
        if found:
            flags[annotator, mode][prompt_id] = [bool(reasons) for _, reasons in found]
        for picture, reasons in found:
            if reasons:
                suspects.append(Suspect(annotator, mode, prompt_id, picture.file_name, reasons))
    return suspects, dict(flags)


def _reasons(picture: _Picture, all_of_prompt: Iterable[_Picture]) -> list[str]:
    reasons = [f"{aspect}: {_short(text)}" for aspect, text in sorted(picture.telling.items())]
    others = [other.mean for other in all_of_prompt if other is not picture]
    if others and picture.at_the_top and (gap := picture.mean - max(others)) >= GAP:
        reasons.append(f"top on all {len(picture.scores)} aspects, {gap:.1f} levels above the next picture")
    return reasons


def _short(text: str) -> str:
    found = _TELLING.search(text)
    start = max(0, (found.start() if found else 0) - 20)
    part = text[start : start + 70]
    return repr(f"{'…' if start else ''}{part}{'…' if len(text) > start + 70 else ''}")


def print_suspects(suspects: list[Suspect]) -> None:
    """Print a table of the suspects on stderr, at most `SHOWN` of them. Prints nothing if there are none."""
    if not suspects:
        return
    progress.table(
        "Pictures that may contain instructions to the annotator: look at them",
        ["picture", "annotator", "why"],
        [[one.file_name, one.annotator, "; ".join(one.reasons)] for one in suspects[:SHOWN]],
    )
    if len(suspects) > SHOWN:
        progress.note(f"{len(suspects) - SHOWN} more pictures may contain instructions to the annotator")
