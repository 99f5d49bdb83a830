"""An HTML page about claims, in one file without external resources.

This module decides what is on the page. The template `claimed.html.j2` defines its appearance.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple, cast

from .. import progress
from ..images.pictures import Pictures
from ..records import Image
from ..report.claims import WORDS, Claims, PaperPart
from ..report.comparing import by_prompt, side_by_side
from ..streams.reading import read
from .curves import FRAME, Training, training
from .gallery import Card, Gallery
from .html import rendered, write_whole
from .pivots import PAPER, ReportData, Table, table

PROMPTS_SHOWN = 8


class PartView(NamedTuple):
    """A part with its table, the curves of its runs and its pictures."""

    id: str
    told: PaperPart
    table: Table | None
    trainings: list[Training]
    cards: list[Card]


def write(path: str, claims: Claims, folders: Sequence[str]) -> int:
    """Write the page completely or not at all. Returns the number of missing pictures.

    Pictures may be below `folders`, the folders of their records, and the working directory.
    """
    missing: dict[str, str] = {}
    views = [_view(f"part-{place}", part, Pictures(folders), missing) for place, part in enumerate(claims.parts, 1)]
    page = rendered(
        "claimed.html.j2",
        title=claims.title,
        says=claims.says,
        contents={one.id: one.told.title for one in views},
        parts_of=views,
        words=WORDS,
        frame=FRAME,
    )
    write_whole(path, page)
    progress.note(f"the page is {path}")
    if missing:
        name, reason = next(iter(missing.items()))
        progress.warn(
            f"{path}: {progress.plural(len(missing), 'picture')} of the page cannot be shown; {name}: {reason}"
        )
    return len(missing)


def _view(id: str, part: PaperPart, pictures: Pictures, missing: dict[str, str]) -> PartView:
    trainings = [training(run, os.path.basename(os.path.normpath(run))) for run in part.runs]
    cards: list[Card] = []
    if part.pictures:
        labels = {file: label for label, file in part.pictures.items()}
        rows = [*side_by_side({file: by_prompt(read(file, Image)) for file in labels})]
        decided = [(file, part.scores) for file in labels] if part.scores else []
        gallery = Gallery(rows, [*labels], decided, labels, pictures, lambda _: ())
        cards = gallery.spread(PROMPTS_SHOWN)
        missing |= gallery.missing
    return PartView(id, part, _table(part), trainings, cards)


def _table(part: PaperPart) -> Table | None:
    """The figures of a part by row and column."""
    columns: dict[tuple[str, int], dict[str, ReportData]] = {}
    for one in part.figures:
        head = one.column or "here"
        names = {"row": one.row, "column": one.column} if one.column else {"row": one.row}
        columns.setdefault((head, 1), {})[one.row] = {**names, **cast(ReportData, one.report), PAPER: one.paper}
    return table("", "measured", columns) if columns else None
