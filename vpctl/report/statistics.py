"""What evaluations count and report: preferences, and means with intervals."""

import math
from collections.abc import Sequence
from typing import cast

from ..records import Report


def preferred(first: float, second: float) -> float:
    """1 if the first score is higher, 0 if it is lower, 0.5 if both are equal.

    Scores that differ by no more than the batch size can cause (relative 1e-5 or absolute 1e-6) are equal.
    """
    if math.isclose(first, second, rel_tol=1e-5, abs_tol=1e-6):
        return 0.5
    return 0.5 + 0.5 * ((first > second) - (first < second))


def mean_report(values: Sequence[float], clusters: Sequence[str], **keys: object) -> Report:
    """Return a report of the mean of `values` with its bootstrap interval. The clusters are prompts."""
    from .intervals import CONFIDENCE, bootstrap

    value, low, high, n = bootstrap(values, clusters)
    rest = {"value": value, "low": low, "high": high, "n": n, "confidence": CONFIDENCE}
    return cast(Report, {**keys, **rest})
