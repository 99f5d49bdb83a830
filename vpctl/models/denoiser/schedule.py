"""The noise levels of sampling runs: the discrete ones of Stable Diffusion, and the continuous ones of flow models."""

import inspect
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
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


class FlowSchedule(NamedTuple):
    """The noise levels of a flow model's sampling run of N steps, each (N,), on the CPU, the noisiest first.

    At a noise level σ from 0 to 1, latents are (1 − σ) x₀ + σ ε (rectified flow, Liu et al. 2022, arXiv 2209.03003).
    `sigma` is σ at each step, `sigma_next` is σ after it; the last one is 0.
    """

    timesteps: Tensor
    sigma: Tensor
    sigma_next: Tensor


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


def flow_scheduler(config: Mapping[str, Any]) -> FlowMatchEulerDiscreteScheduler:
    """An Euler scheduler for flow models with this config."""
    known = inspect.signature(FlowMatchEulerDiscreteScheduler.__init__).parameters
    return FlowMatchEulerDiscreteScheduler(**{name: config[name] for name in known if name in config})


def resolution_shift(scheduler: FlowMatchEulerDiscreteScheduler, tokens: int) -> float | None:
    """The logarithm μ of the shift for pictures of so many `tokens`; None if the scheduler has a fixed shift.

    Larger pictures need more noise to be destroyed (Esser et al. 2024, arXiv 2403.03206, section 5.3.2). FLUX.1 draws a
    line through the shifts of two numbers of tokens.
    """
    config = scheduler.config
    if not config.use_dynamic_shifting:
        return None
    share = (tokens - config.base_image_seq_len) / (config.max_image_seq_len - config.base_image_seq_len)
    return float(config.base_shift + share * (config.max_shift - config.base_shift))


def shifted(scheduler: FlowMatchEulerDiscreteScheduler, sigma: Tensor, tokens: int) -> Tensor:
    """Noise levels σ with the scheduler's shift, for pictures of so many `tokens`: s σ / (1 + (s − 1) σ).

    Esser et al. 2024, equation 23.
    """
    shift = resolution_shift(scheduler, tokens)
    factor: float = scheduler.shift
    found: Tensor = factor * sigma / (1 + (factor - 1) * sigma)
    return found if shift is None else scheduler.time_shift(shift, 1.0, sigma)


def flow_schedule(
    scheduler: FlowMatchEulerDiscreteScheduler, steps: int, *, tokens: int, evenly: bool = False
) -> FlowSchedule:
    """The noise levels of a run of `steps` steps, for pictures of so many `tokens`.

    `evenly`: before the shift they are 1, 1 − 1/N, …, 1/N, which FLUX.1's pipeline names; else the scheduler's own.
    """
    levels = np.linspace(1.0, 1 / steps, steps) if evenly else None
    scheduler.set_timesteps(steps, sigmas=levels, mu=resolution_shift(scheduler, tokens))
    return FlowSchedule(scheduler.timesteps.cpu(), scheduler.sigmas[:-1].cpu(), scheduler.sigmas[1:].cpu())
