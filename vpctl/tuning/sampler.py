"""DDIM sampling as a policy sees it: the schedule, the mean of a step, and the log-probability of what it drew."""

from typing import NamedTuple

import torch
from diffusers import DDIMScheduler
from torch import Tensor


class Coefficients(NamedTuple):
    """What one DDIM step needs of the noise schedule, each (N,) over the steps of a sampling run."""

    timesteps: Tensor
    alpha: Tensor
    alpha_next: Tensor
    deviation: Tensor


def coefficients(scheduler: DDIMScheduler, steps: int, eta: float, device: torch.device) -> Coefficients:
    """The schedule of a DDIM run of `steps` steps with noise `eta`.

    Song et al. 2021 (arXiv 2010.02502), equation 16: σ = η √((1−ᾱ')/(1−ᾱ)) √(1−ᾱ/ᾱ'), with ᾱ' of the step after.
    """
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.cpu().long()
    gap = scheduler.config.num_train_timesteps // steps
    following = timesteps - gap
    alpha = scheduler.alphas_cumprod[timesteps]
    last = scheduler.final_alpha_cumprod
    alpha_next = torch.where(following >= 0, scheduler.alphas_cumprod[following.clamp(min=0)], last)
    variance = (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)
    return Coefficients(
        timesteps.to(device), alpha.to(device), alpha_next.to(device), (eta * variance.clamp(min=0).sqrt()).to(device)
    )


def step_mean(predicted: Tensor, latents: Tensor, table: Coefficients, index: Tensor, prediction_type: str) -> Tensor:
    """Mean (B, C, H, W) of the next latents, for samples each at its own step `index` (B,).

    Song et al. 2021, equation 12, from a prediction of the noise or of the velocity (Salimans and Ho 2022, appendix D).
    """
    alpha, after = _spread(table.alpha[index]), _spread(table.alpha_next[index])
    if prediction_type == "v_prediction":
        original = alpha.sqrt() * latents - (1 - alpha).sqrt() * predicted
        noise = alpha.sqrt() * predicted + (1 - alpha).sqrt() * latents
    else:
        noise = predicted
        original = (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    direction = (1 - after - _spread(table.deviation[index]) ** 2).clamp(min=0).sqrt()
    return after.sqrt() * original + direction * noise


def log_probability(after: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Log-density (B,) of the next latents under a step of this mean and deviation (B,), a mean over their elements.

    A mean, as in DDPO's code, where the joint density is the sum: ratios of it are the true ones to the power of
    1/(C·H·W), which is what clip ranges such as 1e-4 are made for.
    """
    spread = _spread(deviation)
    density = -((after - mean) ** 2) / (2 * spread**2) - spread.log() - 0.5 * torch.log(torch.tensor(2 * torch.pi))
    return density.mean((1, 2, 3))


def _spread(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
