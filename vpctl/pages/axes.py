"""Axes of plots, and numbers as text."""

import math
from collections.abc import Sequence

LARGEST_DRAWN = 1e100
"""Larger values are not drawn, so that no sum or difference of the others overflows."""
Point = tuple[float, float]


class Axis:
    """Maps values from `low` to `high` linearly to positions from `start` to `end`: percent, or units of a plot."""

    def __init__(self, low: float, high: float, start: float = 0.0, end: float = 100.0) -> None:
        self.low, self.high = low, high
        self._start, self._end = start, end

    def place(self, value: float) -> float:
        """The position of a value. A value beyond an end of the axis is placed at that end."""
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return round(self._start + share * (self._end - self._start), 2)

    def ticks(self, *, whole: bool = False) -> list[tuple[float, str]]:
        """Position and label of a few round values. With `whole`, only whole numbers, as for steps."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        step = max(step, 1.0) if whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [index * step for index in range(first, last + 1)]
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        plain = 1e-3 <= max(map(abs, values), default=0.0) < 1e6
        return [(self.place(value), fixed(value, digits) if plain else number(value, 6)) for value in values]


def axis_ends(values: Sequence[float], margin: float) -> tuple[float, float]:
    """The ends of an axis for the values, with `margin` (a share of their range) added on both sides.

    If the values are nearly equal, the axis is much wider than their range, so that they look equal.
    """
    low, high = min(values, default=0.0), max(values, default=0.0)
    size = max(abs(low), abs(high))
    if size < 1 / LARGEST_DRAWN:
        return -1.0, 1.0
    room = margin * (high - low) if high - low > 1e-4 * size else 0.1 * size
    return low - room, high + room


def decimals(values: Sequence[float]) -> int:
    """The number of decimals (at most 6) that shows three significant digits of the range of the values."""
    drawn = [value for value in values if drawable(value)]
    spread = max(drawn, default=0.0) - min(drawn, default=0.0)
    return min(max(2 - math.floor(math.log10(spread)), 0), 6) if spread > 0 else 2


def fixed(value: float, decimals: int, *, signed: bool = False) -> str:
    """The number with a fixed number of decimals and a real minus sign. A number that rounds to zero has no sign."""
    return f"{value:{'+' if signed else ''}z,.{decimals}f}".replace("-", "−")


def number(value: float, digits: int = 4) -> str:
    """The number with `digits` significant digits, or as a whole number: ``0.6931``, ``1.2e−5``, ``61,423``.

    It is whole if it has more than `digits` digits before the point and is below a million.
    """
    if 10**digits <= abs(value) < 1e6:
        return fixed(value, 0)
    return f"{value:.{digits}g}".replace("e+", "e").replace("e0", "e").replace("e-0", "e-").replace("-", "−")


def percent(value: float) -> str:
    """A share as a percentage with a non-breaking space."""
    return f"{100 * value:.1f}\u00a0%"


def drawable(value: float) -> bool:
    """Whether a value can be drawn: it is finite, and smaller than `LARGEST_DRAWN` in absolute value."""
    return abs(value) < LARGEST_DRAWN
