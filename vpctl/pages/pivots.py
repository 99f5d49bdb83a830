"""Reports as tables of a page: a row for each reward or model, a column for each metric or judge; as CSV and LaTeX."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..report.statistics import COUNT
from .axes import Axis, axis_ends, decimals, fixed
from .meanings import COEFFICIENT, DIFFERENCE, FAMILIES, NUMBER, RATING, SHARE, Family, Meaning, family, meaning

ReportData = Mapping[str, Any]
"""A report with any additional keys."""

NBSP = "\u00a0"
PAPER = "paper"
"""Key of a report for what a paper has in its place, as text."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a cell that a spreadsheet takes for a formula."""
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "–": "--",
    "’": "'",
    NBSP: "~",
    "\n": " ",
    "\r": " ",
}


class Style(NamedTuple):
    """How the numbers of a table are written: times a factor, with a number of decimals, and with a unit.

    With `decimals` None, the numbers are written with an exponent.
    """

    factor: float = 1.0
    decimals: int | None = 3
    signed: bool = False
    unit: str = ""

    def text(self, value: float) -> str:
        """A number without its unit."""
        if self.decimals is None:
            return f"{value * self.factor:{'+' if self.signed else ''}.2e}".replace("-", "−")
        return fixed(value * self.factor, self.decimals, signed=self.signed)


class Cell(NamedTuple):
    """A number with its interval and a note, as text; and on an axis in percent, with what says nothing.

    `note` stands below the interval: what guessing gives, where it is not the same in all cells of a column, or what a
    paper has. `interval` is empty for a number that was counted.
    """

    report: ReportData
    text: str
    interval: str
    note: str
    low: float
    place: float
    high: float
    neutral: float | None


class TableRow(NamedTuple):
    """A row: its name, a cell or None for each column, and the number of items of the first cell."""

    name: str
    cells: list[Cell | None]
    n: int


class Table(NamedTuple):
    """A table with its title, which is empty if it is that of its family, its columns, and what guessing gives."""

    title: str
    row: str
    columns: list[tuple[str, str]]
    rows: list[TableRow]
    chance: list[str]
    unit: str
    csv: str
    latex: str

    @property
    def is_counted(self) -> bool:
        """Whether all numbers were counted. Then none of them is a mean of items."""
        return not any(cell.interval for row in self.rows for cell in row.cells if cell)

    @property
    def explained(self) -> list[tuple[str, str]]:
        """The explanations of the columns, if there are several columns, each with the heads of its columns."""
        found: dict[str, list[str]] = {}
        for head, says in self.columns if len(self.columns) > 1 else []:
            if says:
                found.setdefault(says, []).append(head)
        return [(", ".join(heads), says) for says, heads in found.items()]


class Sheet(NamedTuple):
    """The tables of one family of metrics."""

    key: str
    family: Family
    tables: list[Table]


class _Place(NamedTuple):
    """Where a report stands: the family, the title of the table, the row, and the column."""

    family: str
    title: str
    row: str
    column: str


def sheets(reports: Iterable[ReportData], labels: Mapping[str, str]) -> list[Sheet]:
    """All reports as tables, by family in the order of `FAMILIES`. `labels` are short names for long ones.

    Two reports of one cell stand in two columns.
    """
    found: dict[str, dict[str, dict[tuple[str, int], dict[str, ReportData]]]] = {}
    for report in reports:
        for place in _places(report, labels):
            columns = found.setdefault(place.family, {}).setdefault(place.title, {})
            copy = 1
            while place.row in columns.get((place.column, copy), {}):
                copy += 1
            columns.setdefault((place.column, copy), {})[place.row] = report
    order = [*FAMILIES, *(key for key in found if key not in FAMILIES)]
    return [
        Sheet(key, of, [table(title, of.row, columns) for title, columns in found[key].items()])
        for key in order
        if key in found
        for of in [FAMILIES.get(key) or Family(meaning(key).head.capitalize(), "", "measured")]
    ]


def _places(report: ReportData, labels: Mapping[str, str]) -> Iterator[_Place]:
    """The cells of a report; usually one."""

    def told(key: str) -> str:
        return labels.get(report.get(key, ""), report.get(key, ""))

    metric, of = report["metric"], family(report["metric"])
    where = f"on {told('data')}" if "data" in report else ""
    against = f"against {told('baseline')}" if "baseline" in report else ""
    chosen = f"selected by {report['selected_by']}" if "selected_by" in report else ""
    name = ", ".join(filter(None, [told("name"), report.get("aspect", "")]))
    head = meaning(metric).head
    if "by" in report:
        judged = f"judged by {report['reward']}" if "reward" in report else ""
        title = _title(f"by {report['by']}", where, against, judged, chosen)
        yield _Place(of, title, report.get("group", ""), told("name"))
    elif of in ("win_rate", "elo"):
        yield _Place(of, _title(against, chosen), told("name"), report.get("reward", head))
    elif of in ("agreement", "quality"):
        several = {"slot_preferred": "slot", "level": "level"}
        head = f"{head} {report.get(several[metric], '')}".strip() if metric in several else head
        two = f"{told('name')} and {told('baseline')}" if "baseline" in report else told("name")
        mode = f"{report['mode']} mode" if "mode" in report else ""
        yield _Place(of, ", ".join(filter(None, [two, mode])), report.get("aspect", "all"), head)
    elif of == "accuracy_harmonic_mean":
        yield _Place(of, "", name, head)
    else:
        yield _Place(of, _title(where, against), name, head)
        if metric == "accuracy" and "data" in report:
            yield _Place("accuracy_harmonic_mean", "", name, told("data"))


def _title(*parts: str) -> str:
    """The parts that are there, each a word and a name, with a capital."""
    text = ", ".join(filter(None, parts))
    return text[:1].upper() + text[1:]


def table(title: str, row: str, columns: Mapping[tuple[str, int], Mapping[str, ReportData]]) -> Table:
    """A table with these columns, each with a report by row. A column is known by its head and a number for equals.

    If a report has the key `PAPER`, its text stands below the number.
    """
    every = [report for by_row in columns.values() for report in by_row.values()]
    is_mixed = {one["metric"] for one in every} > {COUNT}
    style = Style() if is_mixed else _style(every)
    of_metric = {metric: [one for one in every if one["metric"] == metric] for metric in _metrics(every)}
    styles = {metric: _style(some) if is_mixed else style for metric, some in of_metric.items()}
    axes = {metric: _axis(some) for metric, some in of_metric.items()}
    varies = any(len({one["chance"] for one in by_row.values() if "chance" in one}) > 1 for by_row in columns.values())
    heads, chances, cells = [], [], []
    for (name, copy), by_row in columns.items():
        metrics = _metrics(by_row.values())
        says = meaning(metrics[0]).says if len(metrics) == 1 and len(of_metric) > 1 else ""
        heads.append((f"{name} ({copy})" if copy > 1 else name, says))
        guessed = {report["chance"] for report in by_row.values() if "chance" in report}
        chances.append(style.text(*guessed) if len(guessed) == 1 else "")
        cells.append(
            {
                name: _cell(one, styles[one["metric"]], axes[one["metric"]], varies, is_mixed)
                for name, one in by_row.items()
            }
        )
    names = list(dict.fromkeys(name for by_row in columns.values() for name in by_row))
    if any("by" in one for one in every):
        row, names = "part", sorted(names)
    rows = []
    for name in names:
        own = [column.get(name) for column in cells]
        rows.append(TableRow(name, own, next(cell.report["n"] for cell in own if cell)))
    latex = _latex(row, [head for head, _ in heads], rows, style.unit)
    return Table(
        title, row, heads, rows, chances if any(chances) and not varies else [], style.unit, _csv(every), latex
    )


def _metrics(reports: Iterable[ReportData]) -> list[str]:
    return list(dict.fromkeys(report["metric"] for report in reports))


def _cell(report: ReportData, style: Style, axis: Axis, with_chance: bool, with_unit: bool) -> Cell:
    neutral = report.get("chance", meaning(report["metric"]).neutral)
    return Cell(
        report,
        style.text(report["value"]) + (f"{NBSP}{style.unit}" if with_unit and style.unit else ""),
        f"{style.text(report['low'])} to {style.text(report['high'])}" if report["metric"] != COUNT else "",
        f"paper {report[PAPER]}" if report.get(PAPER) else _chance(report, style) if with_chance else "",
        axis.place(report["low"]),
        axis.place(report["value"]),
        axis.place(report["high"]),
        None if neutral is None else axis.place(neutral),
    )


def _chance(report: ReportData, style: Style) -> str:
    return f"chance {style.text(report['chance'])}" if "chance" in report else ""


def _style(reports: Sequence[ReportData]) -> Style:
    """One style for all numbers of a table, so that all have the same number of decimals."""
    scales = {_scale(report).scale for report in reports}
    if scales == {SHARE}:
        return Style(100, 1, unit="%")
    if scales == {DIFFERENCE}:
        return Style(100, 1, signed=True, unit="points")
    if scales <= {SHARE, DIFFERENCE, COEFFICIENT}:
        return Style(signed=DIFFERENCE in scales)
    if scales == {RATING} or {one["metric"] for one in reports} == {COUNT}:
        return Style(decimals=0)
    ends = [abs(report[key]) for report in reports for key in ("value", "low", "high")]
    values = [value for value in ends if value]
    if values and (max(values) >= 1e6 or min(values) < 1e-4):
        return Style(decimals=None)
    spread = decimals([report[key] for report in reports for key in ("value", "low", "high")])
    smallest = 1 - math.floor(math.log10(min(values))) if values else 0
    return Style(decimals=max(spread, min(smallest, 5)))


def _scale(report: ReportData) -> Meaning:
    """The meaning of a report's metric. A share that is not between 0 and 1 has another meaning here."""
    found = meaning(report["metric"])
    if found.scale == SHARE and not all(0 <= report[key] <= 1 for key in ("value", "low", "high")):
        return found._replace(scale=NUMBER)
    return found


def _axis(reports: Sequence[ReportData]) -> Axis:
    """The axis of the intervals of one metric."""
    found = _scale(reports[0])
    if found.scale == SHARE:
        return Axis(0.0, 1.0)
    if found.scale == COEFFICIENT:
        return Axis(-1.0, 1.0)
    ends = [report[key] for report in reports for key in ("value", "low", "high")]
    if found.scale == DIFFERENCE:
        reach = max(map(abs, ends)) or 1.0
        return Axis(-1.05 * reach, 1.05 * reach)
    return Axis(*axis_ends([*ends, *([] if found.neutral is None else [found.neutral])], 0.05))


def _csv(reports: Iterable[ReportData]) -> str:
    """The reports as CSV, a row each, with all their keys and all their digits."""
    every = [*reports]
    keys = list(dict.fromkeys(key for report in every for key in report))
    out = io.StringIO()
    writer = csv.DictWriter(out, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _harmless(value) for key, value in report.items()} for report in every)
    return out.getvalue()


def _harmless(value: object) -> object:
    """A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) and value != "-" else value


def _latex(row: str, heads: Sequence[str], rows: Sequence[TableRow], unit: str) -> str:
    """The table as LaTeX, with the rules of the package booktabs."""
    shown = [f"{head} ({unit})" if unit else head for head in heads]
    head = " & ".join(map(_escaped, [row, *shown]))
    body = [
        " & ".join(
            [
                _escaped(one.name),
                *(_latex_cell(cell) if cell else "--" for cell in one.cells),
            ]
        )
        for one in rows
    ]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}; in brackets: the interval",
            rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
            r"\toprule",
            f"{head} \\\\",
            r"\midrule",
            *(f"{line} \\\\" for line in body),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _latex_cell(cell: Cell) -> str:
    """A number with its interval, if it has one, and what a paper has."""
    interval = f" [{_escaped(cell.interval)}]" if cell.interval else ""
    paper = f", paper {_escaped(cell.report[PAPER])}" if cell.report.get(PAPER) else ""
    return f"{_escaped(cell.text)}{interval}{paper}"


def _escaped(text: str) -> str:
    """The text for LaTeX, in which no character is a command."""
    return "".join(_LATEX.get(character, character) for character in text)
