"""DDIM as the tuning commands take it: steps are the scheduler's own, log-probabilities those of a normal."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch.distributions import Normal

from vpctl.models.denoiser.schedule import noise_schedule
from vpctl.tuning.sampler import DDIM

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
    sampler = DDIM(noise_schedule(scheduler, steps), eta, CPU)
    generator = torch.Generator().manual_seed(steps)
    latents, predicted, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(3))
    for index, timestep in enumerate(scheduler.timesteps):
        theirs = scheduler.step(predicted, timestep, latents, eta=eta, variance_noise=noise).prev_sample
        where = torch.full((3,), index)
        ours = sampler.mean(predicted, latents, where) + sampler.std[index] * noise
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_samples_may_each_be_at_a_step_of_their_own() -> None:
    sampler = DDIM(noise_schedule(DDIMScheduler(clip_sample=False), 10), 1.0, CPU)
    latents, predicted = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    mixed = sampler.mean(predicted, latents, torch.tensor([1, 7]))
    for row, step in enumerate((1, 7)):
        alone = sampler.mean(predicted[row : row + 1], latents[row : row + 1], torch.tensor([step]))
        torch.testing.assert_close(mixed[row : row + 1], alone)


def test_log_prob_is_the_mean_normal_log_density() -> None:
    sampler = DDIM(noise_schedule(DDIMScheduler(clip_sample=False), 10), 1.0, CPU)
    after, mean = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    steps = torch.tensor([8, 5, 0])
    expected = Normal(mean, sampler.std[steps].view(3, 1, 1, 1)).log_prob(after).mean((1, 2, 3))
    torch.testing.assert_close(sampler.log_prob(after, mean, steps), expected)
