"""Numbers with their intervals: bootstrap over prompts, since the pictures of one prompt are not independent."""

import math
from collections.abc import Hashable, Iterable
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

CONFIDENCE = 0.95
RESAMPLES = 10_000
DRAWN_AT_ONCE = 2_000_000
"""Clusters, of all resamples in memory together."""
SEED = 0
"""The interval of the same data is the same number every time."""


class Interval(NamedTuple):
    """A mean with its interval, and how many values it rests on."""

    value: float
    low: float
    high: float
    n: int


def bootstrap(values: Iterable[float], clusters: Iterable[Hashable]) -> Interval:
    """Mean of `values` with its 95 % percentile interval, whole clusters being drawn with replacement.

    Efron and Tibshirani 1993, chapter 13, with the percentiles expanded as Hesterberg 2015 (section 5.3) does it, since
    those of few clusters are too narrow. The order of the values does not matter. With a single cluster nothing can
    be said, and the interval is all of [0, 1], which shares lie in. Where all values are 0, or all 1, a bootstrap would
    say that nothing else can be; the interval is then the exact one of Clopper and Pearson (1934) for as many draws as
    there are clusters.
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
        return Interval(value, 0.0, 1.0, n)
    tail, drawn = (1 - CONFIDENCE) / 2, len(table)
    if value in (0.0, 1.0) and (table[:, 0] == value * table[:, 1]).all():
        certain = tail ** (1 / drawn)
        return Interval(value, value * certain, 1 - (1 - value) * certain, n)
    rng = np.random.default_rng(SEED)
    at_once = max(1, DRAWN_AT_ONCE // drawn)
    means = np.concatenate(
        [_resampled(table, rng, min(at_once, RESAMPLES - done)) for done in range(0, RESAMPLES, at_once)]
    )
    wider = ndtr(math.sqrt(drawn / (drawn - 1)) * stdtrit(drawn - 1, tail))
    low, high = np.quantile(means, [wider, 1 - wider])
    return Interval(value, float(low), float(high), n)


def _resampled(table: np.ndarray, rng: np.random.Generator, times: int) -> np.ndarray:
    drawn = table[rng.integers(len(table), size=(times, len(table)))].sum(1)
    means: np.ndarray = drawn[:, 0] / drawn[:, 1]
    return means
