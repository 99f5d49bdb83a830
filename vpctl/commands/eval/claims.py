"""Check what a paper claims against your own reports."""

import os
from typing import Annotated

from ... import progress
from ...errors import SomeFailed
from ...options import STDIO, Roots, Whole, argument
from ...report.claims import HOLDS, as_reports, read_claims
from ...streams.places import folder_of
from ...streams.writing import Replacement
from ._reports import Html, check_page, write


def claims(
    file: Annotated[str, argument(metavar="FILE", help="Claims: a TOML file.")],
    out: Whole = STDIO,
    *,
    html: Html = "",
    root: Roots = None,
) -> None:
    """Check what a paper claims against your own reports.

    For each table or figure of a paper, FILE names numbers in the reports of eval, says what the paper has in their
    place, and which comparisons the paper claims. A comparison holds if its whole interval is on the claimed side. The
    opposite is true if the whole interval is on the other side. Otherwise it is not decided. The conclusion of a table
    holds if all its comparisons hold, and does not hold if the opposite of one is true. The more comparisons a table
    has, the more likely chance decides one of them.

    If the file of two numbers has their paired difference, as eval accuracy --baseline writes it, it decides. Otherwise
    the interval of the difference comes from the intervals of both, as if they were independent (MOVER, Zou and Donner
    2008). For numbers from the same prompts it is usually too wide, so fewer comparisons are decided.

    The page of --html shows the numbers with their intervals, the paper's numbers beside them, and a sentence for each
    table. examples/claims.toml has the claims of VisionPrefer (Wu et al. 2024, arXiv 2404.15100) for the shapes world.

    A file of claims looks like this. Paths are relative to it. It cannot be a pipe.

        title = "A paper"
        says = "What this page is about."

        [[part]]
        title = "Table 2"
        paper = "What the paper concludes."
        here = "How it was measured here."
        report = "accuracy.jsonl"
        holds = ["ours > CLIP", "ours > 0.5"]

        [[part.figures]]
        row = "ours"
        paper = "66.3 %"
        where = { name = "vp:a", metric = "accuracy" }

        [[part.figures]]
        row = "CLIP"
        paper = "54.3 %"
        where = { name = "clip", metric = "accuracy" }

    A figure is the number of the one report that has the keys of `where`; man vpctl-records lists the keys of reports.
    It can have a `report` file of its own, and a `column` if a table has several: its name in `holds` is then "ROW,
    COLUMN". With `lines`, a figure is the number of lines of a file; with a list of texts in `containing`, it is the
    share of the lines that contain one of them.

    A part that claims nothing can say in `missing` why. `runs` lists folders of training runs, whose curves are shown.
    `pictures` is a table with files of pictures to show side by side, by their labels. `scores` is the reward whose
    scores stand below them.

    The output has a report for each comparison: `value` is by how much it holds, and `verdict` is holds, opposite or
    undecided.

    Examples:

        vpctl eval claims claims.toml --html claims.html

        vpctl eval claims claims.toml
            | jq -r 'select(.verdict == "opposite") | .name'
    """
    found = read_claims(file)
    check_page(html, [file, out, *found.sources])
    with Replacement(out, [file, *found.sources]) as sink:
        write(as_reports(found), sink)
    rows = [[one.title, one.word] for one in found.parts]
    progress.table(found.title, ["table or figure", "conclusion"], rows)
    for part in found.parts:
        if part.verdict and part.verdict != HOLDS:
            progress.note(f"{part.title}: {part.sentence}")
    if html:
        from ...pages.claimed import write as write_claims

        folders = [os.path.dirname(file) or ".", *(root or [])]
        folders += [folder_of(one) for part in found.parts for one in part.pictures.values()]
        if write_claims(html, found, folders):
            raise SomeFailed
