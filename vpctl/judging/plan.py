"""Plans the calls about pictures: which pictures each call shows, in which order, and the judgements it will fill in.

This module does not know annotators. It uses only what their judgements record about them, which is
`AnnotatorIdentity`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, groupby, permutations
from random import Random
from typing import Any, NamedTuple, Protocol, cast

from ..contracts import Aspect, Kind, Mode
from ..errors import RecordFailed
from ..images.identities import with_ids, without_duplicates
from ..records import Image, Judgement, digest, prompt_key

FEW = 6
"""The most pictures whose orders are all listed: they have 720. With more, an order hardly ever comes twice."""


@dataclass(frozen=True)
class Plan:
    """How the pictures of every prompt are judged.

    Each of the `passes` asks the same questions with the pictures in another order. With `all_aspects`, one call asks
    for all aspects. With `break_ties`, pictures with the same score are also compared in pairs.
    """

    aspects: tuple[Aspect, ...]
    mode: Mode = "list"
    passes: int = 1
    all_aspects: bool = False
    break_ties: bool = False
    seed: int = 0


class Call(NamedTuple):
    """A planned call: one question, and the judgements that its answer will fill in.

    `shown` has the indices in the group of the pictures to show, in the order in which they are shown. `judgements` has
    one judgement without scores for each aspect, with the pictures in the group's order. `pending_keys` has the keys of
    the judgements that are still to be done.
    """

    kind: Kind
    shown: tuple[int, ...]
    judgements: list[Judgement]
    pending_keys: frozenset[str] = frozenset()


class Group(NamedTuple):
    """Consecutive pictures of one prompt, and the hashes of their files, or the error if one could not be read."""

    images: list[Image]
    contents: list[str] | RecordFailed


class AnnotatorIdentity(Protocol):
    """What judgements record about the annotator: its name, and everything that could change its answers."""

    @property
    def name(self) -> str:
        """Its name, as it is written in records."""

    @property
    def identity(self) -> Any:
        """Everything about the annotator that determines its answers, as a JSON value."""

    @property
    def template(self) -> Callable[[Kind], str]:
        """A function that returns the name and hash of the instructions for a kind of question."""


def plan_calls(group: Group, plan: Plan, author: AnnotatorIdentity) -> Iterator[Call]:
    """The calls about the pictures of one prompt. Calls that show the same pictures in the same order are neighbours.

    Raises `RecordFailed` if the picture files of the group could not be hashed.
    """
    everything = tuple(range(len(group.images)))
    if plan.mode == "list":
        shows: Iterable[tuple[int, ...]] = [everything]
    elif plan.mode == "point":
        shows = [(place,) for place in everything]
    else:
        shows = combinations(everything, 2)
    groups = [plan.aspects] if plan.all_aspects else [(aspect,) for aspect in plan.aspects]
    for shown in shows:
        if isinstance(group.contents, RecordFailed):
            raise group.contents
        for repeat in range(plan.passes):
            order = shown if plan.mode == "pair" else _order(group.images, shown, plan.seed, repeat)
            by_aspect = [calls_about(group, shown, order, aspects, author, plan.mode, repeat) for aspects in groups]
            for in_one_order in zip(*by_aspect, strict=True):
                yield from in_one_order


def calls_about(
    group: Group,
    shown: tuple[int, ...],
    order: tuple[int, ...],
    aspects: tuple[Aspect, ...],
    author: AnnotatorIdentity,
    mode: Mode,
    repeat: int,
) -> Iterator[Call]:
    """The call about the pictures `shown` in the `order` of this pass, or two calls in both orders for a comparison.

    Raises `RecordFailed` if the picture files of the group could not be hashed.
    """
    images, contents = group
    if isinstance(contents, RecordFailed):
        raise contents
    orders = [order, order[::-1]] if mode == "pair" else [order]
    kind = Kind(aspects, mode, len(shown))
    words = author.template(kind)
    for order in orders:
        what = [author.identity, words, repeat, images[0]["prompt"], [contents[place] for place in order]]
        judgements = [
            _unjudged(images, shown, order, aspect, author.name, mode, repeat, words, what) for aspect in aspects
        ]
        yield Call(kind, order, judgements)


def _order(images: list[Image], shown: tuple[int, ...], seed: int, repeat: int) -> tuple[int, ...]:
    """The order in which a pass shows the pictures, shuffled by prompt, pictures and seed.

    It is the same for all aspects, so that a server can keep what it has read of the pictures. Each further pass
    rotates it by one picture. After as many passes as there are pictures, it is shuffled anew. Up to `FEW` pictures
    are shown in each order once before any order comes again.
    """
    order = sorted(shown, key=lambda place: images[place]["image_id"])
    ids = [images[place]["image_id"] for place in order]
    begun, turn = divmod(repeat, len(shown))
    if len(shown) > FEW:
        Random(digest([images[0]["prompt_id"], ids, seed, begun])).shuffle(order)
    else:
        chance = Random(digest([images[0]["prompt_id"], ids, seed, 0]))
        chance.shuffle(order)
        first, *others = permutations(order[1:])  # in a circle: no rotation of one is a rotation of another
        chance.shuffle(others)
        order[1:] = [first, *others][begun % (1 + len(others))]
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
    judgement: Judgement, pairs: list[tuple[str, str]], group: Group, call: Call, author: AnnotatorIdentity
) -> list[Call]:
    """The calls that compare the given pairs of pictures of a judgement, each pair in both orders.

    `pairs` has the pictures' image ids.
    """
    aspects = tuple(aspect for aspect in call.kind.aspects if aspect.name == judgement["aspect"])
    places = {group.images[place]["image_id"]: place for place in call.shown}
    found: list[Call] = []
    for pair in pairs:
        first, second = sorted(places[image_id] for image_id in pair)
        found += calls_about(group, (first, second), (first, second), aspects, author, "pair", 0)
    return found


def group_by_prompt(images: Iterator[Image], content: Callable[[str], str]) -> Iterator[Group]:
    """Groups of consecutive pictures that have the same prompt. `content` returns the hash of a picture file.

    The hash may have ``@`` and the form in which the picture is shown behind it, which is not a part of an id. Pictures
    without ids get them. If a picture occurs twice in a group, the second one is dropped.
    """
    for _, neighbours in groupby(images, key=prompt_key):
        together = list(neighbours)
        try:
            hashes = {image["file_name"]: content(image["file_name"]) for image in together}
            own = {name: text.partition("@")[0] for name, text in hashes.items()}
            together = list(without_duplicates(with_ids(image, own.__getitem__) for image in together))
            yield Group(together, [hashes[image["file_name"]] for image in together])
        except RecordFailed as failure:
            yield Group(together, failure)
