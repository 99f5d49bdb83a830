"""How far annotators agree: on which of two pictures is better, and on the scores of pictures."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

from ..judging.preferences import ROUNDING, Preferences
from ..records import Judgement
from .intervals import FEW, TAIL, Interval, bootstrap, percentiles, sums_of_resamples
from .statistics import preferred

Judged = Mapping[tuple[str, str], Preferences]
"""The judgements of one annotator, by prompt and aspect."""
MEAN = "mean of aspects"
"""Stands in place of an aspect for all that an annotator judged, which people often judge with a single question."""
TIE = 0.5
"""The side of a pair of pictures that are equally good; 1 is the first picture, 0 the second."""
SIDES = (0.0, TIE, 1.0)
RESAMPLES = 2000
PARTS = 50
"""Maximum number of parts of the prompts that a jackknife leaves out, one at a time."""


class SidedPair(NamedTuple):
    """Two pictures of a prompt, and for each annotator the better one: 1 is the first picture, 0 the second."""

    prompt: str
    aspect: str
    sides: tuple[float, ...]


def common_pairs(judged: Sequence[Judged | Mapping[tuple[str, str], "MeanOfAspects"]]) -> Iterator[SidedPair]:
    """Every two pictures that all of these annotators have compared on an aspect, by prompt and aspect."""
    first = judged[0]
    for place in (place for place in first if all(place in one for one in judged)):
        prompt, aspect = place
        known = set.intersection(*(one[place].pictures() for one in judged))
        for pair in combinations(sorted(known), 2):
            margins = [one[place].difference(*pair) for one in judged]
            sides = tuple(preferred(margin, 0.0) for margin in margins if margin is not None)
            if len(sides) == len(judged):
                yield SidedPair(prompt, aspect, sides)


class MeanOfAspects(NamedTuple):
    """What one annotator prefers of one prompt's pictures over all aspects that it judged."""

    aspects: Sequence[Preferences]

    def pictures(self) -> set[str]:
        """The ids of the pictures that were judged on every aspect."""
        return set.intersection(*(one.pictures() for one in self.aspects))

    def difference(self, first: str, second: str) -> float | None:
        """The mean over the aspects of how much better the first picture is; None if one aspect has no answer."""
        found = [margin for one in self.aspects if (margin := one.difference(first, second)) is not None]
        if len(found) < len(self.aspects):
            return None
        mean = sum(found) / len(found)
        return mean if abs(mean) >= ROUNDING else 0.0


def over_aspects(judged: Judged) -> dict[tuple[str, str], MeanOfAspects]:
    """The judgements of one annotator with all aspects of a prompt as one, `MEAN`."""
    by_prompt: dict[str, list[Preferences]] = defaultdict(list)
    for (prompt, _), said in judged.items():
        by_prompt[prompt].append(said)
    return {(prompt, MEAN): MeanOfAspects(some) for prompt, some in by_prompt.items()}


class Scored(NamedTuple):
    """A picture of a prompt, with the mean score that each annotator gave it; NaN if it gave none."""

    prompt: str
    scores: tuple[float, ...]


def common_scores(judged: Sequence[Judged], aspect: str) -> list[Scored]:
    """The pictures that at least two of these annotators scored on an aspect. Comparisons of two do not count."""
    pictures: dict[tuple[str, str], list[float]] = defaultdict(lambda: [math.nan] * len(judged))
    for number, one in enumerate(judged):
        for (prompt, what), said in one.items():
            if what == aspect:
                for picture, mean in said.scores.items():
                    pictures[prompt, picture][number] = mean.value
    return [
        Scored(prompt, tuple(scores)) for (prompt, _), scores in pictures.items() if sum(map(math.isfinite, scores)) > 1
    ]


def kappa(pairs: Sequence[SidedPair]) -> Interval:
    """Cohen's kappa (1960) of two annotators, or Fleiss' kappa (1971) of more, with its interval.

    The categories are the first picture, the second one, and a tie. Which picture is the first one is arbitrary, so
    each pair counts twice, also with its pictures exchanged. 1 is perfect agreement, 0 what chance gives. It is 0 if
    all annotators tie every pair, because then chance would agree as well.

    The interval is the wider one of two: the bootstrap of kappa, and that of the agreement alone, which also holds for
    few prompts and for prompts that all agree.
    """
    annotators = len(pairs[0].sides)
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(one.prompt for one in pairs))}
    # For each prompt: how many items; the agreeing pairs of annotators; and for each annotator its categories.
    counts = np.zeros((len(places), 2 + annotators * len(SIDES)))
    for prompt, _, sides in pairs:
        row = counts[places[prompt]]
        same = _agreed(sides)
        for turned in (sides, [1 - side for side in sides]):
            row[0] += 1
            row[1] += same
            for annotator, side in enumerate(turned):
                row[2 + annotator * len(SIDES) + SIDES.index(side)] += 1
    found = _interval(counts, lambda sums: _kappa(sums, annotators))
    agreed = bootstrap([_agreed(one.sides) for one in pairs], [one.prompt for one in pairs])
    by_chance = (agreed.value - found.value) / (1 - found.value) if found.value < 1 else _expected(counts, annotators)
    ends = [(end - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0 for end in (agreed.low, agreed.high)]
    low, high = max(-1.0, min(found.low, ends[0])), min(1.0, max(found.high, ends[1]))
    return Interval(found.value, low, high, len(pairs), found.clusters)


def _agreed(sides: Sequence[float]) -> float:
    """The share of the pairs of annotators that say the same."""
    annotators = len(sides)
    return sum(number * (number - 1) for number in Counter(sides).values()) / (annotators * (annotators - 1))


def _expected(counts: np.ndarray, annotators: int) -> float:
    """The agreement that chance gives, from the counts of all prompts."""
    sums = counts.sum(0)
    shares = sums[2:].reshape(annotators, len(SIDES)) / sums[0]
    return float((shares[0] * shares[1]).sum() if annotators == 2 else (shares.mean(0) ** 2).sum())


def _kappa(sums: np.ndarray, annotators: int) -> np.ndarray:
    """Kappas (R,) of sums of the counts (R, 2 + annotators * 3)."""
    items = sums[:, 0]
    shares = sums[:, 2:].reshape(len(sums), annotators, len(SIDES)) / items[:, None, None]
    # Cohen gives each of two annotators its own habits; Fleiss gives all of them the same.
    expected = (shares[:, 0] * shares[:, 1]).sum(1) if annotators == 2 else (shares.mean(1) ** 2).sum(1)
    agreed = sums[:, 1] / items
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = np.where(expected < 1 - 1e-12, (agreed - expected) / (1 - expected), 0.0)
    return found


def _interval(tables: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """The value of a statistic of sums over prompts, with its bootstrap interval. A row of `tables` is a prompt."""
    value = float(statistic(tables.sum(0, keepdims=True))[0])
    if len(tables) == 1:
        return Interval(value, -1.0, 1.0, 1, 1)
    low, high = percentiles(statistic(sums_of_resamples(tables, RESAMPLES)), len(tables))
    return Interval(value, low, high, len(tables), len(tables))


def correlation(scored: Sequence[Scored], method: str) -> Interval | None:
    """``spearman`` or ``kendall`` (tau-b) of two annotators' scores of pictures, with its interval. None if undefined.

    The interval is that of a jackknife over prompts; see `_jackknife`. `n` is the number of pictures.
    """
    from scipy import stats

    measure = stats.spearmanr if method == "spearman" else stats.kendalltau

    def measured(some: Sequence[Scored]) -> float:
        one, other = zip(*(scored.scores for scored in some), strict=True)
        return math.nan if min(len({*one}), len({*other})) < 2 else float(measure(one, other).statistic)

    return _jackknife(scored, measured)


def alpha(scored: Sequence[Scored]) -> Interval | None:
    """Krippendorff's alpha (2011) of annotators' scores as interval data, with its interval. None if it is undefined.

    Annotators need not have scored the same pictures. 1 is perfect agreement, 0 what chance gives. The interval comes
    from a bootstrap over prompts. Squared differences are sums of squares, so no table of all values is needed.
    """
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(one.prompt for one in scored))}
    # For each prompt: how many scores, their sum, the sum of their squares, and the disagreement within pictures.
    table = np.zeros((len(places), 4))
    for prompt, scores in scored:
        given = np.array([score for score in scores if math.isfinite(score)])
        apart = 2 * (len(given) * (given**2).sum() - given.sum() ** 2)
        table[places[prompt]] += [len(given), given.sum(), (given**2).sum(), apart / (len(given) - 1)]
    if not scored or not math.isfinite(float(_alpha(table.sum(0, keepdims=True))[0])):
        return None
    found = _interval(table, lambda sums: np.nan_to_num(_alpha(sums), nan=1.0))
    return found._replace(n=len(scored))


def _alpha(sums: np.ndarray) -> np.ndarray:
    """Alphas (R,) of the sums (R, 4); NaN where all scores are the same."""
    number, total, squares, within = sums.T
    expected = 2 * (number * squares - total**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = np.where(expected > 1e-9 * squares, 1 - (number - 1) * within / expected, np.nan)
    return found


def _jackknife(scored: Sequence[Scored], measured: Callable[[Sequence[Scored]], float]) -> Interval | None:
    """The value of a measure from -1 to 1, with its interval from a jackknife that leaves out prompts.

    The prompts are divided into at most `PARTS` parts, and each part is left out once (Shao and Tu 1995, section 2.3).
    The interval is symmetric on Fisher's scale, artanh, so that it ends between -1 and 1. With fewer than `FEW` prompts
    it is at least as wide as Fisher's for as many pictures as there are prompts. None without a value.
    """
    prompts = {prompt: place for place, prompt in enumerate(dict.fromkeys(one.prompt for one in scored))}
    value = measured(scored) if len(scored) > 1 else math.nan
    if not math.isfinite(value):
        return None
    parts = min(PARTS, len(prompts))
    if parts < 2:
        return Interval(value, -1.0, 1.0, len(scored), len(prompts))
    without = [[one for one in scored if prompts[one.prompt] % parts != part] for part in range(parts)]
    values = np.array([measured(some) if len(some) > 1 else math.nan for some in without])
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return Interval(value, -1.0, 1.0, len(scored), len(prompts))
    middle, around = (_fisher(one, len(scored)) for one in (value, values))
    error = math.sqrt((len(values) - 1) / len(values) * float(((around - around.mean()) ** 2).sum()))
    reach = -float(stdtrit(len(values) - 1, TAIL)) * error
    if len(prompts) < FEW or not error:
        reach = max(reach, -float(ndtri(TAIL)) / math.sqrt(max(1, len(prompts) - 3)))
    low, high = np.tanh([middle - reach, middle + reach]).tolist()
    return Interval(value, min(low, value), max(high, value), len(scored), len(prompts))


def _fisher(values: Any, pictures: int) -> Any:
    """Fisher's scale. A perfect correlation of so many pictures is taken as one that is half a picture short of it."""
    most = 1 - 1 / (2 * pictures)
    return np.arctanh(np.clip(values, -most, most))


class Slot(NamedTuple):
    """Whether the picture in a slot was preferred to another one: 1, 0, or 0.5 for a tie."""

    slot: int
    prompt: str
    outcome: float


def slots(judgements: Iterable[Judgement]) -> Iterator[Slot]:
    """For each judgement and every two pictures, whether each of them was preferred, by the slot it was shown in."""
    for judgement in judgements:
        shown = [judgement["scores"][index] for index in judgement.get("order", [])]
        for (one, left), (other, right) in combinations(enumerate(shown, 1), 2):
            outcome = preferred(left, right)
            yield Slot(one, judgement["prompt_id"], outcome)
            yield Slot(other, judgement["prompt_id"], 1 - outcome)


def consistency(passes: Sequence[Judged]) -> Iterator[SidedPair]:
    """The pairs of pictures that one annotator compared in two passes, for every two passes, with both sides."""
    return chain.from_iterable(common_pairs(two) for two in combinations(passes, 2))
