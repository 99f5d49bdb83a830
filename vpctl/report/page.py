"""An HTML page with reports, pictures side by side and training curves, in one file without external resources.

This module computes the content of the page. The template `page.html.j2` defines its appearance.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from .. import __version__, progress
from ..images.pictures import Pictures
from ..records import Report
from ..streams.places import short_labels
from .axes import Axis, axis_ends, number, percent
from .curves import FRAME, SMOOTHED_OVER, training
from .gallery import Gallery, Row
from .pages import TEMPLATES, write_whole

SENTENCES = 3
"""Number of reports that the summary describes in full sentences. The others are counted."""
SHARES = ("win_rate", "accuracy", "agreement")
"""Metrics that are shares of pairs. They are shown as percentages, on an axis from 0 to 1; guessing gives one half."""
TEXTS = {"name": "measured", "baseline": "compared with", "reward": "judged by", "aspect": "aspect"}
"""Keys that say what a report is about, and their names on the page."""

ReportData = Mapping[str, Any]
"""A report with any additional keys."""


class Contest(NamedTuple):
    """A win rate and the counts it was computed from."""

    report: ReportData
    wins: int
    ties: int
    losses: int


class Table(NamedTuple):
    """The reports of one metric, the keys that distinguish them, and the common axis of their intervals."""

    metric: str
    keys: list[str]
    reports: list[ReportData]
    axis: Axis


def write(
    path: str,
    *,
    title: str,
    reports: list[Report],
    rows: Iterable[Row] = (),
    runs: Sequence[str] = (),
    pictures: Pictures | None = None,
) -> int:
    """Write the page completely or not at all. Creates missing folders. Returns the number of missing pictures.

    `rows` holds, for each prompt, the first picture of every source; the base comes first. `runs` are the folders of
    training runs. If a picture cannot be opened, its cell shows the reason.
    """
    run_labels = short_labels({run: run for run in runs})
    trainings = [training(run, label) for run, label in run_labels.items()]
    facts: list[ReportData] = [{**one, **{key: str(one.get(key)) for key in TEXTS if key in one}} for one in reports]
    contests = [found for one in facts if (found := contest(one))]
    prompts = list(rows)
    sources = [source for source, _ in prompts[0]] if prompts else []
    compared = [one[key] for one in facts if one["metric"] == "win_rate" for key in ("name", "baseline") if key in one]
    labels = short_labels({source: os.path.dirname(source) for source in (*sources, *compared)})
    decided = [
        (one.report["name"], one.report["reward"])
        for one in contests
        if "reward" in one.report and sources and one.report.get("baseline") == sources[0]
    ]
    gallery = Gallery(prompts, sources, decided, labels, pictures or Pictures([]))
    page = TEMPLATES.get_template("page.html.j2").render(
        title=title,
        sentences=summary(facts, labels, sources, len(prompts)),
        contests=by_reward(contests),
        tables=tables([one for one in facts if not contest(one)]),
        labels=labels,
        shares=SHARES,
        texts=TEXTS,
        total=len(prompts),
        rewards=gallery.rewards,
        cards=gallery.spread(),
        extremes=gallery.extremes(),
        trainings=trainings,
        frame=FRAME,
        unit=Axis(0.0, 1.0),
        smoothed_over=SMOOTHED_OVER,
        version=__version__,
        written=datetime.now(UTC),
    )
    write_whole(path, page.encode("utf-8", "replace"))
    progress.note(f"the page is {path}")
    if missing := gallery.missing:
        name, reason = next(iter(missing.items()))
        progress.warn(f"{path}: {len(missing)} of {gallery.total} pictures are missing; {name}: {reason}")
    return len(gallery.missing)


def contest(report: ReportData) -> Contest | None:
    """The contest of a win rate with counts; None for other reports and for a win rate without counts."""
    counts = [report.get(key) for key in ("wins", "ties", "losses")]
    whole = [count for count in counts if isinstance(count, int) and count >= 0]
    if report["metric"] != "win_rate" or len(whole) < 3 or not any(whole):
        return None
    return Contest(report, *whole)


def by_reward(contests: list[Contest]) -> dict[str, list[Contest]]:
    """The contests grouped by the reward that decided them, in the order of each reward's first contest."""
    groups: dict[str, list[Contest]] = {}
    for one in contests:
        groups.setdefault(one.report.get("reward", ""), []).append(one)
    return groups


def tables(reports: list[ReportData]) -> list[Table]:
    """One table for each metric, in the order of the metrics' first reports.

    The axis of a metric that is not a share of pairs covers its values and intervals.
    """
    groups: dict[str, list[ReportData]] = {}
    for report in reports:
        groups.setdefault(report["metric"], []).append(report)
    found = []
    for metric, group in groups.items():
        keys = [key for key in TEXTS if any(key in report for report in group)]
        ends = [report[key] for report in group for key in ("value", "low", "high")]
        found.append(Table(metric, keys, group, Axis(0.0, 1.0) if metric in SHARES else Axis(*axis_ends(ends, 0.05))))
    return found


def summary(reports: list[ReportData], labels: Mapping[str, str], sources: Sequence[str], prompts: int) -> list[str]:
    """Sentences that summarise the reports of the first report's metric.

    The first `SENTENCES` reports with the same reward and aspect as the first one get a full sentence each. The other
    reports of the metric are counted. `sources` and `prompts` are the sources and the number of prompts of the pictures
    on the page. The list is empty if the metric is not a share of pairs.
    """
    if not reports or reports[0]["metric"] not in SHARES:
        return []
    kin = [report for report in reports if report["metric"] == reports[0]["metric"]]
    alike = [report for report in kin if all(report.get(key) == kin[0].get(key) for key in ("reward", "aspect"))]
    told = alike[:SENTENCES]
    sentences = []
    for report in told:
        one_a_prompt = report["n"] == prompts and {report["name"], report.get("baseline")} <= set(sources)
        sentences.append(_sentence(report, labels, "prompt" if one_a_prompt else "comparison"))
    rest = [side(report) for report in kin if report not in told]
    if rest:
        above, across, below = (rest.count(where) or "none" for where in (1, 0, -1))
        sentences.append(
            f"The others’ intervals: {above} wholly above one half, {across} across it, {below} wholly below."
        )
    return sentences


def side(report: ReportData) -> int:
    """1 if the whole interval is above one half, −1 if it is below, 0 if it includes one half."""
    return int(report["low"] > 0.5) - int(report["high"] < 0.5)


_VERDICTS = {
    1: "the whole interval lies above one half",
    0: "the interval includes one half",
    -1: "the whole interval lies below one half",
}


def _sentence(report: ReportData, labels: Mapping[str, str], compared: str) -> str:
    metric, name, other = report["metric"], report["name"], report.get("baseline", "another")
    value = percent(report["value"])
    if metric == "win_rate":
        tuned, base = labels[name], labels.get(other, other)
        judge = f"Judged by {report['reward']} on" if "reward" in report else "On"
        ties = "ties count one half; " if report.get("ties") else ""
        counted = f"{judge} {_count(report['n'], compared)}"
        said = f"{counted}, {tuned}’s pictures beat {base}’s {value} of the time ({ties}{span(report)})"
        meant = {1: f"{tuned}’s are preferred", 0: "neither can be said to be better", -1: f"{base}’s are preferred"}
    else:
        on = f" on {report['aspect']}" if "aspect" in report else ""
        told = f"{name} prefers the chosen picture" if metric == "accuracy" else f"{name} and {other} agree{on}"
        said = f"{told} in {value} of {_count(report['n'], 'pair')} ({span(report)})"
        meant = {1: "better than guessing", 0: "this is not different from guessing", -1: "worse than guessing"}
    return f"{said}; {_VERDICTS[side(report)]}: {meant[side(report)]}."


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"


def span(report: ReportData) -> str:
    """The interval in words. Shares are written as percentages."""
    shown_as = percent if report["metric"] in SHARES else number
    covers = f"{100 * report['confidence']:g}\u00a0% " if "confidence" in report else ""
    return f"{covers}interval {shown_as(report['low'])} to {shown_as(report['high'])}"


TEMPLATES.filters.update(span=span)
