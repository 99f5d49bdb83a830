import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpctl.report.intervals import CONFIDENCE, Interval, bootstrap, harmonic_mean, harmonic_mean_difference


def clustered(clusters: int, seed: int = 0) -> tuple[list[float], list[str]]:
    """Values and their clusters, which differ in size and in mean."""
    chance = np.random.default_rng(seed)
    values, names = [], []
    for cluster in range(clusters):
        size = int(chance.integers(1, 7))
        mean = chance.uniform(0.2, 0.9)
        values += (chance.random(size) < mean).astype(float).tolist()
        names += [f"prompt {cluster}"] * size
    return values, names


@pytest.mark.parametrize("seed", range(3))
def test_for_many_clusters_the_interval_is_that_of_the_normal_approximation(seed: int) -> None:
    """Compared with the delta method for a ratio of two sums over clusters (Cochran 1977, section 6.3)."""
    values, names = clustered(600, seed)
    found = bootstrap(values, names)
    _, place = np.unique(names, return_inverse=True)
    mean = float(np.mean(values))
    residuals = np.bincount(place, np.array(values) - mean)
    spread = 1.959964 * float(np.sqrt((residuals**2).sum())) / len(values)
    assert found.value == pytest.approx(mean)
    assert found.n == len(values)
    assert found.low == pytest.approx(mean - spread, abs=0.06 * spread)
    assert found.high == pytest.approx(mean + spread, abs=0.06 * spread)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """95 % of 100 samples, within three standard errors of that share."""
    chance = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        means = chance.uniform(0.3, 0.9, 40)
        values = (chance.random((40, 3)) < means[:, None]).astype(float)
        found = bootstrap(values.ravel(), np.repeat(np.arange(40), 3).tolist())
        hits += found.low <= 0.6 <= found.high
    assert hits / 100 == pytest.approx(CONFIDENCE, abs=3 * (0.95 * 0.05 / 100) ** 0.5)


def test_the_values_of_one_cluster_are_not_independent() -> None:
    values, names = clustered(60)
    once = bootstrap(values, names)
    again = bootstrap(values * 4, names * 4)
    assert again.value == pytest.approx(once.value)
    assert again.high - again.low == pytest.approx(once.high - once.low, abs=1e-9)
    apart = bootstrap(values * 4, range(4 * len(values)))
    assert apart.high - apart.low < 0.7 * (once.high - once.low)


@settings(max_examples=30)
@given(st.randoms(use_true_random=False))
def test_order_does_not_matter_and_the_same_data_have_the_same_interval(chance: Random) -> None:
    values, names = clustered(12)
    shuffled = list(zip(values, names, strict=True))
    chance.shuffle(shuffled)
    assert bootstrap(*zip(*shuffled, strict=True)) == bootstrap(values, names)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from("abcdef")), min_size=1, max_size=12))
def test_the_interval_lies_around_the_value_and_within_what_shares_can_be(rows: list[tuple[float, str]]) -> None:
    found = bootstrap(*zip(*rows, strict=True))
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1


def test_for_few_clusters_the_interval_is_that_of_the_binomial_distribution() -> None:
    """Five draws with replacement from 1, 1, 1, 1, 0: at most one is 1 with 0.7 %, at most two are 1 with 5.8 %.

    The expanded tail is that of the normal at 2.776 √(5/4), 0.1 %, where 2.776 is Student's t with 4 degrees of
    freedom.
    """
    assert bootstrap([1.0, 1.0, 1.0, 1.0, 0.0], "abcde") == Interval(0.8, 0.2, 1.0, 5, 5)


def test_of_a_single_cluster_nothing_is_said() -> None:
    assert bootstrap([1.0, 0.5], ["p", "p"]) == Interval(0.75, 0.0, 1.0, 2, 1)


@pytest.mark.parametrize("clusters", [2, 5, 400])
def test_clusters_that_agree_leave_the_doubt_that_their_number_leaves(clusters: int) -> None:
    """If the true share were below the bound, the probability that so many clusters agree would be less than 2.5 %."""
    all_won = bootstrap([1.0] * clusters, range(clusters))
    assert all_won.low**clusters == pytest.approx(0.025)
    assert (all_won.value, all_won.high) == (1.0, 1.0)
    all_lost = bootstrap([0.0] * clusters, range(clusters))
    assert (all_lost.value, all_lost.low) == (0.0, 0.0)
    assert all_lost.high == pytest.approx(1 - all_won.low)


@pytest.mark.parametrize("clusters", [2, 9])
def test_few_clusters_are_at_least_as_uncertain_as_so_many_draws(clusters: int) -> None:
    """Compared with the roots p of (m - p)² = z² p (1 - p) / n, as Wilson defines his interval."""
    values = [1.0, 0.0, 0.0, 0.0] * clusters
    values[1] = 1.0
    found = bootstrap(values, [cluster for cluster in range(clusters) for _ in range(4)])
    roots = np.roots([1 + 1.959964**2 / clusters, -2 * found.value - 1.959964**2 / clusters, found.value**2])
    assert found.low <= min(roots) + 1e-6
    assert found.high >= max(roots) - 1e-6
    if clusters == 9:
        assert [found.low, found.high] == pytest.approx(sorted(roots), abs=1e-4)
    turned = bootstrap([2 * value - 1 for value in values], [*np.repeat(range(clusters), 4)], lowest=-1)
    assert [turned.low, turned.high] == pytest.approx([2 * found.low - 1, 2 * found.high - 1], abs=0.02)


@pytest.mark.parametrize("value", [1 / 3, 0.5])
def test_clusters_of_one_mean_leave_doubt_even_if_they_are_many(value: float) -> None:
    """A win rate of 0.5 from ties alone is not certain: if 10 draws were not 1, its share may be 1 − 0.025^(1/10)."""
    values = [1.0, 0.0, 0.0] * 10 if value < 0.5 else [0.5] * 30
    found = bootstrap(values, [cluster for cluster in range(10) for _ in range(3)])
    certain = 0.025 ** (1 / 10)
    assert found.low == pytest.approx(value * certain)
    assert found.high == pytest.approx(1 - (1 - value) * certain)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_the_harmonic_mean_lies_between_its_shares_and_is_never_certain(sizes: list[int]) -> None:
    sets = [([1.0] * size, [*range(size)]) for size in sizes]
    found = harmonic_mean(sets)
    assert (found.value, found.n, found.clusters) == (1.0, len(sizes), min(sizes))
    assert found.low < 1.0 - 0.01 / max(sizes)
    assert harmonic_mean([([1.0, 0.0], "ab"), ([1.0, 1.0, 1.0, 0.0], "abcd")]).value == pytest.approx(0.6)


def simulated(seed: int, prompts: int = 300) -> tuple[list[float], list[float], list[int]]:
    """Outcomes of two rewards on the pairs of prompts of 1 to 6 pairs. Some prompts are hard for both."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 7, prompts)
    clusters = np.repeat(np.arange(prompts), sizes)
    hard = rng.uniform(0.3, 1, prompts)[clusters]
    one, other = (rng.uniform(size=len(clusters)) < share * hard for share in (0.95, 0.85))
    return [*map(float, one)], [*map(float, other)], clusters.tolist()


def test_data_sets_of_the_same_prompts_tell_no_more_than_one() -> None:
    """Three people who judge the same pictures alike are as uncertain as one of them."""
    values, others, prompts = simulated(1)
    single, same = bootstrap(values, prompts), harmonic_mean([(values, prompts)] * 3)
    assert (same.low, same.high) == pytest.approx((single.low, single.high), abs=0.003)
    apart = harmonic_mean([(values, [(name, one) for one in prompts]) for name in "abc"])
    assert apart.high - apart.low == pytest.approx((same.high - same.low) / math.sqrt(3), rel=0.1)
    difference = harmonic_mean_difference([(values, others, prompts)] * 3)
    paired = bootstrap([one - other for one, other in zip(values, others, strict=True)], prompts, lowest=-1)
    assert difference.value == pytest.approx(paired.value)
    assert (difference.low, difference.high) == pytest.approx((paired.low, paired.high), abs=0.003)


def test_the_difference_of_harmonic_means_changes_its_sign_with_the_order() -> None:
    sets = [simulated(seed, 40) for seed in (1, 2)]
    there = harmonic_mean_difference(sets)
    back = harmonic_mean_difference([(others, values, prompts) for values, others, prompts in sets])
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    means = [harmonic_mean([(one[kind], one[2]) for one in sets]) for kind in (0, 1)]
    assert there.value == pytest.approx(means[0].value - means[1].value)
    assert there.high - there.low < 0.9 * math.hypot(*(one.high - one.low for one in means)), "it is paired"


@pytest.mark.parametrize(("prompts", "widest"), [(1, 2.0), (5, 1.5)])
def test_a_difference_of_few_prompts_is_hardly_known(prompts: int, widest: float) -> None:
    right, wrong = [1.0] * prompts, [0.0] * prompts
    many = [1.0] * (prompts + 10)
    equal = harmonic_mean_difference([(many, many, range(prompts + 10))])
    assert equal.low < 0 < equal.high, "both may be wrong on other prompts"
    found = harmonic_mean_difference([(right, wrong, range(prompts))])
    assert found.value == 1
    assert found.low < 1 - 0.4
    assert found.high - found.low <= widest
    assert (found.low == -1) == (prompts == 1)


def test_values_and_clusters_belong_together() -> None:
    with pytest.raises(ValueError, match="shorter"):
        bootstrap([1.0, 0.0], ["a"])
