"""Turns judgements into preferences between two pictures, from scores and from pairwise comparisons."""

import math
from bisect import insort
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, pairwise
from typing import NamedTuple, cast

from ..records import Judgement, digest

ROUNDING = 1e-6
"""Margins below this count as ties: they are rounding errors of floating point."""

TIE_BREAK = 0.125
"""Margin between two pictures with equal scores if one won their comparison, or was ranked before the other: half a
level on a scale of five."""


PREFERENCE = "preference"
"""The aspect of a judgement that says only which picture a person prefers."""
BEST = 5
"""The highest score that people's votes become."""


def scores_of_ranks(ranks: Sequence[int]) -> list[float]:
    """Scores from 1 to 5 for ranks; rank 1 is the best. Equal ranks have equal scores.

    Up to rank 5 the score is 6 - rank. If there are more ranks, they are spread over the scale.
    """
    last = max(ranks, default=1)
    step = 1.0 if last <= BEST else (BEST - 1) / (last - 1)
    return [BEST - step * (rank - 1) for rank in ranks]


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


class RunningMedian:
    """A running median: the middle value, or the mean of the two in the middle."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: list[float] = []

    def add(self, value: float) -> None:
        """Add one value."""
        insort(self._values, value)

    @property
    def value(self) -> float:
        """The median so far. At least one value must have been added."""
        middle = len(self._values) // 2
        return self._values[middle] if len(self._values) % 2 else sum(self._values[middle - 1 : middle + 1]) / 2


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float | None:
    """The weighted mean; None if no weight is above 0."""
    total = sum(weights)
    return sum(weight * value for value, weight in zip(values, weights, strict=True)) / total if total else None


def weighted_median(values: Sequence[float], weights: Sequence[float]) -> float | None:
    """The weighted median: the value with half of the weight on either side; None if no weight is above 0.

    If there is none, because half of the weight ends between two values, it is their mean.
    """
    rising = sorted((value, weight) for value, weight in zip(values, weights, strict=True) if weight > 0)
    half, below = sum(weights) / 2, 0.0
    for (value, weight), (after, _) in pairwise([*rising, (math.nan, 0.0)]):
        below += weight
        if abs(below - half) <= 1e-9 * half:
            return (value + after) / 2
        if below > half:
            return value
    return None


@dataclass
class Preferences:
    """The judgements of one annotator on one aspect of one prompt's pictures.

    `scores` has the mean score of each picture over repeated judgements, scaled so that the annotator's range becomes
    [0, 1]. The keys of `preferences` are sorted pairs of image ids. For each of the two orders in which a pair was
    shown, it has the mean preference, from -1 if the second of the pair is better to 1 if the first is. The key of an
    order is True if the first of the pair was shown first. `places` has the mean place of each picture in the rankings,
    counted from 0, the best. Rankings that contradict their scores are left out. With `over=RunningMedian` all means
    are medians.
    """

    over: type[RunningMean] | type[RunningMedian] = RunningMean
    scores: dict[str, RunningMean | RunningMedian] = field(default_factory=dict)
    places: dict[str, RunningMean | RunningMedian] = field(default_factory=dict)
    preferences: dict[tuple[str, str], dict[bool, RunningMean | RunningMedian]] = field(default_factory=dict)

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
                orders.setdefault(lesser_came_first, self.over()).add((left > right) - (left < right))
            return
        low, width = scale.low, scale.high - scale.low
        for image_id, score in zip(images, scores, strict=True):
            self._of(self.scores, image_id).add((score - low) / width)
        ranking = judgement.get("ranking", ())
        if ranking and agrees(ranking, scores):
            for place, index in enumerate(ranking):
                self._of(self.places, images[index]).add(place)

    def _of(self, known: dict[str, RunningMean | RunningMedian], image_id: str) -> RunningMean | RunningMedian:
        """What is known of a picture."""
        if (found := known.get(image_id)) is None:
            found = known[image_id] = self.over()
        return found

    def pictures(self) -> set[str]:
        """The ids of all pictures that were judged."""
        return {*self.scores, *chain.from_iterable(self.preferences)}

    def differences(self, images: Sequence[str]) -> list[float | None]:
        """The `difference` of every two pictures, in the order of `itertools.combinations`."""
        means = [self.scores[image].value if image in self.scores else None for image in images]
        found: list[float | None] = []
        for (first, one), (second, other) in combinations(zip(images, means, strict=True), 2):
            if one is None or other is None or -ROUNDING < one - other < ROUNDING:
                found.append(self.difference(first, second))
            else:
                found.append(one - other)
        return found

    def difference(self, first: str, second: str) -> float | None:
        """How far `first` is above `second`, in [-1, 1]; None if nothing is known about the two.

        If both have scores, this is the difference of the scores. If these tie, it is the preference of their
        comparison times `TIE_BREAK`; without a comparison, it is that of their rankings. If one of them has no score,
        it is the whole preference of their comparison. Two orders that contradict each other make a tie, and a
        comparison in one order only does not count.
        """
        one, other = self.scores.get(first), self.scores.get(second)
        if one is None or other is None:
            return self._preference(first, second)
        difference = one.value - other.value
        if not -ROUNDING < difference < ROUNDING:
            return difference
        preference = self._preference(first, second)
        return (self._ranked(first, second) if preference is None else preference) * TIE_BREAK

    def _ranked(self, first: str, second: str) -> float:
        """How far the rankings prefer `first`, in [-1, 1]: the difference of the mean places, at most one place."""
        if first not in self.places or second not in self.places:
            return 0.0
        return max(-1.0, min(1.0, self.places[second].value - self.places[first].value))

    def _preference(self, first: str, second: str) -> float | None:
        if not self.preferences:
            return None
        pair = (first, second) if first < second else (second, first)
        orders = self.preferences.get(pair, {})
        if len(orders) < 2:
            return None
        for_the_lesser = sum(mean.value for mean in orders.values()) / 2
        return for_the_lesser if pair[0] == first else -for_the_lesser


def agrees(ranking: Sequence[int], scores: Sequence[float]) -> bool:
    """Whether a ranking, which has indices into `scores`, the best first, puts none before one with a higher score."""
    return all(scores[better] >= scores[worse] for better, worse in pairwise(ranking))


def tied_pairs(judgement: Judgement) -> list[tuple[str, str]]:
    """The pairs of image ids in a judgement that have the same score."""
    scored = zip(judgement["image_ids"], judgement["scores"], strict=False)
    return [(one, other) for (one, left), (other, right) in combinations(scored, 2) if left == right]


DROPPED_KEYS = frozenset(["rationales", "raw", "usage", "asked", "template", "ranking"])
"""Keys of a judgement that preferences by score do not need. They take most of the memory."""


def without_replaced(
    judgements: Iterable[Judgement], counts: Counter[str], *, keep: Container[str] = ()
) -> Iterator[Judgement]:
    """The judgements without those that a later one replaces, and without the keys in `DROPPED_KEYS`.

    Keys in `keep` stay. See `latest`.
    """
    dropped = {key for key in DROPPED_KEYS if key not in keep}
    read = enumerate(_without(judgement, dropped) for judgement in judgements)
    return (judgement for _, judgement in latest(read, counts))


def _without(judgement: Judgement, dropped: Container[str]) -> Judgement:
    return cast(Judgement, {key: value for key, value in judgement.items() if key not in dropped})


def latest(judgements: Iterable[tuple[int, Judgement]], counts: Counter[str]) -> Iterator[tuple[int, Judgement]]:
    """The judgements without those that a later one replaces. Each comes with its own number, which is kept.

    A later judgement replaces an earlier one of the same question, also if the annotator's settings or its wording have
    changed: a refresh, a retry or a new template. See `replacement_key`. Only judgements that annotate wrote can be
    replaced. `counts` is increased by all judgements that were read (``judgements``) and by those that were replaced
    (``replaced``).
    """
    kept: dict[str, tuple[int, Judgement]] = {}
    for number, judgement in judgements:
        counts["judgements"] += 1
        where = replacement_key(judgement) if "key" in judgement else str(number)
        if where in kept:
            counts["replaced"] += 1
            del kept[where]
        kept[where] = number, judgement
    yield from kept.values()


def replacement_key(judgement: Judgement) -> str:
    """A digest that two judgements by annotate share if the later one replaces the earlier one.

    A judgement without an order is of pictures that a person saw side by side, whichever was on the left.
    """
    images = judgement["image_ids"]
    shown = [images[index] for index in judgement["order"]] if "order" in judgement else sorted(images)
    kind = (judgement.get("mode", "list"), judgement.get("repeat", 1))
    return digest([judgement["prompt_id"], judgement["aspect"], judgement["annotator"], shown, *kind])
