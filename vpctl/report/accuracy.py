"""Preference accuracy: how often scores order two pictures of a prompt as the labels do, in the definitions in use.

Published accuracies of one reward on one data set differ by several points, because papers count ties differently. The
definitions agree if neither the labels nor the scores have ties and every prompt has as many pairs.

=============  ==================  ====================  ==================  =============
definition     labels tie          scores tie            both tie            mean over
=============  ==================  ====================  ==================  =============
`ties_half`    0.5                 0.5                   0.5                 pairs
`pooled`       dropped             0                     dropped             pairs
`per_prompt`   dropped             0                     dropped             prompts
`ties_count`   1                   1                     1                   prompts
`tie_aware`    0.5                 0.5                   1                   pairs
=============  ==================  ====================  ==================  =============

If there is no tie, all of them count 1 for the same order and 0 for the opposite one.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from ..records import Report
from .statistics import as_report, mean_difference_report, mean_report, preferred

HEADLINE = "accuracy"
"""The metric of `ties_half`, vpctl's own definition."""
HARMONIC_MEAN = "accuracy_harmonic_mean"
TIE_AWARE = "tie-aware"
DEFINITIONS = ("pooled", "per-prompt", "ties-count", TIE_AWARE)
"""The names of the other definitions. The metric of a report has underscores, and `accuracy_` before it."""
TIE = 0.5
THRESHOLDS = tuple(step / 10 for step in range(11))
"""The thresholds that PickScore's evaluation tries."""


class LabelledPair(NamedTuple):
    """Two pictures of a prompt: which one the labels prefer, and the scores of both.

    `label` is 1 if the first picture is better, 0 if the second one is, and 0.5 if they are equally good. A higher
    score predicts the better picture. Scores that are nearly equal are a tie; see `statistics.preferred`.
    """

    prompt: str
    label: float
    first: float
    second: float

    @property
    def predicted(self) -> float:
        """Which picture the scores prefer: 1, 0 or 0.5, as in `label`."""
        return preferred(self.first, self.second)


class Accuracy(NamedTuple):
    """An accuracy as the values that it is the mean of, in [0, 1], with the prompt of each.

    A value belongs to a pair or to a prompt. `pairs` is the number of pairs that count, `ties` how many of them the
    scores tie, and `label_ties` how many of all pairs the labels tie. `chance` is the expected accuracy of scores that
    tie as many pairs, but at random, and order the other pairs at random.
    """

    values: list[float]
    prompts: list[str]
    pairs: int
    ties: int
    label_ties: int
    chance: float

    @property
    def value(self) -> float:
        """The accuracy."""
        return sum(self.values) / len(self.values)

    def report(self, **keys: object) -> Report:
        """The accuracy with its interval, from a bootstrap over prompts. `keys` are further keys of the record."""
        return mean_report(self.values, self.prompts, **keys, chance=self.chance, pairs=self.pairs, ties=self.ties)


def ties_half(pairs: Iterable[LabelledPair]) -> Accuracy:
    """The share of pairs in the right order, where a tie of the labels or of the scores counts one half.

    vpctl's own definition. Scores that order at random get 0.5, however many ties there are.
    """
    found = [*pairs]
    values = [TIE if TIE in (one.label, one.predicted) else float(one.label == one.predicted) for one in found]
    return _over_pairs(found, values, _score_ties(found), 0.5)


def pooled(pairs: Iterable[LabelledPair]) -> Accuracy:
    """The share of pairs in the right order, without the pairs that the labels tie. A tie of the scores is wrong.

    Used by ImageReward (Xu et al. 2023, arXiv 2304.05977), by MPS (Zhang et al. 2024, arXiv 2405.14705) on the labels
    of ImageReward, and by HPSv3 (Ma et al. 2025, arXiv 2508.03789). Raises `ValueError` if the labels tie every pair.
    """
    found = [*pairs]
    kept = _without_label_ties(found)
    values = [float(one.label == one.predicted) for one in kept]
    ties = _score_ties(kept)
    return _over_pairs(kept, values, ties, (1 - ties / len(kept)) / 2)._replace(label_ties=len(found) - len(kept))


def per_prompt(pairs: Iterable[LabelledPair]) -> Accuracy:
    """The mean over prompts of `pooled`, so that a prompt with many pictures counts no more than one with few.

    Used by HPSv2 (Wu et al. 2023, arXiv 2306.09341) on ImageReward's labels. A prompt whose pairs are all tied by the
    labels is left out. Raises `ValueError` if that is every prompt.
    """
    accuracy = pooled(pairs)
    return _means(accuracy, accuracy.chance)


def ties_count(pairs: Iterable[LabelledPair]) -> Accuracy:
    """The mean over prompts of 1 − inversions / (n (n − 1) / 2), for n pictures. A tie of either side is no inversion.

    Used by HPSv2 (Wu et al. 2023, arXiv 2306.09341) on HPDv2, whose labels have no ties. Where labels have ties, chance
    is above one half, and scores that are all equal get 1.
    """
    found = [*pairs]
    values = [float(TIE in (one.label, one.predicted) or one.label == one.predicted) for one in found]
    ties = _score_ties(found)
    guessed = (1 + ties / len(found)) / 2
    expected = _over_pairs(found, [1.0 if one.label == TIE else guessed for one in found], ties, 0.0)
    return _means(_over_pairs(found, values, ties, 0.0), _means(expected, 0.0).value)


def tie_aware(pairs: Iterable[LabelledPair], threshold: float = 0.0) -> Accuracy:
    """The share of pairs predicted rightly, if scores can predict a tie. One half if exactly one side is a tie.

    Used by PickScore (Kirstain et al. 2023, arXiv 2305.01569). The scores are logits: the first picture is preferred
    with the probability p = σ(first − second), the second one with 1 − p. A tie is predicted if these probabilities
    differ by at most `threshold`, in [0, 1]. `best_threshold` chooses it, on other prompts.
    """
    found = [*pairs]
    predicted = [TIE if _gap(one) <= threshold else one.predicted for one in found]
    values = [
        float(one.label == said) if (one.label == TIE) == (said == TIE) else 0.5
        for one, said in zip(found, predicted, strict=True)
    ]
    ties, label_ties = predicted.count(TIE), sum(one.label == TIE for one in found)
    return _over_pairs(found, values, ties, 0.5 + 0.5 * ties * label_ties / len(found) ** 2)


def best_threshold(pairs: Iterable[LabelledPair]) -> float:
    """The one of `THRESHOLDS` with the highest `tie_aware` accuracy; the smallest if several have it."""
    found = [*pairs]
    return max(THRESHOLDS, key=lambda threshold: tie_aware(found, threshold).value)


def in_definitions(
    pairs: Iterable[LabelledPair], definitions: Collection[str] = (), threshold: float = 0.0
) -> dict[str, Accuracy]:
    """The accuracy in each definition, by metric: vpctl's own first, then those of `DEFINITIONS` that are named.

    The name `all` stands for all of them. `threshold` is that of `tie_aware`. vpctl's own leaves out the pairs that the
    labels tie, so that it is the same number whether ties were kept or not. They cannot be all.
    """
    found = [*pairs]
    functions: tuple[Callable[[list[LabelledPair]], Accuracy], ...] = (
        pooled,
        per_prompt,
        ties_count,
        partial(tie_aware, threshold=threshold),
    )
    others = {
        f"{HEADLINE}_{name.replace('-', '_')}": function(found)
        for name, function in zip(DEFINITIONS, functions, strict=True)
        if name in definitions or "all" in definitions
    }
    return {HEADLINE: ties_half(_without_label_ties(found)), **others}


def reports_of(found: Mapping[str, Accuracy], threshold: float, **keys: object) -> list[Report]:
    """The reports of accuracies by metric. `keys` are further keys of every record."""
    reports = []
    for metric, one in found.items():
        if metric == HEADLINE:
            reports.append(mean_report(one.values, one.prompts, **keys, metric=metric, pairs=one.pairs, ties=one.ties))
        else:
            more = {"threshold": threshold} if metric.endswith("tie_aware") else {}
            reports.append(one.report(**keys, metric=metric, **more))
    return reports


def difference_report(one: Accuracy, other: Accuracy, **keys: object) -> Report:
    """The accuracy `one` minus the accuracy `other`, with its interval, from a bootstrap over prompts.

    Both are of the same definition and of the same pairs in the same order, with other scores. Their values are
    subtracted before the bootstrap, because both scorers find the same pairs hard. So the interval is usually narrower
    than the intervals of the two accuracies suggest.
    """
    values = [mine - theirs for mine, theirs in zip(one.values, other.values, strict=True)]
    return mean_difference_report(values, one.prompts, **keys, pairs=one.pairs)


def harmonic_mean_report(accuracies: Sequence[Accuracy], **keys: object) -> Report:
    """The harmonic mean of accuracies on several data sets, with its interval. `n` is the number of data sets.

    A prompt that several data sets have is drawn for all of them at once. Table 2 of VisionPrefer (Wu et al. 2024,
    arXiv 2404.15100) has this mean.
    """
    from .intervals import harmonic_mean

    found = harmonic_mean([(one.values, one.prompts) for one in accuracies])
    return as_report(found, metric=HARMONIC_MEAN, **keys)


def harmonic_mean_difference_report(
    accuracies: Sequence[Accuracy], others: Sequence[Accuracy], **keys: object
) -> Report:
    """The harmonic mean of accuracies minus that of others on the same pairs, with its interval."""
    from .intervals import harmonic_mean_difference

    both = zip(accuracies, others, strict=True)
    found = harmonic_mean_difference([(one.values, other.values, one.prompts) for one, other in both])
    return as_report(found, metric=f"{HARMONIC_MEAN}_difference", **keys)


def _gap(pair: LabelledPair) -> float:
    """How much the probabilities of the two preferences differ: |2 σ(d) − 1| = tanh(|d| / 2)."""
    return 0.0 if pair.predicted == TIE else math.tanh(abs(pair.first - pair.second) / 2)


def _score_ties(pairs: Sequence[LabelledPair]) -> int:
    return sum(one.predicted == TIE for one in pairs)


def _without_label_ties(pairs: Sequence[LabelledPair]) -> list[LabelledPair]:
    kept = [one for one in pairs if one.label != TIE]
    if not kept:
        raise ValueError("the labels prefer no picture to another")
    return kept


def _over_pairs(pairs: Sequence[LabelledPair], values: list[float], ties: int, chance: float) -> Accuracy:
    """The accuracy whose values are those of `pairs`."""
    label_ties = sum(one.label == TIE for one in pairs)
    return Accuracy(values, [one.prompt for one in pairs], len(pairs), ties, label_ties, chance)


def _means(accuracy: Accuracy, chance: float) -> Accuracy:
    """The same accuracy as a mean over prompts of the means over their pairs."""
    by_prompt: dict[str, list[float]] = defaultdict(list)
    for prompt, value in zip(accuracy.prompts, accuracy.values, strict=True):
        by_prompt[prompt].append(value)
    means = [sum(values) / len(values) for values in by_prompt.values()]
    return accuracy._replace(values=means, prompts=[*by_prompt], chance=chance)
