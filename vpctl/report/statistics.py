"""What evaluations count and report: who is preferred, and a mean with its interval."""

import math
from collections.abc import Sequence
from typing import cast

from ..records import Report


def preferred(first: float, second: float) -> float:
    """1 if the first is higher, 0 if it is lower, 0.5 if they are the same but for what a batch's size may change."""
    if math.isclose(first, second, rel_tol=1e-5, abs_tol=1e-6):
        return 0.5
    return 0.5 + 0.5 * ((first > second) - (first < second))


def reported(values: Sequence[float], clusters: Sequence[str], **keys: object) -> Report:
    """The report of a mean with its interval, by bootstrap over the clusters, which are prompts."""
    from .intervals import CONFIDENCE, bootstrap

    value, low, high, n = bootstrap(values, clusters)
    rest = {"value": value, "low": low, "high": high, "n": n, "confidence": CONFIDENCE}
    return cast(Report, {**keys, **rest})
