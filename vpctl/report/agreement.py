"""How far annotators agree: on which of two pictures is better, and on the scores of pictures."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from ..judging.preferences import Preferences
from ..records import Judgement
from .intervals import CONFIDENCE, Interval, percentiles, sums_of_resamples
from .statistics import preferred

Judged = Mapping[tuple[str, str], Preferences]
"""The judgements of one annotator, by prompt and aspect."""
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


def common_pairs(judged: Sequence[Judged]) -> Iterator[SidedPair]:
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
    all say the same of every pair, because then chance would agree as well.
    """
    annotators = len(pairs[0].sides)
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(one.prompt for one in pairs))}
    # For each prompt: how many items; the agreeing pairs of annotators; and for each annotator its categories.
    counts = np.zeros((len(places), 2 + annotators * len(SIDES)))
    for prompt, _, sides in pairs:
        row = counts[places[prompt]]
        same = Counter(sides)
        for turned in (sides, [1 - side for side in sides]):
            row[0] += 1
            row[1] += sum(number * (number - 1) for number in same.values()) / (annotators * (annotators - 1))
            for annotator, side in enumerate(turned):
                row[2 + annotator * len(SIDES) + SIDES.index(side)] += 1
    found = _interval(counts, lambda sums: _kappa(sums, annotators))
    return found._replace(n=len(pairs))


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

    Annotators need not have scored the same pictures. 1 is perfect agreement, 0 what chance gives.
    """
    import krippendorff

    def measured(some: Sequence[Scored]) -> float:
        table = np.array([one.scores for one in some]).T
        if len(np.unique(table[np.isfinite(table)])) < 2:
            return math.nan
        return float(krippendorff.alpha(reliability_data=table, level_of_measurement="interval"))

    return _jackknife(scored, measured)


def _jackknife(scored: Sequence[Scored], measured: Callable[[Sequence[Scored]], float]) -> Interval | None:
    """The value of a measure from -1 to 1, with its interval from a jackknife that leaves out prompts.

    The prompts are divided into at most `PARTS` parts, and each part is left out once (Shao and Tu 1995, section 2.3).
    The interval is symmetric on Fisher's scale, artanh, so that it ends between -1 and 1. None without a value.
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
    middle, around = _fisher(value), _fisher(values)
    error = math.sqrt((len(values) - 1) / len(values) * float(((around - around.mean()) ** 2).sum()))
    reach = -float(stdtrit(len(values) - 1, (1 - CONFIDENCE) / 2)) * error
    low, high = np.tanh([middle - reach, middle + reach]).tolist()
    return Interval(value, min(low, value), max(high, value), len(scored), len(prompts))


def _fisher(values: Any) -> Any:
    return np.arctanh(np.clip(values, -1 + 1e-9, 1 - 1e-9))


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
