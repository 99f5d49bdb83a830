"""Preferences of people in public data sets, as records of prompts, pictures and judgements."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ..contracts import DataRow, RecordKind
from ..errors import RecordFailed
from ..records import digest

GIVES: tuple[RecordKind, ...] = ("judgement", "image", "prompt")
WON, TIED, LOST = 5.0, 3.0, 1.0
"""Scores of two pictures that were compared, as those of annotate --mode pair."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Vote(NamedTuple):
    """What people said about the pictures of one prompt: for each aspect a score of each picture, 1 to 5."""

    prompt: str
    image_ids: list[str]
    file_names: list[str]
    scores: Mapping[str, Sequence[float]]
    prompt_id: str = ""
    """The hash of the prompt, if it is empty."""
    annotator: str = ""
    more: Mapping[str, Any] = _NOTHING
    """More keys of a judgement."""
    of_prompt: Mapping[str, Any] = _NOTHING
    """More keys of a prompt and of its pictures."""
    of_pictures: Sequence[Mapping[str, Any]] = ()
    """More keys of each picture."""


def records(votes: Iterable[tuple[str, Vote | RecordFailed]], kind: RecordKind) -> Iterator[DataRow]:
    """The records of this kind in the votes. A picture or prompt that neighbouring votes share is one record."""
    before, seen = "", set[str]()
    for where, vote in votes:
        if isinstance(vote, RecordFailed):
            yield where, vote
            continue
        if fault := "" if kind == "prompt" else _fault(vote):
            yield where, RecordFailed(fault)
            continue
        prompt_id = vote.prompt_id or digest(vote.prompt)
        about: dict[str, Any] = {"prompt_id": prompt_id, "prompt": vote.prompt}
        if prompt_id != before:
            before, seen = prompt_id, set()
            if kind == "prompt":
                yield where, {**about, **vote.of_prompt}
        if kind == "judgement":
            pictures: dict[str, Any] = {"image_ids": vote.image_ids, "file_names": vote.file_names}
            for aspect, scores in vote.scores.items():
                who = {"aspect": aspect, "annotator": vote.annotator}
                yield where, {**about, **who, **pictures, "scores": [*scores], **vote.more}
        elif kind == "image":
            for index, (image_id, name) in enumerate(zip(vote.image_ids, vote.file_names, strict=True)):
                if image_id not in seen:
                    seen.add(image_id)
                    own = vote.of_pictures[index] if vote.of_pictures else {}
                    yield where, {**about, "image_id": image_id, "file_name": name, **own, **vote.of_prompt}


def _fault(vote: Vote) -> str:
    """Why a vote cannot be used; empty if it can."""
    for name, values in (("the prompt", [vote.prompt]), ("a file name", vote.file_names), ("an id", vote.image_ids)):
        if not all(isinstance(value, str) and value for value in values):
            return f"{name} must be text"
    if not vote.file_names:
        return "has no pictures"
    numbers = {aspect: len(scores) for aspect, scores in vote.scores.items()}
    if wrong := next((aspect for aspect, number in numbers.items() if number != len(vote.file_names)), ""):
        return f"has {len(vote.file_names)} pictures, and {numbers[wrong]} values of {wrong}"
    if twice := next((one for one in vote.image_ids if vote.image_ids.count(one) > 1), ""):
        return f"has the picture {twice} twice"
    return ""


def texts(item: Mapping[str, Any], key: str) -> list[str]:
    """The list of texts at a key. Raises `RecordFailed` if there is none."""
    value = item.get(key)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise RecordFailed(f"{key!r} must be a list of texts")
    return value


def text(item: Mapping[str, Any], key: str) -> str:
    """The text at a key. Raises `RecordFailed` if there is none."""
    value = item.get(key)
    if not isinstance(value, str) or not value.strip():
        raise RecordFailed(f"{key!r} must be text")
    return value


def ranks(item: Mapping[str, Any], key: str) -> list[int]:
    """The ranks at a key: whole numbers from 1, which is the best. Raises `RecordFailed` if there are none."""
    value = item.get(key)
    if not isinstance(value, list) or not all(_is_rank(one) for one in value):
        raise RecordFailed(f"{key!r} must be a list of ranks, which are whole numbers from 1 up")
    return [int(one) for one in value]


def _is_rank(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < 1e9 and value == int(value)


def ranks_of(scores: Sequence[float]) -> list[int]:
    """Ranks of scores, without gaps: 1 for the highest. Equal scores have equal ranks."""
    order = sorted({*scores}, reverse=True)
    return [order.index(score) + 1 for score in scores]
