"""How judgements turned out: what a judge that is lazy, biased or undecided would show.

Levels that are all the same, scores that depend on the place a picture was shown in, and preferences that turn round
when pictures change places, are faults of the judge and not of the pictures.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations

from .. import progress
from ..records import Judgement
from .preferences import place

LEVELS = (1, 2, 3, 4, 5)


@dataclass
class Quality:
    """What one annotator's judgements on one aspect are like."""

    judged: int = 0
    refused: int = 0
    failed: int = 0
    levels: Counter[int] = field(default_factory=Counter)
    pairs: int = 0
    ties: int = 0
    slots: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    compared: int = 0
    flips: int = 0

    @property
    def answers(self) -> int:
        """All that were given, whatever became of them."""
        return self.judged + self.refused + self.failed

    @property
    def slot_bias(self) -> float | None:
        """Mean score in the first place a picture can be shown in, above that in the last; orders are shuffled."""
        if len(self.slots) < 2:
            return None
        first, last = self.slots[min(self.slots)], self.slots[max(self.slots)]
        return first[0] / first[1] - last[0] / last[1]


Kind = tuple[str, str, str]
"""Annotator, aspect and mode."""


def measured(read: Callable[[], Iterable[Judgement]]) -> dict[Kind, Quality]:
    """The quality of judgements of a kind. They are read twice; what a later one took the place of does not count.

    `flips` counts pairs of pictures that a judge who saw them more than once preferred now one way and now the other,
    of all that it did not find equal each time.
    """
    last: dict[str, int] = {}
    for number, judgement in enumerate(read()):
        if "key" in judgement:
            last[place(judgement)] = number
    found: defaultdict[Kind, Quality] = defaultdict(Quality)
    leanings: dict[tuple[Kind, str, str], int] = {}
    for number, judgement in enumerate(read()):
        if "key" in judgement and last[place(judgement)] != number:
            continue
        kind = (judgement["annotator"], judgement["aspect"], judgement.get("mode", "list"))
        quality = found[kind]
        if "refused" in judgement or "failed" in judgement:
            quality.refused += "refused" in judgement
            quality.failed += "failed" in judgement
            continue
        quality.judged += 1
        _count(judgement, quality)
        for pair, leaning in _leanings(judgement):
            key = (kind, *pair)
            before = leanings.get(key)
            if before is not None and before and leaning:
                quality.compared += 1
                quality.flips += before != leaning
            leanings[key] = leaning or before or 0
    return dict(sorted(found.items()))


def _count(judgement: Judgement, quality: Quality) -> None:
    scores, order = judgement["scores"], judgement.get("order", [])
    quality.levels.update(round(score) for score in scores)
    for left, right in combinations(scores, 2):
        quality.pairs += 1
        quality.ties += left == right
    if len(scores) > 1:
        for turn, index in enumerate(order):
            slot = quality.slots[turn]
            slot[0] += scores[index]
            slot[1] += 1


def _leanings(judgement: Judgement) -> Iterator[tuple[tuple[str, str], int]]:
    """For every two pictures, which is preferred: 1 the one with the lesser id, -1 the other, 0 neither."""
    pictures = sorted(zip(judgement["image_ids"], judgement["scores"], strict=True))
    for (first, left), (second, right) in combinations(pictures, 2):
        yield (first, second), (left > right) - (left < right)


def summarise(read: Callable[[], Iterable[Judgement]]) -> None:
    """Show the quality of judgements to a person, a table for each annotator and mode, as wide as any terminal is."""
    tables: defaultdict[tuple[str, str], dict[str, Quality]] = defaultdict(dict)
    for (annotator, aspect, mode), quality in measured(read).items():
        tables[annotator, mode][aspect] = quality
    for (annotator, mode), aspects in tables.items():
        answers = sum(quality.answers for quality in aspects.values())
        failed = sum(quality.failed for quality in aspects.values())
        progress.table(
            f"Judged by {annotator}, {mode}{f'; {failed} of {answers} failed' if failed else ''}",
            ["aspect", "judged", "refused", "1 to 5, in %", "ties", "slots", "flips"],
            [[aspect, *_row(quality)] for aspect, quality in aspects.items()],
        )


def _row(quality: Quality) -> list[str]:
    scored = sum(quality.levels.values())
    on_levels = any(quality.levels[level] for level in LEVELS)
    shares = [f"{100 * quality.levels[level] / scored:.0f}" for level in LEVELS] if on_levels else []
    bias = quality.slot_bias
    return [
        str(quality.judged),
        _share(quality.refused, quality.answers),
        " ".join(shares),
        _share(quality.ties, quality.pairs),
        "" if bias is None else f"{bias:+.2f}",
        _share(quality.flips, quality.compared),
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else ""
