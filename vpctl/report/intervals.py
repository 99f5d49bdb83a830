"""Means with bootstrap intervals. Prompts are resampled, because the pictures of one prompt are not independent."""

import math
from collections.abc import Hashable, Iterable
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

CONFIDENCE = 0.95
RESAMPLES = 10_000
MAX_CLUSTERS_IN_MEMORY = 2_000_000
"""Maximum number of sampled clusters in memory at once."""
SEED = 0
"""Fixed, so that the same data always give the same interval."""
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
    intervals of few clusters are too narrow. Percentiles further out are taken, as in Hesterberg 2015 (section 5.3).

    With fewer than `FEW` clusters the interval also covers Wilson's score interval (1927) for as many draws as there
    are clusters. A bootstrap knows only the clusters that it has: if two clusters have the same mean, its interval has
    no width. Wilson's is that of values 0 and 1, which vary most of all values with this mean.

    There are two exceptions. With a single cluster nothing is known about the variation, and the interval is the whole
    range, [`lowest`, 1]. If all values are 0, all are 1, or all are `lowest`, a bootstrap interval would have zero
    width. The interval is then the exact one of Clopper and Pearson (1934) for as many draws as there are clusters: the
    most that another value can weigh if so many draws did not have it.
    """
    sums: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        entry = sums.setdefault(cluster, [0.0, 0.0])
        entry[0] += value
        entry[1] += 1
    table = np.array(sorted(sums.values()))
    totals = table.sum(0)
    value, n = float(totals[0] / totals[1]), int(totals[1])
    if len(table) == 1:
        return Interval(value, lowest, 1.0, n, 1)
    tail, drawn = (1 - CONFIDENCE) / 2, len(table)
    if value in (lowest, 0.0, 1.0) and (table[:, 0] == value * table[:, 1]).all():
        certain = tail ** (1 / drawn)
        return Interval(value, lowest + (value - lowest) * certain, 1 - (1 - value) * certain, n, drawn)
    rng = np.random.default_rng(SEED)
    at_once = max(1, MAX_CLUSTERS_IN_MEMORY // drawn)
    means = np.concatenate(
        [_resampled(table, rng, min(at_once, RESAMPLES - done)) for done in range(0, RESAMPLES, at_once)]
    )
    wider = ndtr(math.sqrt(drawn / (drawn - 1)) * stdtrit(drawn - 1, tail))
    low, high = np.quantile(means, [wider, 1 - wider]).tolist()
    if drawn < FEW:
        least, most = (lowest + (1 - lowest) * end for end in wilson((value - lowest) / (1 - lowest), drawn))
        low, high = min(low, least), max(high, most)
    return Interval(value, low, high, n, drawn)


def wilson(share: float, draws: int) -> tuple[float, float]:
    """The ends of Wilson's score interval of a share of so many draws (Wilson 1927)."""
    z = float(ndtri((1 + CONFIDENCE) / 2))
    middle = share + z * z / (2 * draws)
    reach = z * math.sqrt(share * (1 - share) / draws + (z / (2 * draws)) ** 2)
    return max(0.0, (middle - reach) / (1 + z * z / draws)), min(1.0, (middle + reach) / (1 + z * z / draws))


def _resampled(table: np.ndarray, rng: np.random.Generator, times: int) -> np.ndarray:
    drawn = table[rng.integers(len(table), size=(times, len(table)))].sum(1)
    means: np.ndarray = drawn[:, 0] / drawn[:, 1]
    return means
