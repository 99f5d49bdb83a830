"""Tables of reports on a terminal. All numbers of a table have three digits after the point."""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from .. import progress
from ..records import Report
from .accuracy import HARMONIC_MEAN, HEADLINE

NAMES = ("name", "baseline", "reward", "aspect", "data", "group")
"""Keys of a report that name what was measured."""
DIFFERENCE = "_difference"
SLOT = "slot_preferred"
_Facts = Mapping[str, object]


def print_reports(reports: Sequence[Report], *, title: str, labels: Mapping[str, str], digits: int = 3) -> None:
    """Print a row for each report, with so many digits after the point. `labels` are short names for long ones."""
    facts = [cast(_Facts, report) for report in reports]
    metrics = {report["metric"].replace("_", " ") for report in reports}
    headline = reports[0]["metric"].replace("_", " ")
    named = [key for key in NAMES if any(key in report for report in facts)]
    said = {key: {fact[key] for fact in facts if key in fact} for key in named if key != "group"}
    same = {key for key, values in said.items() if len(values) == 1 and len(facts) > 1}
    shown = [key for key in named if key not in same] or ["name"]
    several = ["metric"] if len(metrics) > 1 else []
    progress.table(
        title,
        [*shown, *several, "value" if several else headline, "95 % interval", "n"],
        [
            [
                *(labels.get(text, text) for text in (_named(fact, key) for key in shown)),
                *(report["metric"].replace("_", " ").removeprefix(f"{headline} ") for _ in several),
                f"{report['value']:.{digits}f}",
                _interval(report, digits),
                str(report["n"]),
            ]
            for report, fact in zip(reports, facts, strict=True)
        ],
    )


def _named(facts: _Facts, key: str) -> str:
    """What a row says about a key. The group of a part comes with the key it is a value of; a whole is ``all``."""
    if key == "group":
        return f"{facts['by']} {facts['group']}" if "by" in facts else "all"
    return str(facts.get(key, ""))


def warn_of_few(reports: Sequence[Report]) -> None:
    """Say that the intervals are wide if any of the numbers comes from few prompts."""
    if few := [report["prompts"] for report in reports if "prompts" in report]:
        prompts = f"{min(few)} to " * (min(few) < max(few)) + progress.plural(max(few), "prompt")
        which = f"{len(few)} of {len(reports)} numbers come from " if len(few) < len(reports) else ""
        progress.note(f"{which}only {prompts}: the intervals are wide; only more prompts make them narrower")


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
            of_key = [one for one, fact in facts if (fact.get("data"), fact.get("by")) == (file, key)]
            _parts(f"By {key}{where}", of_key, labels)
    if len(files) > 1:
        of_all = [one for one, fact in facts if fact["metric"] in (HEADLINE, HARMONIC_MEAN) and "by" not in fact]
        _over_files(of_all, labels)
        if apart := [one for one in reports if one["metric"] == f"{HARMONIC_MEAN}{DIFFERENCE}"]:
            cells = [[one["name"], f"{one['value']:+.3f}", _interval(one)] for one in apart]
            title = f"Difference of the harmonic mean from {apart[0]['baseline']}"
            progress.table(title, ["reward", "difference", "95 % interval"], cells)


def _definitions(title: str, reports: Sequence[Report], labels: Mapping[str, str]) -> None:
    """A row for each reward, a column for each definition, and what guessing gives.

    Guessing depends on how many pairs a reward ties. If it is the same for all rewards, the last row says it.
    """
    rows: dict[str, list[Report]] = {}
    for report in reports:
        rows.setdefault(report["name"], []).append(report)
    metrics = [one["metric"].removesuffix(DIFFERENCE) for one in next(iter(rows.values()))]
    heads = [metric.removeprefix(f"{HEADLINE}_").replace("_", " ") for metric in metrics]
    guessed = {
        name: ["(by chance)", f"{0.5:.3f}", "", *(f"{one['chance']:.3f}" for one in found[1:])]
        for name, found in rows.items()
        if "chance" in found[-1]
    }
    alike = len({tuple(row) for row in guessed.values()}) == 1
    cells = []
    for name, found in rows.items():
        numbers = [f"{one['value']:.3f}" for one in found]
        cells.append([labels.get(name, name), numbers[0], _narrow(found[0]), *numbers[1:]])
        if name in guessed and (not alike or name == [*rows][-1]):
            cells.append(guessed[name])
    progress.table(title, ["reward", heads[0], "95 % interval", *heads[1:]], cells)


def _parts(title: str, reports: Sequence[Report], labels: Mapping[str, str]) -> None:
    """A row for each part and reward, with its pairs."""
    cells = [
        [one["group"], labels.get(one["name"], one["name"]), f"{one['value']:.3f}", _narrow(one), str(one["n"])]
        for one in reports
    ]
    progress.table(title, ["part", "reward", HEADLINE, "95 % interval", "pairs"], cells)


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
    return f"{report['low']:.3f}{' to ' if report['low'] < 0 else '–'}{report['high']:.3f}"


SHORT = {
    "agreement_with_ties": "with ties",
    "cohens_kappa": "kappa",
    "spearman": "rho",
    "kendall": "tau",
    "self_consistency": "passes agree",
}
"""Names of metrics for narrow columns."""


def print_agreement(reports: Iterable[Report]) -> None:
    """Print a table for every two annotators, for all, and for each one alone, with a row for each aspect."""
    tables: dict[str, dict[str, list[Report]]] = {}
    for report in reports:
        title = f"{report['name']} and {report['baseline']}" if "baseline" in report else report["name"]
        tables.setdefault(title, {}).setdefault(report["aspect"], []).append(report)
    for title, rows in tables.items():
        metrics = list(dict.fromkeys(one["metric"] for found in rows.values() for one in found))
        first, *others = metrics
        with_interval = first != SLOT
        cells = []
        for aspect, found in rows.items():
            by_metric = {metric: [one for one in found if one["metric"] == metric] for metric in metrics}
            interval = [_narrow(one) for one in by_metric[first][:1]] or [""]
            cells.append(
                [
                    aspect,
                    " ".join(map(_marked, by_metric[first])),
                    *(interval if with_interval else []),
                    *(" ".join(map(_marked, by_metric[metric])) for metric in others),
                ]
            )
        heads = [SHORT.get(metric, metric.replace("_", " ")) for metric in metrics]
        progress.table(title, ["aspect", heads[0], *(["95 % interval"] if with_interval else []), *heads[1:]], cells)
        if any(_marked(one).endswith("*") for found in rows.values() for one in found):
            progress.note("* the interval of this place in the order does not hold 0.5")


def _marked(report: Report) -> str:
    """The value. A place in the order that is preferred too often or too seldom has a star: there may be several."""
    is_biased = report["metric"] == SLOT and not report["low"] <= 0.5 <= report["high"]
    return f"{report['value']:.3f}{'*' * is_biased}"
