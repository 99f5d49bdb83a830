"""Means with bootstrap intervals. Prompts are resampled, because the pictures of one prompt are not independent."""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

CONFIDENCE = 0.95
RESAMPLES = 10_000
RESAMPLES_TOGETHER = 2_000
"""Number of resamples of several columns at once."""
MAX_CLUSTERS_IN_MEMORY = 2_000_000
"""Maximum number of sampled clusters in memory at once."""
ALIKE = 10
"""Clusters are drawn by kind if there are at least so many times as many clusters as kinds of them."""
SEED = 0
"""Fixed, so that the same data always give the same interval."""
TAIL = (1 - CONFIDENCE) / 2
"""The share of the resamples beyond each end."""
FEW = 10
"""With fewer clusters than this, an interval is at least as wide as Wilson's."""


class Interval(NamedTuple):
    """A mean, the ends of its interval, and the numbers of values and of clusters."""

    value: float
    low: float
    high: float
    n: int
    clusters: int


def bootstrap(values: Iterable[float], clusters: Iterable[Hashable], *, lowest: float = 0.0) -> Interval:
    """Return the mean of `values` and its 95 % interval: the percentile bootstrap that resamples whole clusters.

    The values are from `lowest` to 1: shares, or differences of shares if `lowest` is −1. `clusters` gives the cluster
    of each value; the order of the values does not matter. See Efron and Tibshirani 1993, chapter 13. Plain percentile
    intervals of few clusters, and of clusters of different sizes, are too narrow. Percentiles further out are taken, as
    in Hesterberg 2015 (section 5.3), with the standard error of the jackknife.

    With fewer than `FEW` clusters the interval also covers Wilson's score interval (1927) for as many draws as there
    are clusters. A bootstrap knows only the clusters that it has: if two clusters have the same mean, its interval has
    no width. Wilson's is that of values 0 and 1, which vary most of all values with this mean.

    There are two exceptions. With a single cluster nothing is known about the variation, and the interval is the whole
    range, [`lowest`, 1]. If all clusters have the same mean, a bootstrap interval would have zero width. The interval
    is then that of Clopper and Pearson (1934) for as many draws as there are clusters: the most that another value can
    weigh if so many draws did not have it.
    """
    table = np.array(sorted(_by_cluster(clusters, values).values()))  # in any order of the clusters the same
    totals = table.sum(0)
    value, n = float(totals[0] / totals[1]), int(totals[1])
    if len(table) == 1:
        return Interval(value, lowest, 1.0, n, 1)
    drawn = len(table)
    if _is_constant(table):
        certain = TAIL ** (1 / drawn)
        low, high = lowest + (value - lowest) * certain, 1 - (1 - value) * certain
    else:
        low, high = _ends(_resampled(table), *_expansion(table))
    if drawn < FEW:
        least, most = (lowest + (1 - lowest) * end for end in wilson((value - lowest) / (1 - lowest), drawn))
        low, high = min(low, least), max(high, most)
    return Interval(value, low, high, n, drawn)


def harmonic_mean(data_sets: Iterable[tuple[Iterable[float], Iterable[Hashable]]]) -> Interval:
    """Return the harmonic mean of the means of several data sets, with its 95 % interval.

    A data set is its values, shares from 0 to 1, and their clusters, as in `bootstrap`. A cluster that several data
    sets have is drawn for all of them at once: people of several data sets may have judged the same pictures. `n` is
    the number of data sets, `clusters` that of the one with the fewest. If it is 1, the interval is [0, 1].
    """
    tables = [_by_cluster(clusters, values) for values, clusters in data_sets]
    fewest = min(map(len, tables))
    value = float(_harmonic(_shares(tables, 0)))
    if fewest == 1:
        return Interval(value, 0.0, 1.0, len(tables), 1)
    low, high = percentiles(_harmonic(_means_of_resamples(tables, 0)), fewest)
    if fewest < FEW:
        least, most = _wilsons(tables, 0)
        low, high = min(low, least), max(high, most)
    return Interval(value, low, high, len(tables), fewest)


def harmonic_mean_difference(
    data_sets: Iterable[tuple[Iterable[float], Iterable[float], Iterable[Hashable]]],
) -> Interval:
    """Return by how much the harmonic mean of first values is above that of second values, with its 95 % interval.

    A data set is its first values, its second values of the same items, and their clusters. Otherwise as in
    `harmonic_mean`. If a data set has one cluster only, the interval is [-1, 1].
    """
    tables = [_by_cluster(clusters, values, others) for values, others, clusters in data_sets]
    fewest = min(map(len, tables))
    value = float(_harmonic(_shares(tables, 0)) - _harmonic(_shares(tables, 1)))
    if fewest == 1:
        return Interval(value, -1.0, 1.0, len(tables), 1)
    found = _harmonic(_means_of_resamples(tables, 0)) - _harmonic(_means_of_resamples(tables, 1))
    low, high = percentiles(found, fewest)
    if fewest < FEW:
        (least, most), (other_least, other_most) = _wilsons(tables, 0), _wilsons(tables, 1)
        low, high = min(low, least - other_most), max(high, most - other_least)
    return Interval(value, low, high, len(tables), fewest)


_Table = dict[Hashable, list[float]]
"""By cluster: the sum of each kind of values, and the number of items."""


def _by_cluster(clusters: Iterable[Hashable], *kinds: Iterable[float]) -> _Table:
    table: _Table = {}
    for *values, cluster in zip(*kinds, clusters, strict=True):
        row = table.setdefault(cluster, [0.0] * (len(values) + 1))
        for place, value in enumerate((*values, 1.0)):
            row[place] += value
    return table


def _shares(tables: Sequence[_Table], kind: int) -> list[float]:
    return [sum(row[kind] for row in table.values()) / sum(row[-1] for row in table.values()) for table in tables]


def _wilsons(tables: Sequence[_Table], kind: int) -> tuple[float, float]:
    """The harmonic means of the lower and of the upper ends of Wilson's intervals."""
    ends = [wilson(share, len(table)) for share, table in zip(_shares(tables, kind), tables, strict=True)]
    low, high = (float(_harmonic(some)) for some in zip(*ends, strict=True))
    return low, high


def _means_of_resamples(tables: Sequence[_Table], kind: int) -> list[np.ndarray]:
    """The means of each data set in the same resamples of the clusters of all.

    Of shares that are all the same, they are drawn by the prior of Jeffreys instead.
    """
    every = list(dict.fromkeys(cluster for table in tables for cluster in table))
    rows = np.array([[end for one in tables for end in _ends_of(one.get(cluster), kind)] for cluster in every])
    sums = sums_of_resamples(rows, RESAMPLES_TOGETHER)
    means = []
    for place, table in enumerate(tables):
        own = np.array([(row[kind], row[-1]) for row in table.values()])
        total, number = sums[:, 2 * place], sums[:, 2 * place + 1]
        # Hardly any resample has no cluster of a data set. Then nothing is known of it, and it keeps its mean.
        found = np.where(number > 0, total / np.maximum(number, 1), own[:, 0].sum() / own[:, 1].sum())
        if _is_constant(own):
            share, drawn = own[0, 0] / own[0, 1], len(own)
            rng = np.random.default_rng((SEED, place, kind))  # with the same numbers, two such kinds would not differ
            found = rng.beta(share * drawn + 0.5, (1 - share) * drawn + 0.5, RESAMPLES_TOGETHER)
        means.append(found)
    return means


def _ends_of(row: Sequence[float] | None, kind: int) -> tuple[float, float]:
    """The sum of a cluster and its number of items; 0 for a data set that does not have it."""
    return (row[kind], row[-1]) if row else (0.0, 0.0)


def _is_constant(table: np.ndarray) -> bool:
    """Whether all clusters have the same mean."""
    means = table[:, 0] / table[:, 1]
    return bool(np.ptp(means) < 1e-12)


def _harmonic(means: Sequence[Any]) -> Any:
    """The harmonic mean of numbers from 0 to 1, or of arrays of them; 0 if any of them is 0."""
    with np.errstate(divide="ignore"):
        return len(means) / sum(1 / np.asarray(mean) for mean in means)


def sums_of_resamples(tables: np.ndarray, times: int) -> np.ndarray:
    """The sums (times, K) over resamples of the rows of `tables` (N, K), which belong to one cluster each."""
    rng = np.random.default_rng(SEED)
    drawn = (rng.integers(len(tables), size=len(tables)) for _ in range(times))
    return np.stack([np.bincount(one, minlength=len(tables)) @ tables for one in drawn])


def percentiles(found: np.ndarray, clusters: int) -> tuple[float, float]:
    """The ends of the 95 % interval of an estimate, from its values `found` in the resamples of so many clusters."""
    return _ends(found, math.sqrt(clusters / (clusters - 1)), clusters - 1)


def _expansion(table: np.ndarray) -> tuple[float, float]:
    """By how much a bootstrap sees too little variation, and the degrees of freedom of Student's t.

    The first is the standard error of the jackknife, divided by that of the delta method, which the bootstrap has. For
    clusters of one size it is √(n / (n − 1)). With large and small ones it is more, because a large one draws the mean
    to itself. The second is Kish's (1965) effective number of clusters, less one.
    """
    count = len(table)
    total, weight = table.sum(0)
    value = total / weight
    spread = math.sqrt(((table[:, 0] - value * table[:, 1]) ** 2).sum()) / weight
    without = (total - table[:, 0]) / (weight - table[:, 1])
    error = math.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    effective = weight**2 / (table[:, 1] ** 2).sum()
    return error / spread if spread else 1.0, max(1.0, effective - 1)


def _ends(found: np.ndarray, expansion: float, freedom: float) -> tuple[float, float]:
    """The expanded percentiles of an estimate's values in the resamples."""
    wider = ndtr(expansion * stdtrit(freedom, TAIL))
    low, high = np.quantile(found, [wider, 1 - wider]).tolist()
    return low, high


def wilson(share: float, draws: int) -> tuple[float, float]:
    """The ends of Wilson's score interval of a share of so many draws (Wilson 1927)."""
    z = float(ndtri((1 + CONFIDENCE) / 2))
    middle = share + z * z / (2 * draws)
    reach = z * math.sqrt(share * (1 - share) / draws + (z / (2 * draws)) ** 2)
    return max(0.0, (middle - reach) / (1 + z * z / draws)), min(1.0, (middle + reach) / (1 + z * z / draws))


def _resampled(table: np.ndarray) -> np.ndarray:
    """The means (RESAMPLES,) of resamples of the clusters in a table of sums and numbers."""
    rng = np.random.default_rng(SEED)
    drawn = len(table)
    kinds, counts = np.unique(table, axis=0, return_counts=True)
    if ALIKE * len(kinds) <= drawn:  # to draw how often each kind occurs is the same, and there are few
        totals = rng.multinomial(drawn, counts / drawn, size=RESAMPLES) @ kinds
        found: np.ndarray = totals[:, 0] / totals[:, 1]
        return found
    at_once = max(1, MAX_CLUSTERS_IN_MEMORY // drawn)
    times = (min(at_once, RESAMPLES - done) for done in range(0, RESAMPLES, at_once))
    sums = (table[rng.integers(drawn, size=(some, drawn))].sum(1) for some in times)
    return np.concatenate([one[:, 0] / one[:, 1] for one in sums])
