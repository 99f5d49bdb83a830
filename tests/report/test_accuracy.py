"""The definitions of preference accuracy: on cases computed by hand, by their properties, on ImageReward's labels."""

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import combinations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.imagereward_patterns import pattern, rankings
from vpctl.report.accuracy import (
    THRESHOLDS,
    TIE,
    Accuracy,
    LabelledPair,
    best_threshold,
    difference_report,
    per_prompt,
    pooled,
    tie_aware,
    ties_count,
    ties_half,
)
from vpctl.report.intervals import bootstrap

Definition = Callable[[Iterable[LabelledPair]], Accuracy]
ALL: list[Definition] = [ties_half, pooled, per_prompt, ties_count, tie_aware]
LEVELS = st.sampled_from([0.0, 1.0, 2.0])
LABELLED = st.lists(
    st.builds(LabelledPair, st.sampled_from("pqr"), st.sampled_from([0.0, 0.5, 1.0]), LEVELS, LEVELS), min_size=1
).filter(lambda pairs: any(pair.label != 0.5 for pair in pairs))


def ranked(prompt: str, ranks: Sequence[float], scores: Sequence[float]) -> list[LabelledPair]:
    """Every two of a prompt's pictures. `ranks` are the labels, 1 for the best picture; equal ranks are a tie."""
    pictures = zip(ranks, scores, strict=True)
    return [
        LabelledPair(prompt, TIE if rank == other else float(rank < other), score, against)
        for (rank, score), (other, against) in combinations(pictures, 2)
    ]


BY_HAND = [*ranked("p", [1, 2, 2, 3], [4.0, 3.0, 2.0, 2.0]), *ranked("q", [1, 2], [1.0, 5.0])]
"""Prompt p: pictures a to d, b and c tied by the labels, c and d by the scores. Prompt q: one pair in the wrong order.

Of p's six pairs, a is rightly above the three others and b above d; b and c are tied by the labels, c and d by the
scores.
"""


def test_a_ranking_is_all_its_pairs() -> None:
    assert [pair.label for pair in BY_HAND] == [1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0]
    assert [pair.predicted for pair in BY_HAND] == [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    assert ranked("p", [3, 1], [0.25, 0.75]) == [LabelledPair("p", 0.0, 0.25, 0.75)]


@pytest.mark.parametrize(
    ("definition", "value", "values", "pairs", "ties", "chance"),
    [
        (ties_half, Fraction(5, 7), 7, 7, 1, Fraction(1, 2)),
        (pooled, Fraction(4, 6), 6, 6, 1, Fraction(5, 12)),
        (per_prompt, Fraction(4, 10), 2, 6, 1, Fraction(5, 12)),
        # Of p's pairs none is an inversion. By chance, the pair that the labels tie is right, and any other one with
        # 1/7 + 6/7 · 1/2 = 4/7: p has (1 + 5 · 4/7) / 6 = 27/42, q has 4/7 = 24/42.
        (ties_count, Fraction(1, 2), 2, 7, 1, Fraction(51, 84)),
        (tie_aware, Fraction(5, 7), 7, 7, 1, Fraction(1, 2) + Fraction(1, 2 * 7 * 7)),
    ],
)
def test_each_definition_of_a_case_computed_by_hand(
    definition: Definition, value: Fraction, values: int, pairs: int, ties: int, chance: Fraction
) -> None:
    found = definition(BY_HAND)
    assert found.value == pytest.approx(float(value))
    assert (len(found.values), found.pairs, found.ties, found.label_ties) == (values, pairs, ties, 1)
    assert found.chance == pytest.approx(float(chance))


def test_scores_whose_probabilities_are_close_can_predict_a_tie() -> None:
    """Scores that differ by log 3 give the preferences 3/4 and 1/4, which differ by one half."""
    near, far = LabelledPair("p", 0.5, 0.0, math.log(3)), LabelledPair("q", 1.0, math.log(3), 0.0)
    below, above = 0.49, 0.51
    assert tie_aware([near], below).values == [0.5]
    assert tie_aware([near], above).values == [1.0]
    assert tie_aware([far], below).values == [1.0]
    assert tie_aware([far], above).values == [0.5]
    assert tie_aware([far], 1.0).ties == 1


def test_the_best_threshold_is_the_smallest_with_the_highest_accuracy() -> None:
    """Scores that differ by 1 give preferences that differ by tanh(1/2) = 0.46, and 5 gives 0.99."""
    tied, clear = LabelledPair("p", 0.5, 0.0, 1.0), LabelledPair("q", 1.0, 5.0, 0.0)
    assert [tie_aware([tied, clear], threshold).value for threshold in THRESHOLDS] == [0.75] * 5 + [1.0] * 5 + [0.75]
    assert best_threshold([tied, clear]) == 0.5
    assert best_threshold([clear]) == 0.0


@given(LABELLED)
def test_it_does_not_matter_which_picture_of_a_pair_is_first(pairs: list[LabelledPair]) -> None:
    swapped = [LabelledPair(pair.prompt, 1 - pair.label, pair.second, pair.first) for pair in pairs]
    for definition in ALL:
        assert definition(swapped) == definition(pairs)


@given(LABELLED)
def test_equal_scores_are_at_chance_whatever_the_definition(pairs: list[LabelledPair]) -> None:
    constant = [pair._replace(first=0.3, second=0.3) for pair in pairs]
    ties = sum(pair.label == 0.5 for pair in pairs) / len(pairs)
    expected = {ties_half: 0.5, pooled: 0.0, per_prompt: 0.0, ties_count: 1.0, tie_aware: 0.5 + ties / 2}
    for definition, value in expected.items():
        found = definition(constant)
        assert found.value == pytest.approx(value)
        assert found.chance == pytest.approx(value)


@given(LABELLED)
def test_without_label_ties_opposite_scores_have_the_complement(pairs: list[LabelledPair]) -> None:
    decided = [pair for pair in pairs if pair.label != 0.5]
    opposite = [pair._replace(first=pair.second, second=pair.first) for pair in decided]
    assert ties_half(decided).value + ties_half(opposite).value == pytest.approx(1)
    assert pooled(decided).value + pooled(opposite).value == pytest.approx(1 - pooled(decided).ties / len(decided))
    assert pooled(decided).value <= ties_half(decided).value == pytest.approx(tie_aware(decided).value)


def test_where_nothing_is_tied_and_prompts_are_alike_all_definitions_agree() -> None:
    chance = Random(0)
    pairs = [
        one for number in range(20) for one in ranked(str(number), [1, 2, 3, 4], [chance.random() for _ in range(4)])
    ]
    expected = sum(pair.first > pair.second for pair in pairs) / len(pairs)
    for definition in ALL:
        assert definition(pairs).value == pytest.approx(expected)
        assert definition(pairs).chance == 0.5


def test_labels_that_prefer_nothing_have_no_accuracy_without_ties() -> None:
    for definition in (pooled, per_prompt):
        with pytest.raises(ValueError, match="the labels prefer no picture to another"):
            definition(ranked("p", [1, 1], [1.0, 2.0]))


def test_the_report_has_the_interval_of_a_bootstrap_over_prompts() -> None:
    found = pooled(BY_HAND)
    interval = bootstrap([1, 1, 1, 1, 0, 0], "pppppq")
    assert found.report(name="r", metric="m") == {
        "name": "r",
        "metric": "m",
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": 6,
        "confidence": 0.95,
        "prompts": 2,
        "chance": pytest.approx(5 / 12),
        "pairs": 6,
        "ties": 1,
    }


def scored(accuracy: float, seed: int, prompts: int = 300) -> Accuracy:
    """Two pairs of each prompt. Every third prompt is hard for every seed; of the others a share is right."""
    chance = Random(seed)
    return pooled(
        LabelledPair(str(prompt), 1.0, float(prompt % 3 and chance.random() < accuracy), 0.5)
        for prompt in range(prompts)
        for _ in range(2)
    )


def test_a_difference_is_paired() -> None:
    one, other = scored(0.95, 1), scored(0.9, 2)
    paired = difference_report(one, other, name="one", baseline="other", metric="accuracy_difference")
    assert paired["value"] == pytest.approx(one.value - other.value)
    assert (paired["n"], paired["pairs"]) == (600, 600)
    back = difference_report(other, one)
    assert back["low"] == pytest.approx(-paired["high"], abs=2e-3)
    assert back["high"] == pytest.approx(-paired["low"], abs=2e-3)
    widths = [report["high"] - report["low"] for report in (one.report(), other.report())]
    assert paired["high"] - paired["low"] < 0.5 * math.hypot(*widths), "hard prompts are hard for both"
    # The same from the delta method for a mean over clusters of two.
    by_prompt = [sum(one.values[i : i + 2]) - sum(other.values[i : i + 2]) for i in range(0, 600, 2)]
    mean = sum(by_prompt) / 300
    spread = 1.96 * math.sqrt(sum((value - mean) ** 2 for value in by_prompt)) / 600
    assert paired["high"] - paired["low"] == pytest.approx(2 * spread, rel=0.06)


def test_scorers_that_never_differ_may_still_differ_on_other_prompts() -> None:
    """If prompts on which they differ were more than a share x, 300 without one would have a chance below 2.5 %."""
    one = scored(0.9, 1)
    same = difference_report(one, one)
    assert same["value"] == 0
    assert (1 - same["high"]) ** 300 == pytest.approx(0.025)
    assert same["low"] == -same["high"]
    alone = difference_report(pooled(BY_HAND[6:]), pooled(BY_HAND[6:]))
    assert (alone["low"], alone["high"]) == (-1.0, 1.0), "one prompt says nothing"
    worst = difference_report(scored(0.0, 1), Accuracy([1.0] * 600, one.prompts, 600, 0, 0, 0.5))
    assert (worst["value"], worst["low"]) == (-1.0, -1.0)
    assert -1 < worst["high"] < -0.95


IMAGEREWARD = rankings()


def guessed(seed: int, strength: float = 0.0) -> list[LabelledPair]:
    """The pairs of ImageReward's test labels with random scores, or with scores that depend on the labels, too."""
    chance = Random(seed)
    return [
        pair
        for item, ranks in enumerate(IMAGEREWARD)
        for pair in ranked(str(item), ranks, [chance.gauss(-strength * rank, 1.0) for rank in ranks])
    ]


def test_the_test_labels_of_imagereward() -> None:
    pairs = guessed(0)
    assert (len(IMAGEREWARD), sum(map(len, IMAGEREWARD)), len(pairs)) == (466, 2720, 7230)
    assert pooled(pairs)[2:5] == (6399, 0, 831)
    assert (len(per_prompt(pairs).values), len(ties_half(pairs).values)) == (466, 7230)
    assert pattern([4, 1, 2, 2]) == "1,2,1"


def test_chance_on_the_test_labels_of_imagereward() -> None:
    """By simulation: one half, but about 55 % where ties count as right."""
    runs = [guessed(seed) for seed in range(12)]
    for definition in ALL:
        found = [definition(pairs) for pairs in runs]
        mean = sum(one.value for one in found) / len(found)
        assert mean == pytest.approx(found[0].chance, abs=0.006)
        assert found[0].chance == pytest.approx(0.552 if definition is ties_count else 0.5, abs=0.003)
    # Each prompt's ties are right, and half of its other pairs.
    shares = [sum(a == b for a, b in combinations(ranks, 2)) / math.comb(len(ranks), 2) for ranks in IMAGEREWARD]
    assert ties_count(runs[0]).chance == pytest.approx(sum((1 + share) / 2 for share in shares) / 466)


def test_definitions_differ_by_points_for_one_and_the_same_scores() -> None:
    """ImageReward's own accuracy is about 65 %: there, ties that count are worth four points more."""
    pairs = guessed(0, strength=0.4)
    by_pairs, by_prompts, counted, half = (
        definition(pairs).value for definition in (pooled, per_prompt, ties_count, ties_half)
    )
    assert 0.6 < by_pairs < 0.72
    assert abs(by_pairs - by_prompts) < 0.015
    assert half < by_pairs < counted
    assert 0.02 < counted - by_prompts < 0.06
    interval = pooled(pairs).report()
    assert 0.02 < interval["high"] - interval["low"] < 0.045, "about 1.6 points to each side"
