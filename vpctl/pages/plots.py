"""Plots of a training as SVG files, which open in any browser and need nothing else."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from .axes import Axis, Point, axis_ends, drawable, number
from .curves import FRAME, downsampled, moving_mean

_COLOURS = ("#3b6fb6", "#c2571a")
_MANY = 40
"""A series of more points than this is drawn as a line, with its moving mean; a shorter one as a line with dots."""
_HEAD = 34
"""Room above the frame for the title and, below it, the names of the series."""
_STYLE = (
    "text{font:11px sans-serif;fill:#555}.title{font-weight:bold;fill:#222}"
    ".rule{stroke:#ddd}.axis{stroke:#999}.mark{stroke:#999;stroke-dasharray:3 3}"
    "polyline{fill:none;stroke-width:1.5}"
)


def plot(title: str, series: Mapping[str, Sequence[Point]], *, mark: tuple[float, str] | None = None) -> str:
    """An SVG with one or two series of (step, value) over the same axes.

    `mark` is a step and the text at a vertical line there. Values that cannot be drawn are left out. The number beside
    the name of a series is where its line ends; for a long series this is the moving mean, because single steps vary.
    """
    drawn = {name: [point for point in points if drawable(point[1])] for name, points in series.items()}
    every = [point for points in drawn.values() for point in points]
    steps = Axis(*axis_ends([step for step, _ in every], 0.0), FRAME.left, FRAME.right)
    values = Axis(*axis_ends([value for _, value in every], 0.05), FRAME.bottom, FRAME.top)
    height = FRAME.height + _HEAD
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {FRAME.width} {height}" role="img" width="640">',
        f'<title>{escape(title)}</title><style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        f'<g transform="translate(0 {_HEAD})">',
        f'<text class="title" x="{FRAME.left}" y="{14 - _HEAD}">{escape(title)}</text>',
        f'<line class="axis" x1="{FRAME.left}" x2="{FRAME.right}" y1="{FRAME.bottom}" y2="{FRAME.bottom}"/>',
    ]
    for place, text in values.ticks():
        parts.append(f'<line class="rule" x1="{FRAME.left}" x2="{FRAME.right}" y1="{place}" y2="{place}"/>')
        parts.append(f'<text x="{FRAME.left - 6}" y="{place + 3.5}" text-anchor="end">{text}</text>')
    for place, text in steps.ticks(whole=True):
        parts.append(f'<text x="{place}" y="{FRAME.bottom + 16}" text-anchor="middle">{text}</text>')
    if mark:
        place = steps.place(mark[0])
        parts.append(f'<line class="mark" x1="{place}" x2="{place}" y1="{FRAME.top}" y2="{FRAME.bottom}"/>')
        parts.append(f'<text x="{place}" y="{FRAME.top}" text-anchor="middle">{escape(mark[1])}</text>')
    for index, (name, points) in enumerate(drawn.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        many = len(points) > _MANY
        line = moving_mean(points) if many else points
        last = f"{name} {number(line[-1][1], 3)}" if line else name
        for each, opacity in ((points, 0.35), (line, 1)) if many else ((line, 1),):
            at = " ".join(f"{steps.place(x)},{values.place(y)}" for x, y in downsampled(each))
            parts.append(f'<polyline points="{at}" stroke="{colour}" opacity="{opacity}"/>')
        if not many:
            dots = ((steps.place(x), values.place(y)) for x, y in points)
            parts += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in dots]
        parts.append(f'<text x="{FRAME.left + 130 * index}" y="-6" style="fill:{colour}">{escape(last)}</text>')
    return "\n".join([*parts, "</g>", "</svg>", ""])
