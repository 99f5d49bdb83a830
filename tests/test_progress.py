"""The progress messages of a long stage."""

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


def test_bytes_have_the_unit_that_people_read() -> None:
    assert [progress.size(count) for count in (1234, 17_800_000, 999_000_000, 1_000_000_000, 80e9)] == [
        "1.23 kB",
        "17.8 MB",
        "999 MB",
        "1 GB",
        "80 GB",
    ]


@pytest.mark.parametrize(("number", "said"), [(0, "0 held-out pairs"), (1, "1 held-out pair"), (2, "2 held-out pairs")])
def test_a_count_has_its_noun_in_the_right_number(number: int, said: str) -> None:
    assert progress.plural(number, "held-out pair") == said


def test_what_was_there_is_counted_in_the_right_number(capsys: pytest.CaptureFixture[str]) -> None:
    for resumed in (1, 2):
        progress.finished(progress.plural(resumed, "picture"), "out.jsonl", resumed=resumed)
    assert capsys.readouterr().err.splitlines() == [
        "vpctl: 1 picture written to out.jsonl; 1 was already there",
        "vpctl: 2 pictures written to out.jsonl; 2 were already there",
    ]
