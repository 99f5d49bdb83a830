"""What is said of a long stage's progress."""

import itertools

import pytest

from vpctl import progress


def test_a_resumed_count_begins_where_it_was_and_its_time_left_is_of_its_own_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = itertools.count(0, 60)
    monkeypatch.setattr("vpctl.progress.time.monotonic", lambda: next(clock))
    with progress.Counter("steps", 100, done=90) as count:
        for _ in range(2):
            count()
    assert capsys.readouterr().err.splitlines() == [
        "vpctl: 91 of 100 steps in 60 s, 9 min left",
        "vpctl: 92 of 100 steps in 2 min, 8 min left",
    ]
