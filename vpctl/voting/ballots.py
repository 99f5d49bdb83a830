"""Ballots, the questions that people vote on, and the judgements that their votes become."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from random import Random
from typing import Any, NamedTuple, cast

from ..contracts import MOST, Aspect, Mode
from ..judging.plan import Group
from ..judging.preferences import PREFERENCE, scores_of_ranks
from ..judging.questions import EQUAL, NOT_PREFERRED, PREFERRED
from ..records import Image, Judgement, digest

OVERALL = Aspect(
    PREFERENCE,
    "Overall preference",
    "How much do you like the picture, all in all, as a picture of what the prompt asks for?\n\n"
    "1. Bad: it is of no use for this prompt.\n"
    "2. Poor: it has grave faults.\n"
    "3. Fair: it has faults, and yet it serves.\n"
    "4. Good: it has slight faults only.\n"
    "5. Excellent: you would not ask for another one.",
    ("1 Bad", "2 Poor", "3 Fair", "4 Good", "5 Excellent"),
)
"""What a person is asked if no aspect is named. Data sets of people's votes give the same name to it."""
LEVELS = 5
REASONS = ("cannot judge", "harmful")
"""Why a person refuses to judge. The record has it in `refused`."""


class VoteError(Exception):
    """A vote that cannot be counted. The text says why."""


class Cast(NamedTuple):
    """A vote: the score of each picture by its id, or why the person refused to judge."""

    scores: dict[str, float]
    refused: str = ""


class Ballot(NamedTuple):
    """A question to people about some pictures of a prompt, on one aspect.

    `places` has the indices of the pictures in the group. `repeat` counts the passes from 0.
    """

    group: Group
    aspect: Aspect
    mode: Mode
    places: tuple[int, ...]
    repeat: int

    @property
    def ids(self) -> list[str]:
        """The ids of its pictures."""
        return [self.group.images[place]["image_id"] for place in self.places]

    @property
    def prompt_id(self) -> str:
        """The id of its prompt."""
        return self.group.images[0]["prompt_id"]

    def name(self) -> str:
        """A digest that no other ballot has."""
        return digest([self.prompt_id, self.aspect.name, self.mode, self.ids, self.repeat])

    def key(self, annotator: str) -> str:
        """The key of this annotator's judgement: a hash of all that could change it, but for the order of pictures.

        A person sees all pictures at once, and a vote counts for every order.
        """
        contents = cast(list[str], self.group.contents)
        shown = sorted([self.group.images[place]["image_id"], contents[place]] for place in self.places)
        prompt = self.group.images[0]["prompt"]
        return digest(["vote", self.prompt_id, prompt, self.aspect[:3], annotator, self.mode, shown, self.repeat])

    def turn(self, voter: str, seed: int) -> tuple[int, str, str, str]:
        """The place of this ballot among those of a person; the least comes first.

        The passes come one after the other. In each, the prompts are shuffled, then the aspects of a prompt, then the
        ballots of an aspect: what a person has just read is needed again at once.
        """
        about = [seed, voter, self.repeat, self.prompt_id]
        aspect = [*about, self.aspect.name]
        return self.repeat, digest(about), digest(aspect), digest([*aspect, self.ids])

    def shown(self, voter: str, seed: int) -> tuple[Image, ...]:
        """The pictures in the order in which a person sees them."""
        images = [self.group.images[place] for place in sorted(self.places, key=lambda place: self._id(place))]
        Random(digest([seed, voter, self.repeat, self.prompt_id, [image["image_id"] for image in images]])).shuffle(
            images
        )
        return tuple(images)

    def _id(self, place: int) -> str:
        return self.group.images[place]["image_id"]


def ballots_of(group: Group, aspects: Sequence[Aspect], mode: Mode, passes: int) -> Iterator[Ballot]:
    """The ballots about the pictures of a prompt. A ranking and a comparison need two pictures."""
    everything = tuple(range(len(group.images)))
    shows: dict[Mode, list[tuple[int, ...]]] = {
        "list": [everything] if len(everything) > 1 else [],
        "point": [(place,) for place in everything],
        "pair": [*combinations(everything, 2)],
    }
    for aspect in aspects:
        for places in shows[mode]:
            for repeat in range(passes):
                yield Ballot(group, aspect, mode, places, repeat)


def unsuited(group: Group, mode: Mode) -> str:
    """Why people cannot vote on the pictures of a prompt; empty if they can."""
    if mode == "list" and len(group.images) > MOST:
        return f"has {len(group.images)} pictures; people rank at most {MOST}, so use --mode pair or point"
    if mode != "point" and len(group.images) < 2:
        return "has one picture, which cannot be compared with another one"
    return ""


def cast_of(said: Any, ballot: Ballot, shown: Sequence[Image]) -> Cast:
    """The vote that a page sent, about the pictures in the order `shown`. Raises `VoteError` if it is not a vote.

    The page says ``left``, ``right`` or ``tie`` for a pair, a level from 1 to 5 for one picture, and the rank of each
    picture for a list, from 1, where equal ranks are ties. In every mode it may say ``{"refused": reason}``.
    """
    if isinstance(said, dict) and [*said] == ["refused"] and said["refused"] in REASONS:
        return Cast({}, said["refused"])
    scores: list[float] = []
    if ballot.mode == "pair" and isinstance(said, str):
        sides = {"left": [PREFERRED, NOT_PREFERRED], "right": [NOT_PREFERRED, PREFERRED], "tie": [EQUAL, EQUAL]}
        scores = sides.get(said, [])
    elif ballot.mode == "point" and _is_whole(said, LEVELS):
        scores = [float(said)]
    elif ballot.mode == "list" and isinstance(said, list) and len(said) == len(shown):
        rising = sorted({*said}) if all(_is_whole(rank, len(shown)) for rank in said) else []
        scores = scores_of_ranks([rising.index(rank) + 1 for rank in said]) if rising else []
    if not scores:
        raise VoteError("this is not a vote on these pictures")
    return Cast({image["image_id"]: score for image, score in zip(shown, scores, strict=True)})


def _is_whole(value: object, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def said_of(vote: Cast, ballot: Ballot, shown: Sequence[Image]) -> Any:
    """What the page would send for this vote; the inverse of `cast_of`."""
    if vote.refused:
        return {"refused": vote.refused}
    scores = [vote.scores[image["image_id"]] for image in shown]
    if ballot.mode == "pair":
        first, second = scores
        return "tie" if first == second else "left" if first > second else "right"
    if ballot.mode == "point":
        return round(scores[0])
    falling = sorted({*scores}, reverse=True)
    return [falling.index(score) + 1 for score in scores]


def judgement_of(vote: Cast, ballot: Ballot, annotator: str, shown: Sequence[Image], time: str) -> Judgement:
    """The record of a vote. `time` is in UTC.

    A comparison has no `order`, because it counts for both: the pictures stand side by side. The first of its pictures
    stood on the left. Other votes have the pictures in the order of their ids, and in `order` how they were shown.
    """
    first = ballot.group.images[0]
    images = [*shown] if ballot.mode == "pair" else sorted(shown, key=lambda image: image["image_id"])
    inherited: dict[str, object] = {key: first[key] for key in ("source_prompt", "split") if key in first}
    record = {
        "prompt_id": first["prompt_id"],
        "prompt": first["prompt"],
        **inherited,
        "aspect": ballot.aspect.name,
        "annotator": annotator,
        "image_ids": [image["image_id"] for image in images],
        "file_names": [image["file_name"] for image in images],
        "scores": [] if vote.refused else [vote.scores[image["image_id"]] for image in images],
        **({"order": [images.index(image) for image in shown]} if ballot.mode != "pair" else {}),
        **({"mode": ballot.mode} if ballot.mode != "list" else {}),
        **({"repeat": ballot.repeat + 1} if ballot.repeat else {}),
        "key": ballot.key(annotator),
        "asked": {"time": time},
        **({"refused": vote.refused} if vote.refused else {}),
    }
    return cast(Judgement, record)
