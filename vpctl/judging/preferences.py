"""What judgements say of two pictures: scores that are compared, and comparisons that were asked for."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, combinations
from typing import NamedTuple, cast

from ..records import Judgement, digest

ROUNDING = 1e-6
"""Margins below this are what floating point leaves of a tie."""

TIE_BREAK = 0.125
"""Margin of two pictures with the same level if one won their comparison: half a level of five."""


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
        """Take one more value in."""
        self.total += value
        self.count += 1

    @property
    def value(self) -> float:
        """The mean so far."""
        return self.total / self.count


@dataclass
class Preferences:
    """What one annotator said on one aspect of one prompt's pictures.

    Scores are means of repeated judgements, in [0, 1] of the annotator's scale. Preferences are of
    two pictures: for each of the two orders they were shown in, the mean preference from -1 to 1.
    """

    scores: dict[str, Mean] = field(default_factory=dict)
    preferences: dict[tuple[str, str], dict[bool, Mean]] = field(default_factory=dict)

    def add(self, judgement: Judgement, scale: Scale) -> None:
        """Take one judgement in; it is neither refused nor failed."""
        images, scores = judgement["image_ids"], judgement["scores"]
        if judgement.get("mode") == "pair":
            (lesser, left), (greater, right) = sorted(zip(images, scores, strict=True))
            orders = self.preferences.setdefault((lesser, greater), {})
            # Who does not say in which order the pictures were seen, as people do not, saw them side by side.
            for lesser_came_first in (
                [images[judgement["order"][0]] == lesser] if "order" in judgement else [True, False]
            ):
                orders.setdefault(lesser_came_first, Mean()).add((left > right) - (left < right))
            return
        for image_id, score in zip(images, scores, strict=True):
            self.scores.setdefault(image_id, Mean()).add((score - scale.low) / (scale.high - scale.low))

    def pictures(self) -> set[str]:
        """All that were judged."""
        return {*self.scores, *chain.from_iterable(self.preferences)}

    def difference(self, first: str, second: str) -> float | None:
        """How far `first` is above `second`; None if they were not judged both.

        Where they were only compared, the preference counts whole, and where their scores tie, as half a level. Orders
        that contradict each other are a tie, and one order alone is no preference.
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
    """Which of a judgement's pictures, by their ids, have the same score."""
    scored = zip(judgement["image_ids"], judgement["scores"], strict=False)
    return [(one, other) for (one, left), (other, right) in combinations(scored, 2) if left == right]


WORDS = frozenset(["rationales", "raw", "usage", "template", "ranking"])
"""Of a judgement, what no pair is made of, and what takes most of the room."""


def latest(judgements: Iterable[Judgement], counts: Counter[str]) -> Iterator[Judgement]:
    """The judgements without those that a later one took the place of, which is one that annotate wrote.

    Of those that differ in nothing but what the annotator was asked with, or in nothing, the last counts: a refresh, a
    retry, or a new wording takes the place of what was there. `counts` has all that were read and all replaced.
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
    """What two judgements that annotate wrote have in common if the later one takes the place of the other."""
    shown = [judgement["image_ids"][index] for index in judgement.get("order", [])]
    kind = (judgement.get("mode", "list"), judgement.get("repeat", 1))
    return digest([judgement["prompt_id"], judgement["aspect"], judgement["annotator"], shown, *kind])
