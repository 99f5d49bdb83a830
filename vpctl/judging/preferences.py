"""Turns judgements into preferences between two pictures, from scores and from pairwise comparisons."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, combinations
from typing import NamedTuple, cast

from ..records import Judgement, digest

ROUNDING = 1e-6
"""Margins below this count as ties: they are rounding errors of floating point."""

TIE_BREAK = 0.125
"""Margin between two pictures with equal scores if one won their comparison: half a level on a scale of five."""


class Scale(NamedTuple):
    """The lowest and the highest score that an annotator gives."""

    low: float
    high: float


class RunningMean:
    """A running mean."""

    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, value: float) -> None:
        """Add one value."""
        self.total += value
        self.count += 1

    @property
    def value(self) -> float:
        """The mean so far. At least one value must have been added."""
        return self.total / self.count


@dataclass
class Preferences:
    """The judgements of one annotator on one aspect of one prompt's pictures.

    `scores` has the mean score of each picture over repeated judgements, scaled so that the annotator's range becomes
    [0, 1]. The keys of `preferences` are sorted pairs of image ids. For each of the two orders in which a pair was
    shown, it has the mean preference, from -1 if the second of the pair is better to 1 if the first is. The key of an
    order is True if the first of the pair was shown first.
    """

    scores: dict[str, RunningMean] = field(default_factory=dict)
    preferences: dict[tuple[str, str], dict[bool, RunningMean]] = field(default_factory=dict)

    def add(self, judgement: Judgement, scale: Scale) -> None:
        """Add one judgement, which must have scores: it is neither refused nor failed."""
        images, scores = judgement["image_ids"], judgement["scores"]
        if judgement.get("mode") == "pair":
            (lesser, left), (greater, right) = sorted(zip(images, scores, strict=True))
            orders = self.preferences.setdefault((lesser, greater), {})
            # A judgement without an order, such as a person's, counts for both orders: the pictures stood side by side.
            for lesser_came_first in (
                [images[judgement["order"][0]] == lesser] if "order" in judgement else [True, False]
            ):
                orders.setdefault(lesser_came_first, RunningMean()).add((left > right) - (left < right))
            return
        for image_id, score in zip(images, scores, strict=True):
            self.scores.setdefault(image_id, RunningMean()).add((score - scale.low) / (scale.high - scale.low))

    def pictures(self) -> set[str]:
        """The ids of all pictures that were judged."""
        return {*self.scores, *chain.from_iterable(self.preferences)}

    def difference(self, first: str, second: str) -> float | None:
        """How far `first` is above `second`, in [-1, 1]; None if nothing is known about the two.

        If both have scores, this is the difference of the scores. If these tie, it is the preference of their
        comparison times `TIE_BREAK`. If one of them has no score, it is the whole preference of their comparison. Two
        orders that contradict each other make a tie, and a comparison in one order only does not count.
        """
        preference = self._preference(first, second)
        if first not in self.scores or second not in self.scores:
            return preference
        difference = self.scores[first].value - self.scores[second].value
        return (preference or 0.0) * TIE_BREAK if abs(difference) < ROUNDING else difference

    def _preference(self, first: str, second: str) -> float | None:
        pair = (first, second) if first < second else (second, first)
        orders = self.preferences.get(pair, {})
        if len(orders) < 2:
            return None
        for_the_lesser = sum(mean.value for mean in orders.values()) / 2
        return for_the_lesser if pair[0] == first else -for_the_lesser


def tied_pairs(judgement: Judgement) -> list[tuple[str, str]]:
    """The pairs of image ids in a judgement that have the same score."""
    scored = zip(judgement["image_ids"], judgement["scores"], strict=False)
    return [(one, other) for (one, left), (other, right) in combinations(scored, 2) if left == right]


DROPPED_KEYS = frozenset(["rationales", "raw", "usage", "template", "ranking"])
"""Keys of a judgement that pairs do not need. They take most of the memory."""


def without_replaced(judgements: Iterable[Judgement], counts: Counter[str]) -> Iterator[Judgement]:
    """The judgements without those that a later one replaces. Only judgements that annotate wrote can be replaced.

    A later judgement replaces an earlier one of the same question, also if the annotator's settings or its wording have
    changed: a refresh, a retry or a new template. See `replacement_key`. `counts` is increased by all judgements that
    were read (``judgements``) and by those that were replaced (``replaced``). The keys in `DROPPED_KEYS` are removed.
    """
    kept: dict[str, Judgement] = {}
    for number, judgement in enumerate(judgements):
        counts["judgements"] += 1
        where = replacement_key(judgement) if "key" in judgement else str(number)
        counts["replaced"] += where in kept
        kept.pop(where, None)
        kept[where] = cast(Judgement, {key: value for key, value in judgement.items() if key not in DROPPED_KEYS})
    yield from kept.values()


def replacement_key(judgement: Judgement) -> str:
    """A digest that two judgements by annotate share if the later one replaces the earlier one."""
    shown = [judgement["image_ids"][index] for index in judgement.get("order", [])]
    kind = (judgement.get("mode", "list"), judgement.get("repeat", 1))
    return digest([judgement["prompt_id"], judgement["aspect"], judgement["annotator"], shown, *kind])
