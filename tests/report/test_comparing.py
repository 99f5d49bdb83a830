"""Comparisons of models: the sign test, selection of the best, and which picture meets which."""

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from vpctl.records import Image
from vpctl.report.comparing import by_prompt, groups_of, matches, scorer, selected, sign_test, win_rate


def image(prompt: str, seed: int, score: float, **more: Any) -> Image:
    return cast(Image, {"prompt": prompt, "prompt_id": prompt, "file_name": f"{seed}.png", "seed": seed,
                        "scores": {"vp": score}, **more})  # fmt: skip


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40))
def test_with_one_comparison_for_each_prompt_the_sign_test_is_the_binomial_one(outcomes: list[float]) -> None:
    won, lost = outcomes.count(1.0), outcomes.count(0.0)
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert sign_test([str(number) for number in range(len(outcomes))], outcomes) == pytest.approx(expected)


def test_the_sign_test_counts_prompts() -> None:
    """p is won by two to one, q is even, r is lost: one of two, whatever the number of pictures."""
    prompts, outcomes = [*"pppqqr"], [1.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    assert sign_test(prompts, outcomes) == sign_test(prompts * 5, outcomes * 5) == 1.0


def test_the_best_pictures_meet_by_rank() -> None:
    tuned = by_prompt([image("p", 1, 0.1), image("p", 2, 0.9), image("p", 3, 0.5)])
    base = by_prompt([image("p", 1, 0.4), image("p", 2, 0.3), image("q", 1, 9.0)])
    vp = scorer("vp", {})
    assert vp.score is not None
    best = [selected(side, 2, vp.score) for side in (tuned, base)]
    pairs = matches(*best, by_place=True)
    assert [(one["seed"], other["seed"]) for _, one, other in pairs] == [(2, 1), (3, 2)]
    report = win_rate(pairs, vp, name="t", baseline="b")
    assert report is not None
    assert (report["wins"], report["losses"]) == (2, 0)
    assert report["mean"] == pytest.approx(0.7)


def test_what_an_annotator_did_not_compare_is_counted_and_left_out() -> None:
    side = by_prompt([image("p", 1, 1), image("p", 2, 1)])
    said = iter([1.0, None])
    one = scorer("vp", {})._replace(outcome=lambda *_: next(said), score=None)
    report = win_rate(matches(side, side), one)
    assert report is not None
    assert (report["n"], report["wins"], report["unjudged"]) == (1, 1, 1)
    assert win_rate(matches(side, side), one._replace(outcome=lambda *_: None)) is None


def test_groups_are_told_by_the_suite_or_by_the_base_models_records() -> None:
    side = by_prompt([cast(Image, {**image("p", 1, 1), "category": "a"}), image("q", 1, 1)])
    pairs = matches(side, side)
    assert {key: len(some) for key, some in groups_of(pairs, "category", {}).items()} == {"a": 1}
    told: dict[str, dict[str, object]] = {"p": {"category": "x"}, "q": {"category": 7}}
    assert [*groups_of(pairs, "category", told)] == ["7", "x"]
