"""Which calls there are to make about pictures: who shows what, in which order, and the judgements to be filled.

Nothing here knows an annotator, only what its judgements call it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, groupby
from random import Random
from typing import Any, NamedTuple, Protocol, cast

from ..contracts import Aspect, Kind, Mode
from ..errors import RecordFailed
from ..images.identities import distinct, identified
from ..records import Image, Judgement, digest, prompt_key


@dataclass(frozen=True)
class Plan:
    """What is asked of every prompt's pictures.

    `passes` ask the same again with the pictures in another order; `together` asks for all aspects in one call;
    `break_ties` has pictures compared by twos that got the same score.
    """

    aspects: tuple[Aspect, ...]
    mode: Mode = "list"
    passes: int = 1
    together: bool = False
    break_ties: bool = False
    seed: int = 0


class Call(NamedTuple):
    """A question to come: which of a prompt's pictures it shows, in the order it shows them, and what is left to fill.

    `judgements` have their pictures in the prompt's order, and no scores; there is one for each aspect. Those whose
    keys are `fresh` are still to be done.
    """

    kind: Kind
    shown: tuple[int, ...]
    judgements: list[Judgement]
    fresh: frozenset[str] = frozenset()


class Group(NamedTuple):
    """Neighbouring pictures of one prompt, and hashes of their files, or why there are none."""

    images: list[Image]
    contents: list[str] | RecordFailed


class Author(Protocol):
    """What judgements say of whoever makes them: a name, and what of it could change its answers."""

    @property
    def name(self) -> str:
        """As it stands in records."""

    @property
    def identity(self) -> Any:
        """All that determines its answers, as JSON."""

    @property
    def words(self) -> Callable[[Kind], str]:
        """Identity of the words in which it asks a kind of question."""


def planned(group: Group, plan: Plan, author: Author) -> Iterator[Call]:
    """The calls about one prompt's pictures."""
    everything = tuple(range(len(group.images)))
    if plan.mode == "list":
        shows: Iterable[tuple[int, ...]] = [everything]
    elif plan.mode == "point":
        shows = [(place,) for place in everything]
    else:
        shows = combinations(everything, 2)
    groups = [plan.aspects] if plan.together else [(aspect,) for aspect in plan.aspects]
    for shown in shows:
        for aspects in groups:
            for repeat in range(plan.passes):
                yield from calls(group, shown, aspects, plan, author, plan.mode, repeat)


def calls(
    group: Group,
    shown: tuple[int, ...],
    aspects: tuple[Aspect, ...],
    plan: Plan,
    author: Author,
    mode: Mode,
    repeat: int,
) -> Iterator[Call]:
    """The call about these of the pictures in the order of its turn, or both orders for two that are compared."""
    images, contents = group
    if isinstance(contents, RecordFailed):
        raise contents
    orders = [shown, shown[::-1]] if mode == "pair" else [_order(images, shown, aspects, plan.seed, repeat)]
    kind = Kind(aspects, mode, len(shown))
    words = author.words(kind)
    for order in orders:
        what = [author.identity, words, repeat, images[0]["prompt"], [contents[place] for place in order]]
        judgements = [
            _unjudged(images, shown, order, aspect, author.name, mode, repeat, words, what) for aspect in aspects
        ]
        yield Call(kind, order, judgements)


def _order(
    images: list[Image], shown: tuple[int, ...], aspects: tuple[Aspect, ...], seed: int, repeat: int
) -> tuple[int, ...]:
    """Shuffled by prompt, aspects, pictures and seed; each further pass begins one picture later."""
    order = sorted(shown, key=lambda place: images[place]["image_id"])
    names = [aspect.name for aspect in aspects]
    ids = [images[place]["image_id"] for place in order]
    Random(digest([images[0]["prompt_id"], *names, ids, seed, repeat // len(shown)])).shuffle(order)
    turn = repeat % len(shown)
    return tuple(order[turn:] + order[:turn])


def _unjudged(
    images: list[Image],
    shown: tuple[int, ...],
    order: tuple[int, ...],
    aspect: Aspect,
    annotator: str,
    mode: Mode,
    repeat: int,
    words: str,
    what: list[Any],
) -> Judgement:
    first = images[0]
    image_ids = [images[place]["image_id"] for place in shown]
    inherited: dict[str, object] = {key: first[key] for key in ("source_prompt", "split") if key in first}
    record = {
        "prompt_id": first["prompt_id"],
        "prompt": first["prompt"],
        **inherited,
        "aspect": aspect.name,
        "annotator": annotator,
        "image_ids": image_ids,
        "file_names": [images[place]["file_name"] for place in shown],
        "scores": [],
        "order": [shown.index(place) for place in order],
        **({"mode": mode} if mode != "list" else {}),
        **({"repeat": repeat + 1} if repeat else {}),
        **({"template": words} if "@" in words else {}),
        "key": digest([first["prompt_id"], aspect.name, annotator, sorted(image_ids), mode, *what]),
    }
    return cast(Judgement, record)


def comparisons(
    judgement: Judgement, pairs: list[tuple[str, str]], group: Group, call: Call, plan: Plan, author: Author
) -> list[Call]:
    """The calls that compare pairs of pictures of one judgement, named by their ids, in both orders."""
    aspects = tuple(aspect for aspect in call.kind.aspects if aspect.name == judgement["aspect"])
    places = {group.images[place]["image_id"]: place for place in call.shown}
    found: list[Call] = []
    for pair in pairs:
        first, second = sorted(places[image_id] for image_id in pair)
        found += calls(group, (first, second), aspects, plan, author, "pair", 0)
    return found


def grouped(images: Iterator[Image], content: Callable[[str], str]) -> Iterator[Group]:
    """Neighbouring pictures of one prompt together, with the hashes that `content` gives of their files.

    Pictures without ids get them. A picture that comes twice is left out the second time.
    """
    for _, neighbours in groupby(images, key=prompt_key):
        together = list(neighbours)
        try:
            hashes = {image["file_name"]: content(image["file_name"]) for image in together}
            together = list(distinct(identified(image, hashes.__getitem__) for image in together))
            yield Group(together, [hashes[image["file_name"]] for image in together])
        except RecordFailed as failure:
            yield Group(together, failure)
