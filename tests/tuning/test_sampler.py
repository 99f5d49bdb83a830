"""DDIM as the tuning commands take it: steps are the scheduler's own, densities are normal."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch.distributions import Normal

from vpctl.tuning.sampler import coefficients, log_probability, step_mean

CPU = torch.device("cpu")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("spacing", "offset", "to_one"), [("leading", 1, False), ("trailing", 0, False), ("leading", 0, True)]
)
@pytest.mark.parametrize("steps", [4, 10, 50])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_a_step_is_the_schedulers_own(
    prediction: str, spacing: str, offset: int, to_one: bool, steps: int, eta: float
) -> None:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=prediction,
        timestep_spacing=spacing,
        steps_offset=offset,
        set_alpha_to_one=to_one,
    )
    table = coefficients(scheduler, steps, eta, CPU)
    chance = torch.Generator().manual_seed(steps)
    latents, predicted, noise = (torch.randn(3, 4, 8, 8, generator=chance) for _ in range(3))
    for index, timestep in enumerate(scheduler.timesteps):
        theirs = scheduler.step(predicted, timestep, latents, eta=eta, variance_noise=noise).prev_sample
        where = torch.full((3,), index)
        ours = step_mean(predicted, latents, table, where, prediction) + table.deviation[index] * noise
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_samples_may_each_be_at_a_step_of_their_own() -> None:
    table = coefficients(DDIMScheduler(clip_sample=False), 10, 1.0, CPU)
    latents, predicted = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    mixed = step_mean(predicted, latents, table, torch.tensor([1, 7]), "epsilon")
    for row, step in enumerate((1, 7)):
        alone = step_mean(predicted[row : row + 1], latents[row : row + 1], table, torch.tensor([step]), "epsilon")
        torch.testing.assert_close(mixed[row : row + 1], alone)


def test_log_probability_is_the_mean_normal_log_density() -> None:
    after, mean = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    deviation = torch.tensor([0.02, 0.5, 1.7])
    expected = Normal(mean, deviation.view(3, 1, 1, 1)).log_prob(after).mean((1, 2, 3))
    torch.testing.assert_close(log_probability(after, mean, deviation), expected)
