"""The noise schedule of models that were trained on discrete noise levels, such as Stable Diffusion."""

from typing import NamedTuple

import torch
from diffusers import DDIMScheduler
from torch import Tensor


class NoiseSchedule(NamedTuple):
    """The noise levels of a sampling run of N steps, each (N,), on the CPU, the noisiest first.

    `alpha` is ᾱ, the signal's share of the variance, at each step. `alpha_next` is ᾱ after the step.
    """

    timesteps: Tensor
    alpha: Tensor
    alpha_next: Tensor
    prediction_type: str
    """``epsilon`` or ``v_prediction``."""


def noise_schedule(scheduler: DDIMScheduler, steps: int) -> NoiseSchedule:
    """The noise levels of a run of `steps` steps, with the spacing of the scheduler's config."""
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.cpu().long()
    following = timesteps - scheduler.config.num_train_timesteps // steps
    alpha_next = torch.where(
        following >= 0, scheduler.alphas_cumprod[following.clamp(min=0)], scheduler.final_alpha_cumprod
    )
    alpha = scheduler.alphas_cumprod[timesteps]
    return NoiseSchedule(timesteps, alpha, alpha_next, str(scheduler.config.prediction_type))


def noised(scheduler: DDIMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Latents with noise at the levels `timesteps` (B,), and the target of the prediction: noise or velocity."""
    target = noise
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(clean, noise, timesteps)
    return scheduler.add_noise(clean, noise, timesteps), target
