"""The noise schedule of models that were trained on discrete noise levels, such as Stable Diffusion."""

import inspect
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from ...errors import UserError


class NoiseSchedule(NamedTuple):
    """The noise levels of a sampling run of N steps, each (N,), on the CPU, the noisiest first.

    `alpha` is ᾱ, the signal's share of the variance, at each step. `alpha_next` is ᾱ after the step.
    """

    timesteps: Tensor
    alpha: Tensor
    alpha_next: Tensor
    prediction_type: str
    """``epsilon`` or ``v_prediction``."""
    bound: float = math.inf
    """The predicted picture's latents are clipped to ± this value."""


def ddim_scheduler(config: Mapping[str, Any]) -> DDIMScheduler:
    """A DDIM scheduler with the noise levels and the spacing of the scheduler that has this config.

    ``DDIMScheduler.from_config`` takes DDIM's own default for a value that is the default of the other scheduler, such
    as another spacing. A config of another scheduler may not say whether predictions are clipped. DDIM would then clip
    them, which is wrong for latents.
    """
    known = inspect.signature(DDIMScheduler.__init__).parameters
    return DDIMScheduler(**{"clip_sample": False, **{name: config[name] for name in known if name in config}})


def noise_schedule(scheduler: DDIMScheduler, steps: int) -> NoiseSchedule:
    """The noise levels of a run of `steps` steps, with the spacing of the scheduler's config.

    After a step the noise level is that of the next step, for every spacing. diffusers' DDIM subtracts 1000 // `steps`
    from the timestep instead. With the spacing ``linspace`` this is another level, so the next step would get latents
    with more noise than it expects, or less.

    Raises `UserError` if the run begins with pure noise and the model predicts the noise: nothing can be known about
    the picture then.
    """
    config = scheduler.config
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.cpu().long()
    timesteps = timesteps[timesteps >= 0]  # for some numbers of steps, rounding makes the spacing ``trailing`` go to -1
    alpha = scheduler.alphas_cumprod[timesteps]
    if config.prediction_type == "epsilon" and alpha[0] == 0:
        raise UserError(
            "--model: its noise schedule begins with pure noise (zero terminal SNR), from which a model that predicts "
            "the noise cannot draw; this needs a model with v_prediction"
        )
    alpha_next = torch.cat([alpha[1:], scheduler.final_alpha_cumprod.view(1)])
    bound = config.clip_sample_range if config.clip_sample else math.inf
    return NoiseSchedule(timesteps, alpha, alpha_next, str(config.prediction_type), float(bound))


def noised(scheduler: DDIMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Latents with noise at the levels `timesteps` (B,), and the target of the prediction: noise or velocity."""
    target = noise
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(clean, noise, timesteps)
    return scheduler.add_noise(clean, noise, timesteps), target
