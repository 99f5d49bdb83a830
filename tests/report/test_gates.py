"""Gates of CI: what they let through, what they stop, and what a CI server reads of it."""

import re
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.errors import UserError
from vpctl.records import Report
from vpctl.report.gates import GateOutcome, MetricGate, annotation, markdown, outcomes, parse, regressions, write_junit
from vpctl.report.intervals import bootstrap

METRICS = ["accuracy", "ties"]


def report(value: float = 0.6, reach: float = 0.05, **more: Any) -> Report:
    facts = {"name": "vp", "metric": "accuracy", "value": value, "low": value - reach, "high": value + reach, "n": 9}
    return cast(Report, {**facts, **more})


def test_a_gate_is_a_number_for_the_headline_or_names_its_metric() -> None:
    assert parse(["0.5", "ties=.25"], METRICS, is_most=False) == [MetricGate("accuracy", 0.5), MetricGate("ties", 0.25)]
    assert str(MetricGate("ties", 0.25, is_most=True)) == "--fail-over ties=0.25"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", "--fail-under x: must be a number, or a metric and a number, such as accuracy=0.5"),
        ("nan", "--fail-under nan: must be a number, or a metric and a number, such as accuracy=0.5"),
        ("=1", "--fail-under =1: must be a number, or a metric and a number, such as accuracy=0.5"),
        (
            "tiez=1",
            "--fail-under tiez=1: this evaluation has no such metric; did you mean 'ties'? it has accuracy and ties",
        ),
    ],
)
def test_a_gate_that_cannot_be_is_told(text: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        parse([text], METRICS, is_most=False)
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("gate", "on", "kept"),
    [
        (MetricGate("accuracy", 0.5499), "interval", True),
        (MetricGate("accuracy", 0.5501), "interval", False),
        (MetricGate("accuracy", 0.5501), "value", True),
        (MetricGate("accuracy", 0.6), "value", True),
        (MetricGate("accuracy", 0.6501, is_most=True), "interval", True),
        (MetricGate("accuracy", 0.6499, is_most=True), "interval", False),
        (MetricGate("accuracy", 0.6499, is_most=True), "value", True),
    ],
)
def test_the_worse_end_of_the_interval_decides_or_the_value(gate: MetricGate, on: str, kept: bool) -> None:
    [outcome] = outcomes([report(0.6, 0.05)], [gate], on=on)
    assert (not outcome.failure) == kept


def test_a_number_that_is_not_there_keeps_no_gate() -> None:
    [outcome] = outcomes([report(float("nan"))], [MetricGate("accuracy", 0.0)], on="interval")
    assert outcome.failure


def test_a_gate_that_looks_at_nothing_is_an_error() -> None:
    with pytest.raises(UserError, match=r"--fail-under ties=0\.5: nothing was measured"):
        outcomes([report()], [MetricGate("ties", 0.5)], on="interval")


def test_a_regression_must_be_significant() -> None:
    """By hand: the losses are .08 and .06; the reach of both is √(.05² + .05²) = .0707."""
    before = [report(0.60)]
    assert regressions([report(0.52)], before, source="old")[0].failure
    assert not regressions([report(0.54)], before, source="old")[0].failure
    assert not regressions([report(0.99)], before, source="old")[0].failure
    before = [report(0.60, metric="ties")]
    assert regressions([report(0.68, metric="ties")], before, source="old")[0].failure
    assert not regressions([report(0.52, metric="ties")], before, source="old")[0].failure


def test_only_what_was_measured_before_is_compared() -> None:
    found = regressions([report(0.1, name="new"), report(0.1)], [report(0.6)], source="old")
    assert [(one.report["name"], bool(one.failure)) for one in found] == [("vp", True)]
    with pytest.raises(
        UserError, match="--previous old: has no report of vp, fidelity, accuracy; it has vp, accuracy; the files"
    ):
        regressions([report(aspect="fidelity")], [report()], source="old")


def test_the_same_model_measured_twice_seldom_counts_as_worse() -> None:
    """At the null a one-sided test at 2.5 % fires in at most 3 %: of 60 pairs of samples, hardly in more than 4."""
    chance = np.random.default_rng(5)
    fired = 0
    for _ in range(60):
        two = []
        for _ in range(2):
            outcomes_ = (chance.random((60, 3)) < chance.uniform(0.4, 0.8, (60, 1))).astype(float)
            value, low, high, n, _ = bootstrap(outcomes_.ravel(), np.repeat(np.arange(60), 3).tolist())
            two.append(report(value, 0, low=low, high=high, n=n))
        fired += bool(regressions(two[:1], two[1:], source="old")[0].failure)
    assert fired <= 4


FAILED = GateOutcome("--fail-under 0.7", report(name="a|b\n::error::x", group="<b>"), "50 % is below,\nso it fails")


def test_junit_has_a_case_for_each_outcome(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "junit.xml"
    write_junit(str(path), "Accuracy & more", [FAILED, GateOutcome("--fail-under 0.1", report(name="\x00"), "")])
    suite = ElementTree.parse(path).getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("name")) == ("2", "1", "Accuracy & more")
    first, second = suite
    failure = first.find("failure")
    assert failure is not None
    assert "is below" in str(failure.get("message"))
    assert (second.get("name"), len(second)) == ("�, accuracy", 0)


@given(st.text(), st.text())
def test_an_annotation_is_one_line_that_no_text_can_break(name: str, failure: str) -> None:
    said = annotation(GateOutcome("--fail-under 0.5", report(name=name), failure))
    assert re.fullmatch(r"::error title=[^:,\r\n]*::[^\r\n]*", said)


def test_the_summary_is_tables_that_no_name_can_break() -> None:
    text = markdown("Accuracy", [FAILED.report], [FAILED])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 6
    assert all(len(re.findall(r"(?<!\\)\|", row)) == (5 if number < 3 else 4) for number, row in enumerate(rows))
    assert "<b>" not in text
