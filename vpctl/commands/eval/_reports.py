"""What all evaluations do with their reports: options, table, page, gate."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, cast

from ... import progress
from ...errors import GateNotMet, OutputClosed
from ...options import option
from ...records import Image, Report
from ...streams.writing import Replacement

NAMES = ("name", "baseline", "reward", "aspect")
"""Keys of a report that say what it is of."""
FailUnder = Annotated[
    float | None,
    option(
        metavar="X",
        min=0,
        max=1,
        group="Output",
        help="Gate for CI: exit 4 unless the lower end of every interval is at least X.",
        show_default="no gate",
    ),
]
Html = Annotated[str, option("--html", metavar="FILE", group="Output", help="Also write a self-contained HTML page.")]


def publish(reports: list[Report], out: Replacement, *, title: str, labels: Mapping[str, str] | None = None) -> None:
    """Write the reports, and show them as a table, in which `labels` stand for longer names.

    A reader that has gone changes neither the table nor what a gate says.
    """
    short = labels or {}
    with contextlib.suppress(OutputClosed):
        for report in reports:
            out.write(report)
    named = [key for key in NAMES if any(key in report for report in reports)]
    same = {key for key in named if len({report.get(key) for report in reports}) == 1 and len(reports) > 1}
    shown = [key for key in named if key not in same] or ["name"]
    progress.table(
        title,
        [*shown, reports[0]["metric"].replace("_", " "), "95 % interval", "n"],
        [
            [
                *(short.get(text, text) for text in (str(report.get(key, "")) for key in shown)),
                f"{report['value']:.3f}",
                f"{report['low']:.3f} to {report['high']:.3f}",
                str(report["n"]),
            ]
            for report in reports
        ],
    )


def check_page(html: str, others: list[str], *, runs: Sequence[str] = ()) -> None:
    """Raise what is wrong with the place of a page, if `html` names one, or with its runs; see `page.check`."""
    if html:
        from ...report import page

        page.check(html, runs, others)


def write_page(
    html: str,
    *,
    title: str,
    reports: list[Report],
    rows: Iterable[list[tuple[str, Image]]] = (),
    runs: Sequence[str] = (),
    folders: Sequence[str] = (),
) -> int:
    """Write the page, if `html` names a file; its pictures lie in `folders`. Returns how many of them are missing."""
    if not html:
        return 0
    from ...images.pictures import Pictures
    from ...report import page

    return page.write(html, title=title, reports=reports, rows=rows, runs=runs, pictures=Pictures(folders))


def gate(reports: list[Report], fail_under: float | None) -> None:
    """Exit 4 if the lower end of any interval is below the gate."""
    under = [report for report in reports if fail_under is not None and not report["low"] >= fail_under]
    for report in under:
        facts = cast(Mapping[str, object], report)
        what = ", ".join(str(facts[key]) for key in NAMES if key in facts)
        progress.warn(f"{what}: {report['low']:.3f} is the lower end of the interval, below the gate of {fail_under:g}")
    if under:
        raise GateNotMet
