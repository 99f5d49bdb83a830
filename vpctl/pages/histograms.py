"""The distributions of scores: those of a tuned model's pictures over those of the base model's."""

from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import fmean, median
from typing import NamedTuple

from .axes import Axis, axis_ends, decimals, drawable, fixed
from .curves import FRAME

BINS = 24
Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""By reward and by source, the scores of all pictures."""


class Distribution(NamedTuple):
    """Two histograms over one axis, in units of `FRAME`: bars of the base as x, y, width and height; a line for tuned.

    `above` is the share of the tuned model's scores above the base's median.
    """

    reward: str
    base: str
    tuned: str
    bars: list[tuple[float, float, float, float]]
    line: list[tuple[float, float]]
    ticks: list[tuple[float, str]]
    base_mean: str
    tuned_mean: str
    above: float
    left_out: int


def distributions(scores: Scores, labels: Mapping[str, str]) -> list[Distribution]:
    """The distributions of each reward for every tuned source. The first source is the base."""
    found = []
    for reward, by_source in scores.items():
        drawn = {source: [one for one in values if drawable(one)] for source, values in by_source.items()}
        base, *tuned = drawn
        every = [*chain.from_iterable(drawn.values())]
        if not drawn[base] or not tuned:
            continue
        axis = Axis(*axis_ends(every, 0.02), FRAME.left, FRAME.right)
        digits = decimals(every)
        for source in tuned:
            if drawn[source]:
                left_out = sum(len(by_source[one]) - len(drawn[one]) for one in (base, source))
                found.append(
                    Distribution(
                        reward,
                        labels.get(base, base),
                        labels.get(source, source),
                        *_shapes(drawn[base], drawn[source], axis),
                        axis.ticks(),
                        fixed(fmean(drawn[base]), digits),
                        fixed(fmean(drawn[source]), digits),
                        share_above(drawn[source], median(drawn[base])),
                        left_out,
                    )
                )
    return found


def share_above(values: Sequence[float], limit: float) -> float:
    """The share of values above a limit; a value equal to it counts one half."""
    return sum((value > limit) + 0.5 * (value == limit) for value in values) / len(values)


def shares(values: Sequence[float], low: float, high: float) -> list[float]:
    """The share of the values in each of `BINS` bins of equal width from `low` to `high`."""
    counts = [0] * BINS
    for value in values:
        counts[min(int((value - low) / (high - low) * BINS), BINS - 1)] += 1
    return [count / len(values) for count in counts]


def _shapes(
    base: Sequence[float], tuned: Sequence[float], axis: Axis
) -> tuple[list[tuple[float, float, float, float]], list[tuple[float, float]]]:
    """The bars of the base and the line of the tuned model."""
    ours, theirs = shares(base, axis.low, axis.high), shares(tuned, axis.low, axis.high)
    most = max(*ours, *theirs)
    heights = Axis(0.0, most, FRAME.bottom, FRAME.top)
    width = (FRAME.right - FRAME.left) / BINS
    lefts = [round(FRAME.left + index * width, 2) for index in range(BINS + 1)]
    bars = [
        (left, heights.place(share), round(width, 2), round(FRAME.bottom - heights.place(share), 2))
        for left, share in zip(lefts, ours, strict=False)
        if share
    ]
    line = [(lefts[0], float(FRAME.bottom))]
    for index, share in enumerate(theirs):
        line += [(lefts[index], heights.place(share)), (lefts[index + 1], heights.place(share))]
    return bars, [*line, (lefts[-1], float(FRAME.bottom))]
