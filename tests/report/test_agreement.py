"""Agreement of annotators: against statsmodels, scipy and krippendorff, and its properties."""

import math
from random import Random
from typing import Any, cast

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats import inter_rater

from vpctl.judging.preferences import Preferences, Scale
from vpctl.records import Judgement
from vpctl.report.agreement import (
    SIDES,
    Scored,
    SidedPair,
    alpha,
    common_pairs,
    common_scores,
    consistency,
    correlation,
    kappa,
    slots,
)

LEVELS = st.sampled_from(SIDES)


def compared(annotators: int, seed: int = 1, prompts: int = 40) -> list[SidedPair]:
    """Pairs of pictures that annotators judge alike, more often than not."""
    chance = Random(seed)
    found = []
    for prompt in range(prompts):
        for _ in range(chance.randint(1, 6)):
            truth = chance.choice(SIDES)
            sides = tuple(truth if chance.random() < 0.6 else chance.choice(SIDES) for _ in range(annotators))
            found.append(SidedPair(str(prompt), "fidelity", sides))
    return found


def both_ways(pairs: list[SidedPair]) -> np.ndarray:
    """The categories (items, annotators): 0, 1 or 2, each pair also with its pictures exchanged."""
    sides = [one.sides for one in pairs] + [tuple(1 - side for side in one.sides) for one in pairs]
    return (2 * np.array(sides)).astype(int)


def test_kappa_of_two_annotators_is_cohens() -> None:
    pairs = compared(2)
    table, _ = inter_rater.to_table(both_ways(pairs), bins=3)
    found = kappa(pairs)
    assert found.value == pytest.approx(inter_rater.cohens_kappa(table).kappa)
    assert found.n == len(pairs)
    assert found.low < found.value < found.high


def test_kappa_of_more_annotators_is_that_of_fleiss() -> None:
    pairs = compared(4)
    counts, _ = inter_rater.aggregate_raters(both_ways(pairs), n_cat=3)
    assert kappa(pairs).value == pytest.approx(inter_rater.fleiss_kappa(counts))


def test_the_interval_of_kappa_is_about_that_of_its_standard_error() -> None:
    """With one pair for each prompt, pairs are independent, and statsmodels knows the standard error."""
    pairs = [one._replace(prompt=str(number)) for number, one in enumerate(compared(2, prompts=150))]
    table, _ = inter_rater.to_table(both_ways(pairs), bins=3)
    error = inter_rater.cohens_kappa(table).std_kappa * math.sqrt(2)  # each pair is in the table twice
    found = kappa(pairs)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from("pqrs"), LEVELS, LEVELS), min_size=1))
def test_kappa_does_not_depend_on_who_or_what_is_first(rows: list[tuple[str, float, float]]) -> None:
    pairs = [SidedPair(prompt, "a", sides) for prompt, *sides_ in rows for sides in [tuple(sides_)]]
    found = kappa(pairs)
    assert -1 <= found.value <= 1
    turned = [one._replace(sides=tuple(1 - side for side in one.sides)) for one in pairs]
    exchanged = [one._replace(sides=one.sides[::-1]) for one in pairs]
    assert kappa(turned).value == pytest.approx(found.value)
    assert kappa(exchanged).value == pytest.approx(found.value)
    if all(one.sides[0] == one.sides[1] for one in pairs) and {one.sides[0] for one in pairs} != {0.5}:
        assert found.value == pytest.approx(1)


def scored(seed: int = 1, prompts: int = 30, missing: bool = False) -> list[Scored]:
    chance = Random(seed)
    found = []
    for prompt in range(prompts):
        for _ in range(4):
            truth = chance.gauss(3, 1)
            scores = [float(round(truth + chance.gauss(0, 0.8))) for _ in range(3 if missing else 2)]
            if missing and chance.random() < 0.4:
                scores[chance.randrange(3)] = math.nan
            found.append(Scored(str(prompt), tuple(scores)))
    return found


@pytest.mark.parametrize(("method", "measure"), [("spearman", stats.spearmanr), ("kendall", stats.kendalltau)])
def test_correlations_are_those_of_scipy_with_an_interval_about_fishers(method: str, measure: Any) -> None:
    """The scores of one prompt are independent here, so that the interval is about Fisher's for as many pictures."""
    rows = scored(prompts=120)
    found = correlation(rows, method)
    assert found is not None
    expected = measure(*zip(*(one.scores for one in rows), strict=True)).statistic
    assert found.value == pytest.approx(expected)
    assert (found.n, found.clusters) == (480, 120)
    if method == "spearman":
        low, high = np.tanh(np.arctanh(expected) + np.array([-1, 1]) * 1.96 * math.sqrt((1 + expected**2 / 2) / 477))
        assert [found.low, found.high] == pytest.approx([low, high], abs=0.35 * (high - low))


def test_alpha_is_that_of_krippendorff_also_with_missing_scores() -> None:
    rows = scored(missing=True)
    table = np.array([one.scores for one in rows]).T
    found = alpha(rows)
    assert found is not None
    assert found.value == pytest.approx(krippendorff.alpha(reliability_data=table, level_of_measurement="interval"))
    assert found.low < found.value < found.high


def test_alpha_of_many_different_scores_needs_no_table_of_them() -> None:
    """The library would need 48 GB for these."""
    chance = Random(1)
    rows = [
        Scored(str(n // 4), (score, score + chance.gauss(0, 0.1))) for n in range(2000) for score in [chance.random()]
    ]
    found = alpha(rows)
    assert found is not None
    assert 0.8 < found.low < found.value < found.high < 0.97


def test_few_prompts_that_all_agree_are_not_certain() -> None:
    """Three prompts: Clopper and Pearson's end is 0.025^(1/3) = 0.29; with chance at 1/2, kappa ends below 0."""
    pairs = [SidedPair(str(n), "a", (float(n % 2), float(n % 2))) for n in range(3)]
    found = kappa(pairs)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx((0.025 ** (1 / 3) - 0.5) / 0.5)
    for method in ("spearman", "kendall"):
        related = correlation([Scored(str(n), (float(n), float(n))) for n in range(3)], method)
        assert related is not None
        assert related.low < 0.6


def test_what_has_no_value_has_no_report() -> None:
    same = [Scored(str(prompt), (3.0, 3.0)) for prompt in range(4)]
    assert correlation(same, "spearman") is None
    assert alpha(same) is None
    assert correlation([], "kendall") is None
    alone = correlation([Scored("p", (1.0, 1.0)), Scored("p", (2.0, 2.0))], "kendall")
    assert alone is not None
    assert alone.value == pytest.approx(1.0)
    assert (alone.low, alone.high) == (-1.0, 1.0)


def judgement(scores: list[float], **more: Any) -> Judgement:
    names = "abcdef"[: len(scores)]
    facts = {"prompt_id": "p", "prompt": "draw", "aspect": "x", "annotator": "n", "image_ids": [*names]}
    return cast(Judgement, {**facts, "file_names": [f"{name}.png" for name in names], "scores": scores, **more})


def test_only_pictures_that_all_have_judged_are_compared() -> None:
    first, second = Preferences(), Preferences()
    first.add(judgement([1, 2, 3]), Scale(0, 1))
    second.add(judgement([2, 2]), Scale(0, 1))
    both = [{("p", "x"): first}, {("p", "x"): second, ("q", "x"): second}]
    assert [*common_pairs(both)] == [SidedPair("p", "x", (0.0, 0.5))]
    assert [one.scores for one in common_scores(both, "x")] == [(1.0, 2.0), (2.0, 2.0)]
    assert [*consistency([both[0], both[0]])] == [
        SidedPair("p", "x", (0.0, 0.0)),
        SidedPair("p", "x", (0.0, 0.0)),
        SidedPair("p", "x", (0.0, 0.0)),
    ]


def test_a_slot_is_the_place_in_the_order_shown() -> None:
    """c was shown first, then a, then b: by scores, a ties with c, and b loses to both."""
    found = [*slots([judgement([5, 1, 5], order=[2, 0, 1]), judgement([1, 2])])]
    assert sorted((one.slot, one.outcome) for one in found) == [
        (1, 0.5),
        (1, 1.0),
        (2, 0.5),
        (2, 1.0),
        (3, 0.0),
        (3, 0.0),
    ]
