"""Losses by hand, by independent formulas, and where they are the same."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from vpctl.tuning.losses import (
    LossName,
    aspect_loss,
    bradley_terry_loss,
    loss_of,
    margin_loss,
    soft_tie_loss,
    uncertainty_loss,
)


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers)


def softplus(number: float) -> float:
    return math.log1p(math.exp(number))


DIFFERENCES = values(-3.0, -0.5, 0.0, 1.0, 6.0)


def test_the_bradley_terry_loss_by_hand_and_as_the_cross_entropy_of_two_classes() -> None:
    assert bradley_terry_loss(values(1.0, 0.0)).tolist() == pytest.approx([softplus(-1), math.log(2)])
    rewards = torch.stack([DIFFERENCES + 0.7, torch.full_like(DIFFERENCES, 0.7)], 1)
    classes = torch.zeros(len(DIFFERENCES), dtype=torch.long)
    entropy = torch.nn.functional.cross_entropy(rewards, classes, reduction="none")
    torch.testing.assert_close(bradley_terry_loss(DIFFERENCES), entropy)


def test_the_margin_loss_by_hand() -> None:
    """A difference of exactly the margin leaves the loss of equal rewards."""
    assert margin_loss(values(1.0, 0.25), values(0.25, 0.25)).tolist() == pytest.approx([softplus(-0.75), math.log(2)])
    torch.testing.assert_close(margin_loss(DIFFERENCES, torch.zeros(5)), bradley_terry_loss(DIFFERENCES))


def test_a_tie_costs_nothing_at_equal_rewards_and_the_same_on_both_sides() -> None:
    found = soft_tie_loss(values(0.0, 2.0, -2.0, 2.0), torch.tensor([True, True, True, False]))
    by_hand = 0.5 * softplus(-2) + 0.5 * softplus(2) - math.log(2)
    assert found.tolist() == pytest.approx([0.0, by_hand, by_hand, softplus(-2)], abs=1e-6)


def test_the_gradient_of_a_tie_pulls_the_rewards_together() -> None:
    difference = values(1.5, -1.5).requires_grad_()
    soft_tie_loss(difference, torch.tensor([True, True])).sum().backward()
    assert difference.grad is not None
    half = 1 / (1 + math.exp(-1.5)) - 0.5
    assert difference.grad.tolist() == pytest.approx([half, -half])


def gauss_hermite(mean: float, deviation: float) -> float:
    """E[log(1 + e^−z)] of a normal z, by numpy's own quadrature."""
    nodes, weights = np.polynomial.hermite.hermgauss(150)
    return float((np.logaddexp(0, -(mean + math.sqrt(2) * deviation * nodes)) * weights).sum() / math.sqrt(math.pi))


@pytest.mark.parametrize("deviation", [0.01, 0.3, 1.0, 2.0])
def test_the_uncertainty_loss_is_the_expectation(deviation: float) -> None:
    found = uncertainty_loss(DIFFERENCES, torch.full((5,), deviation**2))
    expected = [gauss_hermite(mean, deviation) for mean in DIFFERENCES.tolist()]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_uncertainty_loss_of_a_wide_distribution_is_that_of_a_half_wave() -> None:
    """Seen from far, log(1 + e^−z) is max(0, −z): its mean is σ φ(μ/σ) − μ Φ(−μ/σ), and what is missing is π²/12 of
    the density around 0, times two."""
    mean, deviation = 5.0, 20.0
    density = math.exp(-0.5 * (mean / deviation) ** 2) / math.sqrt(2 * math.pi)
    wave = deviation * density - mean * 0.5 * math.erfc(mean / deviation / math.sqrt(2))
    rest = math.pi**2 / 6 * density / deviation
    assert float(uncertainty_loss(values(mean), values(deviation**2))) == pytest.approx(wave + rest, rel=1e-4)


def test_without_deviation_the_uncertainty_loss_is_that_of_bradley_and_terry_and_has_gradients() -> None:
    difference, variance = DIFFERENCES.clone().requires_grad_(), torch.zeros(5, requires_grad=True)
    found = uncertainty_loss(difference, variance)
    torch.testing.assert_close(found, bradley_terry_loss(DIFFERENCES))
    found.sum().backward()
    assert difference.grad is not None
    torch.testing.assert_close(difference.grad, torch.sigmoid(DIFFERENCES) - 1)
    assert variance.grad is not None
    assert bool(torch.isfinite(variance.grad).all())


def test_deviation_costs_most_where_the_rewards_are_nearly_equal() -> None:
    variance = torch.ones(3, requires_grad=True)
    uncertainty_loss(values(-6.0, 0.0, 6.0), variance).sum().backward()
    assert variance.grad is not None
    wrong, equal, right = variance.grad.tolist()
    assert equal > 10 * max(wrong, right)
    assert wrong == pytest.approx(right, rel=1e-3), "the loss of both bends in the same way"


def test_every_name_has_its_loss_and_only_ties_and_margins_depend_on_the_margin() -> None:
    margin, variance = values(0.0, 0.2, 0.0, 0.9, 0.5), torch.full((5,), 0.5)
    found = {name: loss_of(name, DIFFERENCES, margin, variance) for name in get_args(LossName)}
    torch.testing.assert_close(found["bradley-terry"], bradley_terry_loss(DIFFERENCES))
    torch.testing.assert_close(found["margin"], margin_loss(DIFFERENCES, margin))
    torch.testing.assert_close(found["ties"], soft_tie_loss(DIFFERENCES, margin == 0))
    torch.testing.assert_close(found["uncertainty"], uncertainty_loss(DIFFERENCES, variance))


def test_an_aspect_prefers_its_own_picture_and_says_nothing_if_it_is_tied() -> None:
    differences = torch.tensor([[1.0, 2.0, 3.0]])
    found = aspect_loss(differences, torch.tensor([[1.0, -1.0, 0.0]]))
    assert found.tolist() == [pytest.approx([softplus(-1), softplus(2), 0.0])]
