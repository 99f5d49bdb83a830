"""How judgements turned out, by hand."""

from typing import Any, cast

import pytest

from vpctl.quality import measured, summarise
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
    found = measured(lambda: records)[("m", "x", "list")]
    assert (found.judged, found.refused, found.failed) == (2, 1, 1)
    assert found.levels == {5: 1, 3: 2, 1: 1, 2: 1, 4: 1}
    assert (found.pairs, found.ties) == (6, 1)
    # Shown first were the third of the one, 3, and the first of the other, 1; last the second, 3, and the third, 4.
    assert found.slot_bias == pytest.approx((3 + 1) / 2 - (3 + 4) / 2)


def test_of_the_same_key_the_last_counts() -> None:
    records = [judged([1.0, 1.0], key="k"), judged([], key="k", failed="x"), judged([4.0, 5.0], key="k")]
    found = measured(lambda: records)[("m", "x", "list")]
    assert (found.judged, found.failed, found.ties) == (1, 0, 0)
    assert found.levels == {4: 1, 5: 1}


def test_preferences_that_turn_round_are_flips() -> None:
    records = [
        judged([5.0, 1.0], ids="ab", key="1"),
        judged([1.0, 5.0], ids="ab", key="2"),
        judged([5.0, 1.0], ids="ba", key="3"),
        judged([5.0, 1.0], ids="cd", key="4"),
        judged([1.0, 5.0], ids="dc", key="5"),
        judged([3.0, 3.0], ids="cd", key="6"),
    ]
    found = measured(lambda: records)[("m", "x", "list")]
    # a and b are preferred as 1, -1, -1; c and d as 1, 1, and then neither.
    assert (found.compared, found.flips) == (3, 1)


def test_annotators_aspects_and_modes_are_told_apart_and_people_need_no_key() -> None:
    records = [
        judged([5.0, 1.0], mode="pair"),
        judged([5.0, 1.0]),
        judged([2.0, 1.0], aspect="y"),
        judged([2.0, 1.0], annotator="n"),
        judged([2.0, 1.0], annotator="n"),
    ]
    found = measured(lambda: records)
    assert list(found) == [("m", "x", "list"), ("m", "x", "pair"), ("m", "y", "list"), ("n", "x", "list")]
    assert found[("n", "x", "list")].judged == 2


def test_nothing_is_divided_by_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert measured(list) == {}
    records = [judged([3.0], key="1"), judged([], refused="no", key="2", aspect="y")]
    assert measured(lambda: records)[("m", "x", "list")].slot_bias is None
    summarise(lambda: records)
    said = capsys.readouterr().err
    assert "Judged by m" in said
    assert "100%" in said
