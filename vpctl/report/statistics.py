"""What evaluations count and report: preferences, and means with intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from ..records import Report

if TYPE_CHECKING:
    from .intervals import Interval

COUNT = "count"
"""The metric of a number that was counted: it has no interval."""


def preferred(first: float, second: float) -> float:
    """1 if the first score is higher, 0 if it is lower, 0.5 if both are equal.

    Scores that differ by no more than the batch size can cause (relative 1e-5 or absolute 1e-6) are equal.
    """
    if math.isclose(first, second, rel_tol=1e-5, abs_tol=1e-6):
        return 0.5
    return 0.5 + 0.5 * ((first > second) - (first < second))


def mean_report(values: Sequence[float], clusters: Sequence[str], **keys: object) -> Report:
    """Return a report of the mean of `values`, in [0, 1], with its bootstrap interval. The clusters are prompts."""
    return _report(values, clusters, 0.0, keys)


def mean_difference_report(values: Sequence[float], clusters: Sequence[str], **keys: object) -> Report:
    """Return the same report for differences of shares, in [−1, 1]."""
    return _report(values, clusters, -1.0, keys)


def _report(values: Sequence[float], clusters: Sequence[str], lowest: float, keys: Mapping[str, object]) -> Report:
    from .intervals import bootstrap

    return as_report(bootstrap(values, clusters, lowest=lowest), **keys)


def as_report(found: "Interval", **keys: object) -> Report:
    """The report of a number with its interval. `keys` are further keys of the record."""
    from .intervals import CONFIDENCE, FEW

    rest = {"value": found.value, "low": found.low, "high": found.high, "n": found.n, "confidence": CONFIDENCE}
    if found.clusters < FEW:
        rest["prompts"] = found.clusters
    return cast(Report, {**keys, **rest})
