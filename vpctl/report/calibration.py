"""Makes scores of different rewards comparable: the percentile of a score among those of reference pictures."""

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from statistics import fmean, quantiles, stdev
from typing import Any, NamedTuple, Self

from ..errors import UserError, os_reason
from ..streams.whole import atomic_write

QUANTILES = 101
"""How many quantiles are stored: the minimum, the 99 percentiles between, and the maximum."""


class Reference(NamedTuple):
    """The distribution of a reward's scores over reference pictures."""

    n: int
    mean: float
    std: float
    quantiles: tuple[float, ...]
    fingerprint: str
    """Identifies the weights of the reward."""

    @classmethod
    def of(cls, scores: Sequence[float], fingerprint: str) -> Self:
        """The distribution of at least two scores."""
        inner = quantiles(scores, n=QUANTILES - 1, method="inclusive")
        return cls(len(scores), fmean(scores), stdev(scores), (min(scores), *inner, max(scores)), fingerprint)

    def percentile(self, score: float) -> float:
        """The percentage of reference pictures with a lower score, from 0 to 100. An equal score counts half."""
        below, upto = bisect_left(self.quantiles, score), bisect_right(self.quantiles, score)
        if below < upto:
            return (below + upto - 1) / 2
        if not 0 < below < QUANTILES:
            return 0.0 if below == 0 else 100.0
        low, high = self.quantiles[below - 1 : below + 1]
        return below - 1 + (score - low) / (high - low)


def read(path: str) -> dict[str, Reference]:
    """The references in a file, by reward; none if there is no such file. Raises `UserError` if it is malformed."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        return {str(spec): _reference(one) for spec, one in found.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"--calibrate {path}: cannot be read: {os_reason(error)}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"--calibrate {path}: is not a file that score --calibrate wrote; name another file") from None


def _reference(value: Mapping[str, Any]) -> Reference:
    numbers = tuple(float(one) for one in value["quantiles"])
    found = Reference(int(value["n"]), float(value["mean"]), float(value["std"]), numbers, str(value["fingerprint"]))
    if len(numbers) != QUANTILES or sorted(numbers) != [*numbers] or not all(map(math.isfinite, numbers)):
        raise ValueError
    return found


def write(path: str, references: Mapping[str, Reference]) -> None:
    """Write the references. The file appears whole or not at all. Raises `UserError` if it cannot be written."""
    try:
        with atomic_write(path, synced=True) as part, open(part, "w", encoding="utf-8") as file:
            json.dump({spec: one._asdict() for spec, one in references.items()}, file, indent=2, ensure_ascii=False)
            file.write("\n")
    except OSError as error:
        raise UserError(f"--calibrate {path}: {os_reason(error)}") from None
