"""The noise of models that were trained on discrete noise levels, such as Stable Diffusion's."""

from typing import NamedTuple

import torch
from diffusers import DDIMScheduler
from torch import Tensor


class NoiseSchedule(NamedTuple):
    """The noise levels that a sampling run of N steps visits, each (N,), on the CPU; the noisiest is first.

    `alpha` is ᾱ, the share of the signal's variance: at the step, and in `alpha_next` after it.
    """

    timesteps: Tensor
    alpha: Tensor
    alpha_next: Tensor
    prediction_type: str
    """``epsilon`` or ``v_prediction``."""


def noise_schedule(scheduler: DDIMScheduler, steps: int) -> NoiseSchedule:
    """The noise levels of a run of `steps` steps, spaced as the scheduler's config says."""
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.cpu().long()
    following = timesteps - scheduler.config.num_train_timesteps // steps
    alpha_next = torch.where(
        following >= 0, scheduler.alphas_cumprod[following.clamp(min=0)], scheduler.final_alpha_cumprod
    )
    alpha = scheduler.alphas_cumprod[timesteps]
    return NoiseSchedule(timesteps, alpha, alpha_next, str(scheduler.config.prediction_type))


def noised(scheduler: DDIMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Latents with noise at the levels `timesteps` (B,), and the target of their prediction: the noise or velocity."""
    target = noise
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(clean, noise, timesteps)
    return scheduler.add_noise(clean, noise, timesteps), target
