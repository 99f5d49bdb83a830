"""DDIM as the tuning commands take it: steps are the scheduler's own, log-probabilities those of a normal."""

import math
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from torch.distributions import Normal, kl_divergence

from vpctl.errors import UserError
from vpctl.models.denoiser.limits import check_steps
from vpctl.models.denoiser.schedule import ddim_scheduler, noise_schedule
from vpctl.tuning.sampler import DDIM

CPU = torch.device("cpu")
STABLE_DIFFUSION: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACINGS = [("leading", 0), ("leading", 1), ("trailing", 0), ("linspace", 0)]


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
        **STABLE_DIFFUSION,
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


@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_every_number_of_steps_has_the_next_timestep_and_variance_of_ddpm(
    spacing: str, offset: int, zero_snr: bool
) -> None:
    """DDPM is DDIM with η = 1, and diffusers' DDPM looks up the next timestep in its own list."""
    config = {
        **STABLE_DIFFUSION,
        "timestep_spacing": spacing,
        "steps_offset": offset,
        "rescale_betas_zero_snr": zero_snr,
        "prediction_type": "v_prediction",
    }
    ddpm = DDPMScheduler(**config, clip_sample=False)
    ddim = DDIMScheduler(**config, clip_sample=False, set_alpha_to_one=True)
    for steps in [*range(2, 60), 99, 100, 250, 333, 500, 501, 999, 1000 - offset]:
        ddpm.set_timesteps(steps)
        if (
            len(ddpm.timesteps) != steps
        ):  # diffusers' spacing "trailing" has one timestep too many, -1, for some numbers
            assert ddpm.timesteps[-1] < 0
            ddpm.timesteps = ddpm.timesteps[:-1]
        schedule = noise_schedule(ddim, steps)
        sampler = DDIM(schedule, 1.0, CPU)
        assert schedule.timesteps.tolist() == ddpm.timesteps.tolist()
        following = [int(ddpm.previous_timestep(one)) for one in ddpm.timesteps]
        alphas = torch.cat([ddpm.alphas_cumprod, torch.ones(1)])  # the last one is for the timestep -1
        torch.testing.assert_close(schedule.alpha_next, alphas[following])
        expected = [
            0.0 if one < 0 else float(ddpm._get_variance(int(t)))
            for t, one in zip(ddpm.timesteps, following, strict=True)
        ]
        torch.testing.assert_close(sampler.std**2, torch.tensor(expected), atol=1e-6, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers and numpy
def test_a_step_ends_at_the_noise_level_that_the_next_step_expects() -> None:
    """With the spacing of Euler and DPM++ schedulers, diffusers' DDIM ends at another level."""
    euler = EulerDiscreteScheduler(**STABLE_DIFFUSION)
    euler.set_timesteps(10)
    schedule = noise_schedule(ddim_scheduler(euler.config), 10)
    assert euler.config.timestep_spacing == "linspace"
    assert schedule.timesteps.tolist() == [round(float(one)) for one in euler.timesteps]
    assert torch.equal(schedule.alpha_next[:-1], schedule.alpha[1:])
    sigmas = ((1 - schedule.alpha_next) / schedule.alpha_next).sqrt()
    torch.testing.assert_close(sigmas, euler.sigmas[1:], atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("steps", [2, 10, 1000])
def test_a_picture_without_faults_in_its_predictions_is_drawn_by_every_spacing(steps: int) -> None:
    """With the true noise as prediction and η = 0 every run must end at the picture, whatever its noise levels are."""
    picture, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    for spacing, offset in SPACINGS:
        scheduler = DDIMScheduler(
            **STABLE_DIFFUSION, timestep_spacing=spacing, steps_offset=offset, clip_sample=False, set_alpha_to_one=True
        )
        count = steps - (steps == 1000 and offset)
        schedule = noise_schedule(scheduler, count)
        sampler = DDIM(schedule, 0.0, CPU)
        latents = schedule.alpha[0].sqrt() * picture + (1 - schedule.alpha[0]).sqrt() * noise
        for step in range(count):
            latents = sampler.mean(noise, latents, torch.tensor([step]))
        torch.testing.assert_close(latents, picture, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    ("config", "steps", "most"),
    [
        ({"timestep_spacing": "leading", "steps_offset": 1}, 1000, 999),
        ({"timestep_spacing": "leading", "steps_offset": 1}, 2000, 999),
        ({"timestep_spacing": "linspace"}, 1001, 1000),
        ({"num_train_timesteps": 50}, 51, 50),
    ],
)
def test_more_steps_than_noise_levels_are_refused(config: dict[str, Any], steps: int, most: int) -> None:
    levels = config.get("num_train_timesteps", 1000)
    with pytest.raises(UserError, match=f"^--steps {steps}: x has {levels} noise levels; name at most {most} steps$"):
        check_steps(config, steps, "x")
    check_steps(config, most, "x")
    schedule = noise_schedule(DDIMScheduler(**{"clip_sample": False, **config}), most)
    assert len(schedule.timesteps) == most


def test_predictions_are_clipped_if_the_model_says_so_and_only_then() -> None:
    assert noise_schedule(ddim_scheduler(EulerDiscreteScheduler().config), 10).bound == math.inf
    scheduler = DDIMScheduler(**STABLE_DIFFUSION, clip_sample=True, clip_sample_range=1.5)
    sampler = DDIM(noise_schedule(ddim_scheduler(scheduler.config), 10), 0.0, CPU)
    scheduler.set_timesteps(10)
    latents, predicted = 3 * torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for index, timestep in enumerate(scheduler.timesteps):
        theirs = scheduler.step(predicted, timestep, latents)
        where = torch.full((2,), index)
        torch.testing.assert_close(sampler.mean(predicted, latents, where), theirs.prev_sample, atol=1e-5, rtol=1e-5)
    assert float(sampler.original(predicted, latents, torch.tensor([0, 5])).abs().max()) == 1.5


def test_a_model_that_predicts_noise_cannot_begin_with_pure_noise() -> None:
    config = {**STABLE_DIFFUSION, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False}
    with pytest.raises(UserError, match=r"begins with pure noise"):
        noise_schedule(DDIMScheduler(**config), 10)
    sampler = DDIM(noise_schedule(DDIMScheduler(**config, prediction_type="v_prediction"), 10), 1.0, CPU)
    mean = sampler.mean(torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([0]))
    assert mean.isfinite().all()


def test_samples_may_each_be_at_a_step_of_their_own() -> None:
    sampler = DDIM(noise_schedule(DDIMScheduler(clip_sample=False), 10), 1.0, CPU)
    latents, predicted = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    mixed = sampler.mean(predicted, latents, torch.tensor([1, 7]))
    for row, step in enumerate((1, 7)):
        alone = sampler.mean(predicted[row : row + 1], latents[row : row + 1], torch.tensor([step]))
        torch.testing.assert_close(mixed[row : row + 1], alone)


def test_log_prob_and_divergence_are_those_of_normal_distributions() -> None:
    sampler = DDIM(noise_schedule(DDIMScheduler(clip_sample=False), 10), 1.0, CPU)
    after, mean, other = (torch.randn(3, 4, 8, 8) for _ in range(3))
    steps = torch.tensor([8, 5, 0])
    normal = Normal(mean, sampler.std[steps].view(3, 1, 1, 1))
    torch.testing.assert_close(sampler.log_prob(after, mean, steps), normal.log_prob(after).mean((1, 2, 3)))
    expected = kl_divergence(normal, Normal(other, sampler.std[steps].view(3, 1, 1, 1))).mean((1, 2, 3))
    torch.testing.assert_close(sampler.divergence(mean, other, steps), expected)
