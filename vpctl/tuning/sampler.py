"""Sampling as a policy: each step is a normal distribution with a mean, a std and a log-probability."""

from typing import Protocol

import torch
from torch import Tensor

from ..models.denoiser import Denoiser
from ..models.denoiser.schedule import NoiseSchedule


class Sampler(Protocol):
    """Sampling in N steps from noise to a picture. `steps` (B,) is the step of each sample."""

    timesteps: Tensor
    """(N,): the timesteps of the run, as the denoiser takes them."""
    std: Tensor
    """(N,): the std of each step's noise; 0 if a step adds no noise."""

    def mean(self, predicted: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
        """Mean of the next latents, from a prediction for `latents`; all are (B, C, H, W)."""
        ...

    def log_prob(self, after: Tensor, mean: Tensor, steps: Tensor) -> Tensor:
        """Log-probability (B,) of the next latents `after`, a mean over their elements.

        DDPO's code takes the mean, too; the joint log-probability would be the sum. Ratios are therefore the true
        ratios to the power of 1/(C·H·W). Clip ranges such as 1e-4 are chosen for such ratios.
        """
        ...


class DDIM:
    """DDIM with noise `eta`, Song et al. 2021 (arXiv 2010.02502). It is a `Sampler`."""

    def __init__(self, schedule: NoiseSchedule, eta: float, device: torch.device) -> None:
        alpha, alpha_next = schedule.alpha, schedule.alpha_next
        # Equation 16: σ = η √((1−ᾱ')/(1−ᾱ)) √(1−ᾱ/ᾱ'), with ᾱ' of the step after.
        variance = (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)
        self.timesteps = schedule.timesteps.to(device)
        self.std = (eta * variance.clamp(min=0).sqrt()).to(device)
        self._alpha, self._alpha_next = alpha.to(device), alpha_next.to(device)
        self._prediction_type = schedule.prediction_type

    def mean(self, predicted: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
        """Mean (B, C, H, W) of the next latents.

        Equation 12, from a prediction of the noise or of the velocity (Salimans and Ho 2022, appendix D).
        """
        alpha, after = _spread(self._alpha[steps]), _spread(self._alpha_next[steps])
        if self._prediction_type == "v_prediction":
            original = alpha.sqrt() * latents - (1 - alpha).sqrt() * predicted
            noise = alpha.sqrt() * predicted + (1 - alpha).sqrt() * latents
        else:
            noise = predicted
            original = (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        direction = (1 - after - _spread(self.std[steps]) ** 2).clamp(min=0).sqrt()
        return after.sqrt() * original + direction * noise

    def log_prob(self, after: Tensor, mean: Tensor, steps: Tensor) -> Tensor:
        """Log-probability (B,) of the next latents, a mean over their elements."""
        std = _spread(self.std[steps])
        log_prob = -((after - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * torch.log(torch.tensor(2 * torch.pi))
        return log_prob.mean((1, 2, 3))


def open_sampler(policy: Denoiser, steps: int, eta: float) -> Sampler:
    """The sampler for a model: a run of `steps` steps with noise `eta`."""
    return DDIM(policy.noise_schedule(steps), eta, policy.device)


def _spread(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
