"""What all evaluations share: their options, and the table, page and gate of their reports."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, cast

from ... import progress
from ...errors import GateFailed, OutputClosed
from ...options import option
from ...records import Image, Report
from ...streams.writing import Replacement

NAMES = ("name", "baseline", "reward", "aspect")
"""Keys of a report that name what was measured."""
FailUnder = Annotated[
    float | None,
    option(
        metavar="X",
        min=0,
        max=1,
        group="Output",
        help="Gate, for example in CI: end with exit code 4 if the lower end of any interval is below X. With few "
        "prompts intervals are wide, so a gate needs many prompts.",
        show_default="no gate",
    ),
]
Html = Annotated[
    str, option("--html", metavar="FILE", group="Output", help="Also write the reports as an HTML page in one file.")
]


def publish(reports: list[Report], out: Replacement, *, title: str, labels: Mapping[str, str] | None = None) -> None:
    """Write the reports, and print them as a table. `labels` are short names for long ones.

    If the reader of the output has closed its pipe, the table is printed and the gate decides all the same.
    """
    short = labels or {}
    with contextlib.suppress(OutputClosed):
        for report in reports:
            out.write(report)
    facts = [cast(Mapping[str, object], report) for report in reports]
    metrics = {report["metric"].replace("_", " ") for report in reports}
    headline = reports[0]["metric"].replace("_", " ")
    named = [key for key in NAMES if any(key in report for report in facts)]
    same = {key for key in named if len({fact[key] for fact in facts if key in fact}) == 1 and len(facts) > 1}
    shown = [key for key in named if key not in same] or ["name"]
    several = ["metric"] if len(metrics) > 1 else []
    chance = ["chance"] if any("chance" in fact for fact in facts) else []
    progress.table(
        title,
        [*shown, *several, "value" if several else headline, "95 % interval", *chance, "n"],
        [
            [
                *(short.get(text, text) for text in (str(fact.get(key, "")) for key in shown)),
                *(report["metric"].replace("_", " ").removeprefix(f"{headline} ") for _ in several),
                f"{report['value']:.3f}",
                f"{report['low']:.3f} to {report['high']:.3f}",
                *(f"{report['chance']:.3f}" if "chance" in report else "" for _ in chance),
                str(report["n"]),
            ]
            for report, fact in zip(reports, facts, strict=True)
        ],
    )
    if few := [report["prompts"] for report in reports if "prompts" in report]:
        prompts = f"{min(few)} to " * (min(few) < max(few)) + progress.plural(max(few), "prompt")
        progress.note(f"only {prompts}: the intervals are wide; only more prompts make them narrower")


def check_page(html: str, others: list[str], *, runs: Sequence[str] = ()) -> None:
    """If `html` names a page, raise `UserError` if the file or one of `runs` cannot be used; see `page.check`."""
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
    """If `html` names a file, write the page, with pictures from `folders`. Returns the number of missing pictures."""
    if not html:
        return 0
    from ...images.pictures import Pictures
    from ...report import page

    return page.write(html, title=title, reports=reports, rows=rows, runs=runs, pictures=Pictures(folders))


def gate(reports: list[Report], fail_under: float | None) -> None:
    """Raise `GateFailed` if the lower end of any interval is below the gate."""
    under = [report for report in reports if fail_under is not None and not report["low"] >= fail_under]
    for report in under:
        facts = cast(Mapping[str, object], report)
        what = ", ".join(str(facts[key]) for key in NAMES if key in facts)
        progress.warn(
            f"{what}: the lower end of the interval, {report['low']:.3f}, is below the gate of {fail_under:g}"
        )
    if under:
        raise GateFailed
