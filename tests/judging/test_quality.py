"""The quality of judgements, compared with numbers that were worked out by hand."""

from collections import Counter
from typing import Any, cast

import pytest

from vpctl.judging.preferences import without_replaced
from vpctl.judging.quality import level_of, measure_quality, print_tables
from vpctl.records import Judgement


def judged(scores: list[float], *, order: list[int] | None = None, ids: str = "abcd", **more: Any) -> Judgement:
    own = list(ids[: len(scores)])
    record = {"prompt_id": "p", "prompt": "p", "aspect": "x", "annotator": "m", "image_ids": own, "file_names": own}
    return cast(Judgement, {**record, "scores": scores, "order": order or list(range(len(scores))), **more})


def test_levels_ties_slots_and_failures_are_counted() -> None:
    records = [
        judged([5.0, 3.0, 3.0], order=[2, 0, 1], key="1"),
        judged([1.0, 2.0, 4.0], order=[0, 1, 2], key="2"),
        judged([], refused="no", key="3"),
        judged([], failed="what", key="4"),
    ]
    for number, record in enumerate(records):
        record["prompt_id"] = str(number)
    found = measure_quality(records)[("m", "x", "list")]
    assert (found.judged, sum(found.refused.values), sum(found.failed.values)) == (2, 1, 1)
    assert found.levels == {5: 1, 3: 2, 1: 1, 2: 1, 4: 1}
    assert (len(found.ties.values), sum(found.ties.values)) == (6, 1)
    # Scores of the pictures shown first: 3 and 1. Scores of those shown last: 3 and 4.
    assert found.slots.mean == pytest.approx((3 + 1) / 2 - (3 + 4) / 2)


def test_of_what_was_asked_anew_the_last_counts_though_the_words_be_others() -> None:
    records = [
        judged([1.0, 1.0], key="k"),
        judged([], key="k", failed="x", image_ids=["a", "b"], order=[0, 1]),
        judged([4.0, 5.0], key="other"),
    ]
    found = measure_quality(without_replaced(records, Counter()))[("m", "x", "list")]
    assert (found.answers, found.judged, found.ties.values, found.flips.values) == (1, 1, [False], [])
    assert found.levels == {4: 1, 5: 1}


def test_preferences_that_turn_round_are_flips() -> None:
    records = [
        judged([5.0, 1.0], ids="ab", key="1"),
        judged([1.0, 5.0], ids="ab", key="2", repeat=2),
        judged([5.0, 1.0], ids="ba", key="3", repeat=3),
        judged([5.0, 1.0], ids="cd", key="4"),
        judged([1.0, 5.0], ids="dc", key="5", repeat=2),
        judged([3.0, 3.0], ids="cd", key="6", repeat=3),
    ]
    found = measure_quality(records)[("m", "x", "list")]
    # The preferences are 1, -1, -1 for a and b. For c and d they are 1, 1 and a tie.
    assert (len(found.flips.values), sum(found.flips.values)) == (3, 1)


def test_annotators_aspects_and_modes_are_told_apart_and_people_need_no_key() -> None:
    records = [
        judged([5.0, 1.0], mode="pair"),
        judged([5.0, 1.0]),
        judged([2.0, 1.0], aspect="y"),
        judged([2.0, 1.0], annotator="n"),
        judged([2.0, 1.0], annotator="n"),
    ]
    found = measure_quality(records)
    assert list(found) == [("m", "x", "list"), ("m", "x", "pair"), ("m", "y", "list"), ("n", "x", "list")]
    assert found[("n", "x", "list")].judged == 2


def test_nothing_is_divided_by_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert measure_quality([]) == {}
    records = [judged([3.0], key="1"), judged([], refused="no", key="2", aspect="y")]
    assert measure_quality(records)[("m", "x", "list")].slots.mean is None
    print_tables(measure_quality(records))
    said = capsys.readouterr().err
    assert "Judged by m" in said
    assert "100%" in said


def test_a_table_fits_into_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    scores = [1.0, 2.0, 3.0, 4.0, 5.0, 5.0]
    ids = "abcdef"
    there_and_back = [
        judged(scores, aspect="prompt-following", prompt_id=str(number), ids=ids, repeat=repeat, order=order, key="k")
        for number in range(100)
        for repeat, order in ((1, [0, 1, 2, 3, 4, 5]), (2, [5, 4, 3, 2, 1, 0]))
    ]
    print_tables(
        measure_quality([*there_and_back, judged([], failed="what"), judged([0.1, -7.3], annotator="reward:clip")])
    )
    title, *_, first, second, _, other, _, _, _, rewards, _ = capsys.readouterr().err.splitlines()
    assert title.strip() == "Judged by m, list; 1 of 201 failed"
    assert [cell.strip() for cell in first.split("│")[1:-1]] == (
        ["prompt-following", "200", "0%", "17 17 17 17 33", "7%", "+0.00", "0%"]
    )
    assert [cell.strip() for cell in second.split("│")[1:-1]] == ["x", "0", "0%", "", "", "", ""]
    assert other.strip() == "Judged by reward:clip, list"
    assert [cell.strip() for cell in rewards.split("│")[1:-1]] == ["x", "1", "0%", "", "0%", "+7.40", ""]


def test_a_score_between_two_levels_counts_for_the_higher_one() -> None:
    assert [*map(level_of, (1.5, 2.49, 2.5, 3.5, 4.5))] == [2, 2, 3, 4, 5]
