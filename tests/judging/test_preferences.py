"""Preferences between two pictures, compared with numbers that were worked out by hand."""

from collections import Counter
from typing import Any, cast

import pytest

from vpctl.judging.preferences import Preferences, Scale, without_replaced
from vpctl.records import Judgement

FIVE = Scale(1, 5)


def judgement(images: str, *scores: float, **more: Any) -> Judgement:
    record: dict[str, Any] = {
        "prompt_id": "p",
        "prompt": "a cat",
        "aspect": "aesthetic",
        "annotator": "mine",
        "image_ids": list(images),
        "file_names": list(images),
        "scores": list(scores),
        **more,
    }
    return cast(Judgement, record)


def pair(images: str, winner: str, first: str) -> Judgement:
    """A comparison in which the picture `first` was shown first and `winner` won. An empty `winner` is a tie."""
    scores = [3.0, 3.0] if not winner else [5.0 if one == winner else 1.0 for one in images]
    order = [images.index(first), 1 - images.index(first)]
    return judgement(images, *scores, mode="pair", order=order)


def said(*judgements: Judgement) -> Preferences:
    all_of_it = Preferences()
    for one in judgements:
        all_of_it.add(one, FIVE)
    return all_of_it


def test_scores_are_means_in_units_of_the_scale() -> None:
    assert said(judgement("ab", 5, 2), judgement("ab", 3, 2)).difference("a", "b") == 0.5
    assert said(judgement("ab", 5, 2)).difference("b", "a") == -0.75
    assert said(judgement("ab", 5, 2)).difference("a", "c") is None


@pytest.mark.parametrize(
    ("when_a_is_first", "when_b_is_first", "difference"),
    [("a", "a", 1.0), ("b", "b", -1.0), ("a", "b", 0.0), ("a", "", 0.5), ("", "", 0.0)],
)
def test_a_preference_is_the_mean_of_both_orders(when_a_is_first: str, when_b_is_first: str, difference: float) -> None:
    both = said(pair("ba", when_a_is_first, "a"), pair("ab", when_b_is_first, "b"))
    assert both.difference("a", "b") == difference
    assert both.difference("b", "a") == -difference


def test_one_order_alone_is_no_preference_however_often_it_was_asked() -> None:
    assert said(pair("ab", "a", "a"), pair("ab", "a", "a")).difference("a", "b") is None


def test_who_names_no_order_saw_both_pictures_side_by_side() -> None:
    assert said(judgement("ab", 2, 4, mode="pair")).difference("a", "b") == -1.0


def test_a_comparison_breaks_a_tie_by_half_a_level_and_changes_nothing_else() -> None:
    scores = judgement("abc", 4, 4, 2)
    comparisons = [pair("ab", "b", "a"), pair("ab", "b", "b"), pair("bc", "c", "b"), pair("bc", "c", "c")]
    all_of_it = said(scores, *comparisons)
    assert all_of_it.difference("a", "b") == -0.125
    assert all_of_it.difference("b", "c") == 0.5, "the scores do not tie, so that the comparison does not count"
    assert said(scores).difference("a", "b") == 0.0
    assert all_of_it.pictures() == {"a", "b", "c"}


def test_of_what_annotate_asked_in_the_same_way_the_last_counts() -> None:
    first = judgement("ab", 5, 2, key="1", order=[1, 0])
    refreshed = judgement("ab", 4, 2, key="1", order=[1, 0])
    reworded = judgement("ab", 3, 2, key="2", order=[1, 0], rationales=["", ""])
    another_pass = judgement("ab", 1, 2, key="3", order=[0, 1], repeat=2)
    another_mode = judgement("ab", 1, 5, key="4", order=[1, 0], mode="pair")
    counts: Counter[str] = Counter()
    kept = list(without_replaced([first, refreshed, another_pass, reworded, another_mode], counts))
    assert [one["key"] for one in kept] == ["3", "2", "4"]
    assert "rationales" not in kept[1]
    assert counts == {"judgements": 5, "replaced": 2}


def test_what_people_said_twice_was_said_twice() -> None:
    counts: Counter[str] = Counter()
    assert len(list(without_replaced([judgement("ab", 5, 2), judgement("ab", 5, 2)], counts))) == 2
    assert counts["replaced"] == 0


def test_a_ranking_decides_between_equal_scores_by_at_most_half_a_level() -> None:
    found = said(judgement("abc", 4, 4, 2, ranking=[1, 0, 2]))
    assert found.difference("b", "a") == 0.125
    assert found.difference("a", "b") == -0.125
    assert found.difference("a", "c") == 0.5, "unequal scores stand on their own"
    assert said(judgement("ab", 4, 4)).difference("a", "b") == 0.0


def test_rankings_of_several_passes_count_by_the_mean_place() -> None:
    before, after = judgement("ab", 3, 3, ranking=[0, 1]), judgement("ab", 3, 3, ranking=[1, 0])
    assert said(before, after).difference("a", "b") == 0.0
    assert said(before, before, before, after).difference("a", "b") == 0.5 * 0.125
    far = judgement("abcd", 3, 3, 3, 3, ranking=[0, 1, 2, 3])
    assert said(far).difference("a", "d") == 0.125, "far ahead is no more than ahead"
    assert said(judgement("ab", 4, 2, ranking=[0, 1]), judgement("ab", 2, 4, ranking=[1, 0])).difference("a", "b") == 0


def test_a_ranking_that_contradicts_its_scores_does_not_count() -> None:
    assert said(judgement("abc", 4, 4, 2, ranking=[2, 1, 0])).difference("a", "b") == 0.0


def test_a_comparison_counts_more_than_a_ranking() -> None:
    ranked = judgement("ab", 3, 3, ranking=[0, 1])
    assert said(ranked, pair("ab", "b", "a"), pair("ab", "b", "b")).difference("a", "b") == -0.125
    assert said(ranked, pair("ab", "a", "a"), pair("ab", "b", "b")).difference("a", "b") == 0.0
    assert said(ranked, pair("ab", "b", "a")).difference("a", "b") == 0.125, "one order alone is no comparison"


def test_rankings_are_kept_only_if_they_are_asked_for() -> None:
    one = judgement("ab", 3, 3, ranking=[1, 0], rationales=["x", "y"])
    (kept,) = without_replaced([one], Counter())
    assert "ranking" not in kept
    (kept,) = without_replaced([one], Counter(), keep={"ranking"})
    assert kept["ranking"] == [1, 0]
    assert "rationales" not in kept
