"""An HTML page about the judgements of a data set, in one file without external resources, as merge --html writes it.

This module computes the content of the page. The template `judged.html.j2` defines its appearance.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .. import progress
from ..images.pictures import Pictures
from ..judging.merging import MergeCounts
from ..judging.overview import BINS, Contested, Overview, Share
from .axes import Axis
from .gallery import PictureView, shown
from .html import rendered, write_whole

HEADINGS = {
    "scores": "Scores",
    "ties": "Ties",
    "correlation": "Correlation of the aspects",
    "models": "Models",
    "guidance": "Guidance",
    "agreement": "Agreement of the annotators",
    "contested": "The most contested prompts",
}
"""The sections of the page, in their order."""


class Histogram(NamedTuple):
    """The share of the scores of an aspect in each bin, the lowest first, and the number of scores."""

    aspect: str
    shares: list[float]
    number: int


class Rate(NamedTuple):
    """A share with its interval, and what it is a share of."""

    name: str
    value: float
    low: float
    high: float
    number: int


class ContestedPrompt(NamedTuple):
    """A prompt about which annotators disagree, with its pictures, the best first."""

    prompt: str
    disagreement: float
    decisions: int
    pictures: list[tuple[PictureView, float]]


def write(
    path: str, *, title: str, overview: Overview, tally: MergeCounts, facts: Sequence[str], pictures: Pictures
) -> int:
    """Write the page completely or not at all. Returns the number of missing pictures.

    `facts` are sentences for its beginning. Pictures that cannot be opened show the reason.
    """
    contested = [_contested(one, pictures) for one in overview.contested]
    by_two = {aspect: rates(found) for aspect, found in by_aspect(overview).items()}
    parts = {
        "scores": histograms(overview),
        "ties": [Rate(one, tally.tied[one] / seen, 0.0, 0.0, seen) for one, seen in sorted(tally.seen.items())],
        "correlation": len({aspect for aspect, _ in overview.scores}) > 1,
        "models": rates(overview.models),
        "guidance": sorted(rates(overview.guidance), key=lambda one: float(one.name)),
        "agreement": by_two,
        "contested": contested,
    }
    page = rendered(
        "judged.html.j2",
        title=title,
        contents={key: HEADINGS[key] for key, part in parts.items() if part},
        facts=facts,
        histograms=parts["scores"],
        tied=parts["ties"],
        aspects=sorted({aspect for aspect, _ in overview.scores}),
        correlations=correlations(overview),
        models=parts["models"],
        guidance=parts["guidance"],
        agreement=by_two,
        contested=contested,
        unit=Axis(0.0, 1.0),
    )
    write_whole(path, page)
    progress.note(f"the page is {path}")
    missing = [one.failure for prompt in contested for one, _ in prompt.pictures if one.failure]
    if missing:
        progress.warn(f"{path}: {progress.plural(len(missing), 'picture')} of the page cannot be shown: {missing[0]}")
    return len(missing)


def histograms(overview: Overview) -> list[Histogram]:
    """The distribution of the scores of each aspect."""
    found = []
    for aspect in sorted({aspect for aspect, _ in overview.scores}):
        counts = [overview.scores[aspect, place] for place in range(BINS)]
        found.append(Histogram(aspect, [count / sum(counts) for count in counts], sum(counts)))
    return found


def correlations(overview: Overview) -> dict[tuple[str, str], float | None]:
    """The correlation of the scores of two aspects, for both of their orders; None if it is not defined."""
    found = {pair: moments.correlation() for pair, moments in overview.correlations.items()}
    return {**found, **{(other, one): value for (one, other), value in found.items()}}


def rates(shares: Mapping[object, Share] | Mapping[str, Share] | Mapping[float, Share]) -> list[Rate]:
    """The shares that have values, the largest first."""
    found = [
        Rate(f"{name:g}" if isinstance(name, float) else str(name), one.value, *one.interval(), one.number)
        for name, one in shares.items()
        if one.number
    ]
    return sorted(found, key=lambda one: -one.value)


def by_aspect(overview: Overview) -> dict[str, dict[str, Share]]:
    """The agreement of every two annotators, by aspect."""
    found: dict[str, dict[str, Share]] = {}
    for (aspect, one, other), share in sorted(overview.agreement.items()):
        found.setdefault(aspect, {})[f"{one} and {other}"] = share
    return found


def _contested(one: Contested, pictures: Pictures) -> ContestedPrompt:
    ranked: Iterable[tuple[str, float]] = sorted(one.pictures, key=lambda picture: -picture[1])
    views = [(shown(pictures, path), standing) for path, standing in ranked]
    return ContestedPrompt(one.prompt, one.disagreement, one.decisions, views)
