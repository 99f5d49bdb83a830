"""Distances of sets of pictures: against the formulas of the papers, and properties of diversity and duplicates."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from vpctl.report.distribution import diversity, frechet_distance, kernel_distance, repeats, with_interval

RNG = np.random.default_rng(1)
OURS, REFERENCE = RNG.normal(size=(60, 4)), RNG.normal(0.5, 1.5, size=(80, 4))


def test_the_frechet_distance_is_that_of_two_normal_distributions() -> None:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 √(Σ₁ Σ₂))"""
    one, other = np.cov(OURS.T), np.cov(REFERENCE.T)
    apart = ((OURS.mean(0) - REFERENCE.mean(0)) ** 2).sum()
    expected = apart + np.trace(one + other - 2 * np.real(sqrtm(one @ other)))
    assert frechet_distance(OURS, REFERENCE) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(OURS, OURS) == pytest.approx(0, abs=1e-6)


def test_the_kernel_distance_is_the_unbiased_one_of_a_cubic_kernel() -> None:
    """With as many pictures on both sides as in a subset, each subset is all of them."""

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        found: np.ndarray = (one @ other.T / 4 + 1) ** 3
        return found

    other = REFERENCE[:60]
    within = [(kernel(some, some).sum() - np.trace(kernel(some, some))) / (60 * 59) for some in (OURS, other)]
    expected = sum(within) - 2 * kernel(OURS, other).mean()
    assert kernel_distance(OURS, other) == pytest.approx(expected, rel=1e-4)


def test_the_interval_of_a_distance_is_about_the_spread_of_new_samples() -> None:
    def mean_apart(one: np.ndarray, other: np.ndarray) -> float:
        return float(one.mean() - other.mean())

    prompts = [str(number // 2) for number in range(60)]
    found = with_interval(mean_apart, OURS, prompts, REFERENCE)
    error = OURS.std() / np.sqrt(OURS.size)
    assert (found.high - found.low) / 2 == pytest.approx(2.26 * error, rel=0.5)
    assert found.low < found.value < found.high
    alone = with_interval(mean_apart, OURS, ["p"] * 60, REFERENCE)
    assert alone.low == alone.value == alone.high


def test_diversity_is_half_of_what_the_cosine_lacks() -> None:
    """p: two at right angles; q: three of one direction; r: two that are opposite; s: one, which is left out."""
    rows = np.array([[1.0, 0], [0, 2], [1, 1], [2, 2], [3, 3], [1, 0], [-5, 0], [1, 0]])
    found = diversity(rows, [*"ppqqqrrs"])
    assert found == {"p": pytest.approx(0.5), "q": pytest.approx(0.0, abs=1e-9), "r": pytest.approx(1.0)}
    assert diversity(np.zeros((2, 3)), ["p", "p"]) == {"p": 0.5}


def test_a_picture_repeats_an_earlier_one_of_any_prompt() -> None:
    assert repeats({"p": ["a", "b", "a"], "q": ["b", "c"]}) == {"p": [0, 0, 1], "q": [1, 0]}
