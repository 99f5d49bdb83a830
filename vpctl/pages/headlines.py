"""The numbers at the top of a page: win rates with their counts, headline figures, and sentences that say them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .axes import number, percent
from .pivots import ReportData

SENTENCES = 3
"""Number of reports that the summary describes in full sentences. The others are counted."""
FIGURES = 6
SHARES = ("win_rate", "accuracy", "agreement")
"""Metrics that are shares of pairs. They are shown as percentages, on an axis from 0 to 1; guessing gives one half."""


class Contest(NamedTuple):
    """A win rate and the counts it was computed from."""

    report: ReportData
    wins: int
    ties: int
    losses: int


class Figure(NamedTuple):
    """A headline number: whose it is, what it is, and its report."""

    label: str
    what: str
    report: ReportData


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


def figures(reports: Sequence[ReportData], labels: Mapping[str, str]) -> list[Figure]:
    """The headline numbers: the reports of the first report's metric, reward and aspect, at most `FIGURES`.

    The list is empty if the metric is not a share of pairs.
    """
    found = []
    for report in _headlines(reports)[:FIGURES]:
        words = [report["metric"].replace("_", " ")]
        for key, word in (("baseline", "with" if report["metric"] == "agreement" else "against"), ("data", "on")):
            if key in report:
                words.append(f"{word} {labels.get(report[key], report[key])}")
        judged = f"judged by {report['reward']}" if "reward" in report else report.get("aspect", "")
        what = ", ".join(filter(None, [" ".join(words), judged]))
        found.append(Figure(labels.get(report["name"], report["name"]), what, report))
    return found


def _headlines(reports: Sequence[ReportData]) -> list[ReportData]:
    """The reports that are like the first one, without those of a part of the data."""
    whole = [report for report in reports if "by" not in report]
    if not whole or whole[0]["metric"] not in SHARES:
        return []
    first = whole[0]
    same = ("metric", "reward", "aspect", "data")
    return [report for report in whole if all(report.get(key) == first.get(key) for key in same)]


def summary(reports: list[ReportData], labels: Mapping[str, str], sources: Sequence[str], prompts: int) -> list[str]:
    """Sentences that summarise the reports of the first report's metric.

    The first `SENTENCES` reports with the same reward and aspect as the first one get a full sentence each. The other
    reports of the metric are counted. `sources` and `prompts` are the sources and the number of prompts of the pictures
    on the page. The list is empty if the metric is not a share of pairs.
    """
    told = _headlines(reports)[:SENTENCES]
    if not told:
        return []
    kin = [report for report in reports if report["metric"] == told[0]["metric"] and "by" not in report]
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
        tuned, base = labels.get(name, name), labels.get(other, other)
        judge = f"Judged by {report['reward']} on" if "reward" in report else "On"
        ties = "ties count one half; " if report.get("ties") else ""
        counted = f"{judge} {_count(report['n'], compared)}"
        said = f"{counted}, {tuned}’s pictures beat {base}’s {value} of the time ({ties}{span(report)})"
        meant = {1: f"{tuned}’s are preferred", 0: "neither can be said to be better", -1: f"{base}’s are preferred"}
    else:
        on = f" on {report['aspect']}" if "aspect" in report else ""
        told = f"{name} prefers the chosen picture" if metric == "accuracy" else f"{name} and {other} agree{on}"
        where = f" of {labels.get(report['data'], report['data'])}" if "data" in report else ""
        said = f"{told} in {value} of {_count(report['n'], 'pair')}{where} ({span(report)})"
        meant = {1: "better than guessing", 0: "this is not different from guessing", -1: "worse than guessing"}
    return f"{said}; {_VERDICTS[side(report)]}: {meant[side(report)]}."


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"


def span(report: ReportData) -> str:
    """The interval in words. Shares are written as percentages."""
    shown_as = percent if report["metric"] in SHARES else number
    covers = f"{100 * report['confidence']:g}\u00a0% " if "confidence" in report else ""
    return f"{covers}interval {shown_as(report['low'])} to {shown_as(report['high'])}"
