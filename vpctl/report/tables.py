"""Tables of reports on a terminal. All numbers of a table have three digits after the point."""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from .. import progress
from ..records import Report
from .accuracy import HARMONIC_MEAN, HEADLINE

NAMES = ("name", "baseline", "reward", "aspect", "data", "group")
"""Keys of a report that name what was measured."""
DIFFERENCE = "_difference"
_Facts = Mapping[str, object]


def print_reports(reports: Sequence[Report], *, title: str, labels: Mapping[str, str], digits: int = 3) -> None:
    """Print a row for each report, with so many digits after the point. `labels` are short names for long ones."""
    facts = [cast(_Facts, report) for report in reports]
    metrics = {report["metric"].replace("_", " ") for report in reports}
    headline = reports[0]["metric"].replace("_", " ")
    named = [key for key in NAMES if any(key in report for report in facts)]
    same = {key for key in named if len({fact[key] for fact in facts if key in fact}) == 1 and len(facts) > 1}
    shown = [key for key in named if key not in same] or ["name"]
    several = ["metric"] if len(metrics) > 1 else []
    progress.table(
        title,
        [*shown, *several, "value" if several else headline, "95 % interval", "n"],
        [
            [
                *(labels.get(text, text) for text in (str(fact.get(key, "")) for key in shown)),
                *(report["metric"].replace("_", " ").removeprefix(f"{headline} ") for _ in several),
                f"{report['value']:.{digits}f}",
                _interval(report, digits),
                str(report["n"]),
            ]
            for report, fact in zip(reports, facts, strict=True)
        ],
    )


def warn_of_few(reports: Iterable[Report]) -> None:
    """Say that the intervals are wide if any of the numbers comes from few prompts."""
    if few := [report["prompts"] for report in reports if "prompts" in report]:
        prompts = f"{min(few)} to " * (min(few) < max(few)) + progress.plural(max(few), "prompt")
        progress.note(f"only {prompts}: the intervals are wide; only more prompts make them narrower")


def print_accuracies(reports: Sequence[Report], *, labels: Mapping[str, str]) -> None:
    """Print the accuracies of `accuracy`: tables for each file of pairs, for its parts, and over several files."""
    facts = [(report, cast(_Facts, report)) for report in reports]
    files = list(dict.fromkeys(fact.get("data") for _, fact in facts if fact["metric"] == HEADLINE))
    for file in files:
        ours = [one for one, fact in facts if fact.get("data") == file and "by" not in fact]
        where = f" in {labels.get(str(file), str(file))}" if file else ""
        plain = [one for one in ours if not one["metric"].endswith(DIFFERENCE) and one["metric"] != HARMONIC_MEAN]
        _definitions(f"Accuracy on {progress.plural(plain[0]['n'], 'pair')}{where}", plain, labels)
        if apart := [one for one in ours if one["metric"].endswith(DIFFERENCE)]:
            _definitions(f"Difference from {apart[0]['baseline']}{where}", apart, labels)
        for key in dict.fromkeys(fact["by"] for _, fact in facts if fact.get("data") == file and "by" in fact):
            _parts(
                f"By {key}{where}", [one for one, fact in facts if (fact.get("data"), fact.get("by")) == (file, key)]
            )
    if len(files) > 1:
        of_all = [one for one, fact in facts if fact["metric"] in (HEADLINE, HARMONIC_MEAN) and "by" not in fact]
        _over_files(of_all, labels)


def _definitions(title: str, reports: Sequence[Report], labels: Mapping[str, str]) -> None:
    """A row for each reward, a column for each definition, and what guessing gives."""
    rows: dict[str, list[Report]] = {}
    for report in reports:
        rows.setdefault(report["name"], []).append(report)
    first = next(iter(rows.values()))
    metrics = [one["metric"].removesuffix(DIFFERENCE) for one in first]
    heads = [metric.removeprefix(f"{HEADLINE}_").replace("_", " ") for metric in metrics]
    cells = []
    before: list[str] = []
    for name, found in rows.items():
        numbers = [f"{one['value']:.3f}" for one in found]
        cells.append([labels.get(name, name), numbers[0], _narrow(found[0]), *numbers[1:]])
        # What guessing gives depends on how many pairs a reward ties: the row is repeated where it differs.
        guessed = [f"{one.get('chance', 0.5):.3f}" for one in found]
        if "chance" in found[-1] and guessed != before:
            cells.append(["  chance", guessed[0], "", *guessed[1:]])
            before = guessed
    progress.table(title, ["reward", heads[0], "95 % interval", *heads[1:]], cells)


def _parts(title: str, reports: Sequence[Report]) -> None:
    """A row for each part, with its pairs, and a column for each reward."""
    groups: dict[str, list[Report]] = {}
    for report in reports:
        groups.setdefault(report["group"], []).append(report)
    names = list(dict.fromkeys(report["name"] for report in reports))
    cells = [
        [group, *(f"{one['value']:.3f} ({_narrow(one)})" for one in found), str(found[0]["n"])]
        for group, found in groups.items()
    ]
    progress.table(title, ["part", *names, "pairs"], cells)


def _over_files(reports: Sequence[Report], labels: Mapping[str, str]) -> None:
    """A row for each reward, a column for each file, and the harmonic mean."""
    rows: dict[str, list[Report]] = {}
    for report in reports:
        rows.setdefault(report["name"], []).append(report)
    *of_files, _ = next(iter(rows.values()))
    cells = [[name, *(f"{one['value']:.3f}" for one in found), _interval(found[-1])] for name, found in rows.items()]
    heads = [labels.get(one["data"], one["data"]) for one in of_files]
    progress.table("Accuracy by file", ["reward", *heads, "harmonic mean", "95 % interval"], cells)


def _interval(report: Report, digits: int = 3) -> str:
    return f"{report['low']:.{digits}f} to {report['high']:.{digits}f}"


def _narrow(report: Report) -> str:
    """The interval for a table of many columns. A dash before a negative number could not be read."""
    return f"{report['low']:.3f}{' to ' if report['high'] < 0 else '–'}{report['high']:.3f}"


def print_agreement(reports: Iterable[Report]) -> None:
    """Print a table for every two annotators, for all, and for each one alone, with a row for each aspect."""
    tables: dict[str, dict[str, list[Report]]] = {}
    for report in reports:
        title = f"{report['name']} and {report['baseline']}" if "baseline" in report else report["name"]
        tables.setdefault(title, {}).setdefault(report["aspect"], []).append(report)
    for title, rows in tables.items():
        metrics = list(dict.fromkeys(one["metric"] for found in rows.values() for one in found))
        first, *others = metrics
        cells = []
        for aspect, found in rows.items():
            # The places in which pictures were shown are one metric with several numbers.
            numbers = {
                metric: " ".join(f"{one['value']:.3f}" for one in found if one["metric"] == metric)
                for metric in metrics
            }
            interval = next((_narrow(one) for one in found if one["metric"] == first and "slot" not in one), "")
            cells.append([aspect, numbers[first], interval, *(numbers[metric] for metric in others)])
        heads = [metric.removeprefix("agreement_").replace("_", " ") for metric in metrics]
        progress.table(title, ["aspect", heads[0], "95 % interval", *heads[1:]], cells)
