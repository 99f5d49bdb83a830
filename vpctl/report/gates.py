"""Gates: limits that measured numbers must keep, and the forms in which a CI server reads whether they did."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast
from xml.etree import ElementTree

from ..errors import UserError, os_reason
from ..records import Report, listing
from ..streams.places import is_stream
from ..streams.whole import atomic_write

TOLD = ("name", "baseline", "reward", "aspect", "slot", "mode", "level", "data", "group")
"""Keys of a report that messages name."""
IDENTITY = (*TOLD, "by", "split", "threshold", "selected_by", "among")
"""Keys of a report that say what was measured."""
LOWER_IS_BETTER = frozenset(
    ["ties", "flips", "failed", "refused", "suspicious", "duplicates", "unsafe", "frechet_distance", "kernel_distance"]
)
"""Metrics that get worse when they rise."""
WITHOUT_DIRECTION = frozenset(["slot_preferred", "first_preferred", "level"])
"""Metrics that are neither better nor worse when they rise; they are not compared with an earlier run."""
UNBOUNDED = frozenset(["elo", "frechet_distance", "kernel_distance"])
"""Metrics whose numbers are not from -1 to 1."""
ON = ("interval", "value")
DECLARATION = b"<?xml"


class MetricGate(NamedTuple):
    """A limit of a metric: its least value, or with `is_most` its largest."""

    metric: str
    limit: float
    is_most: bool = False

    def __str__(self) -> str:
        return f"--fail-{'over' if self.is_most else 'under'} {self.metric}={self.limit:g}"


class GateOutcome(NamedTuple):
    """Whether a report keeps a gate, or is no worse than an earlier one. If not, `failure` says why."""

    gate: str
    report: Report
    failure: str

    @property
    def what(self) -> str:
        """What the report is about, in words."""
        facts = cast(Mapping[str, object], self.report)
        names = [f"slot {facts[key]}" if key == "slot" else str(facts[key]) for key in TOLD if key in facts]
        return ", ".join([*names, self.report["metric"]])


def parse(texts: Iterable[str], metrics: Sequence[str], *, is_most: bool) -> list[MetricGate]:
    """The gates of texts such as ``0.5``, which is for the first of `metrics`, and ``win_rate=0.5``.

    `metrics` are those that the evaluation can report.

    Raises `UserError` if a text is neither, or names another metric.
    """
    found = []
    for text in texts:
        metric, equals, number = text.rpartition("=")
        option = f"--fail-{'over' if is_most else 'under'} {text}"
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if not math.isfinite(limit) or (equals and not metric):
            raise UserError(f"{option}: must be a number, or a metric and a number, such as {metrics[0]}=0.5")
        if (metric or metrics[0]) not in UNBOUNDED and not -1 <= limit <= 1:
            raise UserError(f"{option}: must be from -1 to 1; 0.65 is 65 %")
        if metric and metric not in metrics:
            from difflib import get_close_matches

            near = get_close_matches(metric, metrics, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"{option}: this evaluation has no such metric; {hint}it has {listing(metrics)}")
        found.append(MetricGate(metric or metrics[0], limit, is_most))
    return found


def outcomes(reports: Sequence[Report], gates: Iterable[MetricGate], *, on: str) -> list[GateOutcome]:
    """Whether each report keeps each gate of its metric. `on` is one of `ON`.

    With ``interval``, the worse end of the interval must keep the limit; with ``value``, the number itself. A report
    without numbers keeps no gate. Raises `UserError` if there is no report for a gate.
    """
    found = []
    for gate in gates:
        measured = [one for one in reports if one["metric"] == gate.metric]
        if not measured:
            raise UserError(f"{gate}: nothing was measured that this gate could look at")
        for report in measured:
            end = "high" if gate.is_most else "low"
            number = cast(Mapping[str, float], report)["value" if on == "value" else end]
            kept = number <= gate.limit if gate.is_most else number >= gate.limit
            side = "above" if gate.is_most else "below"
            which = "the value" if on == "value" else f"the {'upper' if gate.is_most else 'lower'} end of the interval"
            failure = "" if kept else f"{which}, {number:.3f}, is {side} the gate of {gate.limit:g}"
            found.append(GateOutcome(str(gate), report, failure))
    return found


def regressions(reports: Sequence[Report], previous: Sequence[Report], *, source: str) -> list[GateOutcome]:
    """Whether each report is significantly worse than the one in `previous` about the same. `source` is their file.

    The difference of two numbers has the interval of MOVER (Zou and Donner 2008, equation 8), from the intervals of
    both: the distance from one end to its number and from the other's number to its end, squared, added, and the root
    taken. It is significant if the 95 % interval is wholly on the worse side. If both were measured on the same
    prompts, the interval is wider than it had to be, so the gate fires less often. Raises `UserError` if no report has
    an earlier one.
    """
    known = {_identity(one): one for one in previous}
    found = []
    for report in reports:
        if report["metric"] in WITHOUT_DIRECTION:
            continue
        if before := known.get(_identity(report)):
            sign = -1 if report["metric"] in LOWER_IS_BETTER else 1
            loss = sign * (before["value"] - report["value"])
            ours, theirs = ("high", "low") if sign == 1 else ("low", "high")
            now, then = cast(Mapping[str, Any], report), cast(Mapping[str, Any], before)
            reach = math.hypot(now[ours] - now["value"], then["value"] - then[theirs])
            worse = loss > reach
            failure = f"{report['value']:.3f} is significantly worse than {before['value']:.3f}, in {source}"
            found.append(GateOutcome(f"--previous {source}", report, failure if worse else ""))
    if not found:
        what, there = ("".join(GateOutcome("", one, "").what for one in some[:1]) for some in (reports, previous))
        has = f"it has {there}" if there else "it is empty"
        raise UserError(
            f"--previous {source}: has no report of {what or 'these metrics'}; {has}; the files and rewards must have "
            "the same names in both runs"
        )
    return found


def _identity(report: Report) -> tuple[object, ...]:
    facts = cast(Mapping[str, object], report)
    return (report["metric"], *(str(facts.get(key)) for key in IDENTITY))


def check_junit(path: str, others: Iterable[str]) -> None:
    """Raise `UserError` if the file of JUnit cannot be written, or would replace something else."""
    if is_stream(path) or os.path.isdir(path):
        raise UserError(f"--junit {path}: must be a file, such as junit.xml")
    if os.path.realpath(path) in {os.path.realpath(one) for one in others if one}:
        raise UserError(f"--junit {path}: this command reads or writes that file; name another")
    try:
        if os.path.exists(path) and Path(path).read_bytes()[: len(DECLARATION)] not in (b"", DECLARATION):
            raise UserError(f"--junit {path}: holds something other than XML; name another file")
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "ab"):
            pass
    except OSError as error:
        raise UserError(f"--junit {path}: {os_reason(error)}") from None


def write_junit(path: str, title: str, found: Sequence[GateOutcome]) -> None:
    """Write the outcomes as an XML file of JUnit, a test case for each. Raises `UserError` if it cannot be written."""
    failures = str(sum(bool(one.failure) for one in found))
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        suites, "testsuite", name=title, tests=str(len(found)), failures=failures, errors="0", skipped="0"
    )
    for one in found:
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(one.gate), name=_xml(one.what))
        if one.failure:
            ElementTree.SubElement(case, "failure", message=_xml(one.failure))
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with atomic_write(path, shared=True) as part:
            ElementTree.ElementTree(suites).write(part, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise UserError(f"--junit {path}: {os_reason(error)}") from None


def _xml(text: str) -> str:
    """The text without characters that XML cannot hold."""
    return "".join(one if one.isprintable() else "�" for one in text)


def annotation(outcome: GateOutcome) -> str:
    """A failed outcome as a command of GitHub Actions, which shows it as an error of the run."""
    title, message = (
        text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A") for text in (outcome.gate, outcome.failure)
    )
    title = title.replace(":", "%3A").replace(",", "%2C")
    what = outcome.what.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::error title={title}::{what}: {message}"


def markdown(title: str, reports: Sequence[Report], found: Sequence[GateOutcome]) -> str:
    """The reports and the outcomes of the gates as tables in Markdown, for the summary of a job."""
    rows = ["| measured | value | 95 % interval | n |", "|---|---|---|---|"]
    for one in reports:
        interval = f"{one['low']:.3f} to {one['high']:.3f}"
        rows.append(f"| {_cell(GateOutcome('', one, '').what)} | {one['value']:.3f} | {interval} | {one['n']} |")
    if found:
        rows += ["", "| gate | measured | |", "|---|---|---|"]
        for outcome in found:
            met = f"**failed**: {outcome.failure}" if outcome.failure else "met"
            rows.append(f"| {_cell(outcome.gate)} | {_cell(outcome.what)} | {_cell(met)} |")
    return f"### {title}\n\n" + "\n".join(rows) + "\n"


def append_summary(path: str, text: str) -> None:
    """Append text to the summary of a job. Raises `UserError` if that is impossible."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"--github: {path}: {os_reason(error)}") from None


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
