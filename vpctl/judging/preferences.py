"""Preferences between two pictures, from judgements: from their scores, or from direct comparisons."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, combinations
from typing import NamedTuple, cast

from ..records import Judgement, digest

ROUNDING = 1e-6
"""A smaller margin is a tie: it is a rounding error of floating-point numbers."""

TIE_BREAK = 0.125
"""Margin of two pictures with the same score if one won their comparison: half a level of five."""


class Scale(NamedTuple):
    """Lowest and highest score an annotator gives."""

    low: float
    high: float


class Mean:
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
        """The mean so far."""
        return self.total / self.count


@dataclass
class Preferences:
    """All judgements of one annotator about one prompt's pictures on one aspect.

    Scores are means over the judgements, in [0, 1] on the annotator's scale. Preferences are between two pictures: for
    each of the two orders in which they were shown, the mean preference from -1 to 1.
    """

    scores: dict[str, Mean] = field(default_factory=dict)
    preferences: dict[tuple[str, str], dict[bool, Mean]] = field(default_factory=dict)

    def add(self, judgement: Judgement, scale: Scale) -> None:
        """Add one judgement, which is neither refused nor failed."""
        images, scores = judgement["image_ids"], judgement["scores"]
        if judgement.get("mode") == "pair":
            (lesser, left), (greater, right) = sorted(zip(images, scores, strict=True))
            orders = self.preferences.setdefault((lesser, greater), {})
            # People do not record an order: they see the pictures side by side.
            for lesser_came_first in (
                [images[judgement["order"][0]] == lesser] if "order" in judgement else [True, False]
            ):
                orders.setdefault(lesser_came_first, Mean()).add((left > right) - (left < right))
            return
        for image_id, score in zip(images, scores, strict=True):
            self.scores.setdefault(image_id, Mean()).add((score - scale.low) / (scale.high - scale.low))

    def pictures(self) -> set[str]:
        """The ids of all judged pictures."""
        return {*self.scores, *chain.from_iterable(self.preferences)}

    def difference(self, first: str, second: str) -> float | None:
        """How far `first` is above `second`; None if one of them was not judged.

        If the pictures were only compared, this is their preference. If their scores are equal, it is half a level
        times the preference. Orders that contradict each other are a tie. One order alone is no preference.
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


def tied(judgement: Judgement) -> list[tuple[str, str]]:
    """The pairs of pictures, by their ids, that have the same score in a judgement."""
    scored = zip(judgement["image_ids"], judgement["scores"], strict=False)
    return [(one, other) for (one, left), (other, right) in combinations(scored, 2) if left == right]


WORDS = frozenset(["rationales", "raw", "usage", "template", "ranking"])
"""Keys of a judgement that pairs do not need, and that take most of its memory."""


def latest(judgements: Iterable[Judgement], counts: Counter[str]) -> Iterator[Judgement]:
    """The judgements without those that a later judgement replaces. Only judgements of annotate replace others.

    If an annotator judged the same pictures again in the same order and pass, only the last judgement counts. So
    --refresh, --retry and new instructions replace judgements. `counts` gets the numbers of all and of replaced ones.
    """
    kept: dict[str, Judgement] = {}
    for number, judgement in enumerate(judgements):
        counts["judgements"] += 1
        where = place(judgement) if "key" in judgement else str(number)
        counts["replaced"] += where in kept
        kept.pop(where, None)
        kept[where] = cast(Judgement, {key: value for key, value in judgement.items() if key not in WORDS})
    yield from kept.values()


def place(judgement: Judgement) -> str:
    """A hash that is equal for two judgements of annotate if the later one replaces the other."""
    shown = [judgement["image_ids"][index] for index in judgement.get("order", [])]
    kind = (judgement.get("mode", "list"), judgement.get("repeat", 1))
    return digest([judgement["prompt_id"], judgement["aspect"], judgement["annotator"], shown, *kind])
