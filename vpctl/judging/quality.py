"""Measures the quality of judgements: signs of a judge that is lazy, biased or undecided.

Three things are faults of the judge and not of the pictures: all levels are the same, scores depend on the position in
which a picture was shown, or preferences flip when pictures change places.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

from .. import progress
from ..records import Judgement

LEVELS = (1, 2, 3, 4, 5)


@dataclass
class Series:
    """Numbers, each with the id of the prompt it belongs to."""

    values: list[float] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)

    def add(self, value: float, prompt: str) -> None:
        """Append one number."""
        self.values.append(value)
        self.prompts.append(prompt)

    @property
    def mean(self) -> float | None:
        """The mean; None if there are no numbers."""
        return sum(self.values) / len(self.values) if self.values else None


@dataclass
class Quality:
    """Statistics of one annotator on one aspect in one mode. All series but `scores` and `slots` have values of 0 or 1.

    - refused, failed: one value per answer
    - scores: one value per picture
    - ties: one value per pair of pictures in a judgement; 1 if their scores are equal
    - slots: one value per judgement of several pictures, the score of the picture shown first minus that of the picture
      shown last. Orders are shuffled, so the mean is near 0 for a judge without position bias.
    - flips: one value each time a judge sees two pictures again and prefers one of them both times; 1 if it changed its
      mind
    """

    refused: Series = field(default_factory=Series)
    failed: Series = field(default_factory=Series)
    scores: Series = field(default_factory=Series)
    ties: Series = field(default_factory=Series)
    slots: Series = field(default_factory=Series)
    flips: Series = field(default_factory=Series)

    @property
    def answers(self) -> int:
        """The number of all answers: judgements, refusals and failures."""
        return len(self.refused.values)

    @property
    def judged(self) -> int:
        """The number of answers with scores."""
        return self.answers - int(sum(self.refused.values) + sum(self.failed.values))

    @property
    def levels(self) -> Counter[int]:
        """How often each level was given; see `level_of`."""
        return Counter(map(level_of, self.scores.values))


def level_of(score: float) -> int:
    """The level that is nearest to a score; the higher one if two are."""
    return math.floor(score + 0.5)


KindOfJudgement = tuple[str, str, str]
"""Annotator, aspect and mode."""


def measure_quality(judgements: Iterable[Judgement]) -> dict[KindOfJudgement, Quality]:
    """The quality of judgements by kind. Replaced judgements must not be among them: see `without_replaced`."""
    found: defaultdict[KindOfJudgement, Quality] = defaultdict(Quality)
    leanings: dict[tuple[KindOfJudgement, str, str, str], int] = {}
    for judgement in judgements:
        kind = (judgement["annotator"], judgement["aspect"], judgement.get("mode", "list"))
        quality, prompt = found[kind], judgement["prompt_id"]
        quality.refused.add("refused" in judgement, prompt)
        quality.failed.add("failed" in judgement and "refused" not in judgement, prompt)
        if "refused" in judgement or "failed" in judgement:
            continue
        _count(judgement, quality)
        for pair, leaning in _leanings(judgement):
            key = (kind, prompt, *pair)
            before = leanings.get(key)
            if before and leaning:
                quality.flips.add(before != leaning, prompt)
            leanings[key] = leaning or before or 0
    return dict(sorted(found.items()))


def _count(judgement: Judgement, quality: Quality) -> None:
    scores, order, prompt = judgement["scores"], judgement.get("order", []), judgement["prompt_id"]
    for score in scores:
        quality.scores.add(score, prompt)
    for left, right in combinations(scores, 2):
        quality.ties.add(left == right, prompt)
    if len(order) > 1:
        quality.slots.add(scores[order[0]] - scores[order[-1]], prompt)


def _leanings(judgement: Judgement) -> Iterator[tuple[tuple[str, str], int]]:
    """For every pair of pictures, their sorted ids and the preferred one: 1 for the first, -1 the second, 0 neither."""
    pictures = sorted(zip(judgement["image_ids"], judgement["scores"], strict=True))
    for (first, left), (second, right) in combinations(pictures, 2):
        yield (first, second), (left > right) - (left < right)


def print_tables(found: Mapping[KindOfJudgement, Quality]) -> None:
    """Print the result of `measure_quality` on stderr: a table of at most 80 columns for each annotator and mode."""
    tables: defaultdict[tuple[str, str], dict[str, Quality]] = defaultdict(dict)
    for (annotator, aspect, mode), quality in found.items():
        tables[annotator, mode][aspect] = quality
    for (annotator, mode), aspects in tables.items():
        answers = sum(quality.answers for quality in aspects.values())
        failed = sum(int(sum(quality.failed.values)) for quality in aspects.values())
        progress.table(
            f"Judged by {annotator}, {mode}{f'; {failed} of {answers} failed' if failed else ''}",
            ["aspect", "judged", "refused", "1 to 5, in %", "ties", "slots", "flips"],
            [[aspect, *_row(quality)] for aspect, quality in aspects.items()],
        )


def on_levels(quality: Quality) -> bool:
    """Whether any score, rounded, is one of the levels 1 to 5."""
    return any(level in quality.levels for level in LEVELS)


def _row(quality: Quality) -> list[str]:
    scored, levels, bias = len(quality.scores.values), quality.levels, quality.slots.mean
    return [
        str(quality.judged),
        _share(quality.refused),
        " ".join(f"{100 * levels[level] / scored:.0f}" for level in LEVELS) if on_levels(quality) else "",
        _share(quality.ties),
        "" if bias is None else f"{bias:+.2f}",
        _share(quality.flips),
    ]


def _share(series: Series) -> str:
    return "" if series.mean is None else f"{series.mean:.0%}"
