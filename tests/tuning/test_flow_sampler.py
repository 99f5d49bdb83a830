"""Sampling of flow models: steps by plain formulas, and without noise the scheduler's own."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.distributions import Normal, kl_divergence

from vpctl.models.denoiser.schedule import FlowSchedule, flow_schedule
from vpctl.tuning.sampler import FlowSampler, ancestral, cps, flow_sde, usable_steps

CPU = torch.device("cpu")
KINDS = [flow_sde, cps, ancestral]
Kind = Callable[..., Any]


def schedule(steps: int, **config: Any) -> FlowSchedule:
    return flow_schedule(FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **config}), steps, tokens=1024)


def by_hand(
    kind: Kind, sigma: float, after: float, second: float, eta: float, x: float, v: float
) -> tuple[float, float]:
    """Mean and std of the next latent; `second` is the noise level of the second step."""
    dt = after - sigma
    if kind is flow_sde:
        s = eta * math.sqrt(sigma / (1 - (second if sigma == 1 else sigma)))
        drift = v + s**2 / (2 * sigma) * (x + (1 - sigma) * v)
        return x + drift * dt, s * math.sqrt(-dt)
    picture, noise = x - sigma * v, x + (1 - sigma) * v
    if kind is cps:
        s = after * math.sin(eta * math.pi / 2)
    else:
        # DDPM: the next latent is known from the picture, and the latent from the next one. Bayes gives its variance.
        signal = (1 - sigma) / (1 - after)
        s = eta / math.sqrt(1 / after**2 + signal**2 / (sigma**2 - signal**2 * after**2))
    return (1 - after) * picture + math.sqrt(after**2 - s**2) * noise, s


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("steps", "eta"), [(4, 0.3), (10, 0.8), (28, 1.0)])
def test_a_step_is_that_of_the_formulas(kind: Kind, steps: int, eta: float) -> None:
    levels = schedule(steps)
    sampler = FlowSampler(levels, eta, CPU, kind=kind)
    latents, predicted = torch.randn(1, 2, 2, 2), torch.randn(1, 2, 2, 2)
    assert float(levels.sigma[0]) == 1
    for step in range(steps - 1):
        mean = sampler.mean(predicted, latents, torch.tensor([step]))
        for ours, x, v in zip(mean.flatten(), latents.flatten(), predicted.flatten(), strict=True):
            sigma, after, second = float(levels.sigma[step]), float(levels.sigma_next[step]), float(levels.sigma[1])
            expected, std = by_hand(kind, sigma, after, second, eta, float(x), float(v))
            assert float(ours) == pytest.approx(expected, abs=1e-5, rel=1e-5)
            assert float(sampler.std[step]) == pytest.approx(std, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_without_noise_it_is_the_euler_step_of_diffusers(kind: Kind, dynamic: bool) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
    for steps in (2, 10, 50):
        sampler = FlowSampler(flow_schedule(scheduler, steps, tokens=1024), 0.0, CPU, kind=kind)
        latents = torch.randn(2, 4, 2, 2)
        ours, theirs = latents, latents
        for step, timestep in enumerate(scheduler.timesteps):
            assert timestep == sampler.timesteps[step]
            predicted = torch.randn(2, 4, 2, 2)
            theirs = scheduler.step(predicted, timestep, theirs).prev_sample
            ours = sampler.mean(predicted, ours, torch.tensor([step, step]))
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_noisy_steps_have_noise_and_the_last_step_never_has(kind: Kind) -> None:
    euler = FlowSampler(schedule(10), 0.0, CPU, kind=kind)
    sampler = FlowSampler(schedule(10), 0.7, CPU, kind=kind, noisy=range(2, 4))
    assert usable_steps(sampler, 0) == [2, 3]
    assert usable_steps(FlowSampler(schedule(10), 0.7, CPU, kind=kind), 0) == list(range(9))
    assert usable_steps(FlowSampler(schedule(10), 0.7, CPU, kind=kind), 3) == list(range(7))
    latents, predicted = torch.randn(10, 4, 2, 2), torch.randn(10, 4, 2, 2)
    difference = sampler.mean(predicted, latents, torch.arange(10)) - euler.mean(predicted, latents, torch.arange(10))
    assert (difference.flatten(1).abs().max(1).values > 0).nonzero().flatten().tolist() == [2, 3]


@pytest.mark.parametrize("kind", [cps, ancestral])
def test_with_true_predictions_the_noise_that_is_left_is_that_of_the_next_level(kind: Kind) -> None:
    levels = schedule(10)
    sampler = FlowSampler(levels, 0.8, CPU, kind=kind)
    picture, noise = torch.full((1, 1, 1, 1), 0.4), torch.full((1, 1, 1, 1), -1.3)
    for step in range(10):
        sigma, after = levels.sigma[step], levels.sigma_next[step]
        mean = sampler.mean(noise - picture, (1 - sigma) * picture + sigma * noise, torch.tensor([step]))
        kept = (mean - (1 - after) * picture) / noise
        assert float(kept**2 + sampler.std[step] ** 2) == pytest.approx(float(after**2), abs=1e-5)
        original = sampler.original(noise - picture, (1 - sigma) * picture + sigma * noise, torch.tensor([step]))
        torch.testing.assert_close(original, picture, atol=1e-5, rtol=1e-5)


def test_log_prob_and_divergence_are_those_of_normal_distributions_with_the_std_of_the_whole_step() -> None:
    levels = schedule(10)
    sampler = FlowSampler(levels, 0.7, CPU, kind=flow_sde)
    after, mean, other = (torch.randn(3, 4, 2, 2) for _ in range(3))
    steps = torch.tensor([8, 5, 1])
    sigma, change = levels.sigma[steps], levels.sigma[steps] - levels.sigma_next[steps]
    std = (0.7 * (sigma / (1 - sigma)).sqrt() * change.sqrt()).view(3, 1, 1, 1)
    torch.testing.assert_close(sampler.log_prob(after, mean, steps), Normal(mean, std).log_prob(after).mean((1, 2, 3)))
    expected = kl_divergence(Normal(mean, std), Normal(other, std)).mean((1, 2, 3))
    torch.testing.assert_close(sampler.divergence(mean, other, steps), expected)
