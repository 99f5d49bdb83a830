"""Sampling as a policy: each step is a normal distribution with a mean, a std and a log-probability."""

from typing import Protocol

import torch
from torch import Tensor

from ..errors import UserError
from ..models.denoiser import Denoiser
from ..models.denoiser.schedule import NoiseSchedule


class Sampler(Protocol):
    """Sampling in N steps from noise to a picture. `steps` (B,) is the step of each sample."""

    timesteps: Tensor
    """(N,): the timesteps of the run, as the denoiser takes them."""
    std: Tensor
    """(N,): the std of each step's noise; 0 if a step adds no noise."""

    def original(self, predicted: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
        """The latents without noise, as a prediction for `latents` gives them; all are (B, C, H, W)."""
        ...

    def mean(self, predicted: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
        """Mean of the next latents, from a prediction for `latents`; all are (B, C, H, W)."""
        ...

    def log_prob(self, after: Tensor, mean: Tensor, steps: Tensor) -> Tensor:
        """Log-probability (B,) of the next latents `after`, a mean over their elements.

        DDPO's code takes the mean, too; the joint log-probability would be the sum. Ratios are therefore the true
        ratios to the power of 1/(C·H·W). Clip ranges such as 1e-4 are chosen for such ratios.
        """
        ...

    def divergence(self, mean: Tensor, other: Tensor, steps: Tensor) -> Tensor:
        """KL divergence (B,) of a step with this mean from a step with the `other` mean, a mean over their elements."""
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
        self._prediction_type, self._bound = schedule.prediction_type, schedule.bound

    def original(self, predicted: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
        """The latents without noise (B, C, H, W): the predicted x₀ in equation 12, clipped if the config says so.

        `predicted` is the noise or the velocity (Salimans and Ho 2022, appendix D).
        """
        alpha = _spread(self._alpha[steps])
        if self._prediction_type == "v_prediction":
            original = alpha.sqrt() * latents - (1 - alpha).sqrt() * predicted
        else:
            original = (latents - (1 - alpha).sqrt() * predicted) / alpha.sqrt()
        return original.clamp(-self._bound, self._bound)

    def mean(self, predicted: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
        """Mean (B, C, H, W) of the next latents, from a prediction of the noise or of the velocity. Equation 12."""
        alpha, after = _spread(self._alpha[steps]), _spread(self._alpha_next[steps])
        noise = predicted
        if self._prediction_type == "v_prediction":
            noise = alpha.sqrt() * predicted + (1 - alpha).sqrt() * latents
        direction = (1 - after - _spread(self.std[steps]) ** 2).clamp(min=0).sqrt()
        return after.sqrt() * self.original(predicted, latents, steps) + direction * noise

    def log_prob(self, after: Tensor, mean: Tensor, steps: Tensor) -> Tensor:
        """Log-probability (B,) of the next latents, a mean over their elements."""
        std = _spread(self.std[steps])
        log_prob = -((after - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * torch.log(torch.tensor(2 * torch.pi))
        return log_prob.mean((1, 2, 3))

    def divergence(self, mean: Tensor, other: Tensor, steps: Tensor) -> Tensor:
        """KL divergence (B,) of two normal distributions with the std of the step, a mean over their elements."""
        return (mean - other).square().mean((1, 2, 3)) / (2 * self.std[steps] ** 2)


def open_sampler(policy: Denoiser, steps: int, eta: float) -> Sampler:
    """The sampler for a model: a run of `steps` steps with noise `eta`."""
    return DDIM(policy.noise_schedule(steps), eta, policy.device)


def usable_steps(sampler: Sampler, skip_last: int) -> int:
    """The number of first steps that have noise, and so a log-probability, without the last `skip_last` steps.

    Raises `UserError` if there are none.
    """
    usable = min(len(sampler.std) - skip_last, int((sampler.std > 0).sum()))
    if usable < 1:
        raise UserError(f"--skip-last {skip_last}: leaves no denoising step with noise to train on; name more --steps")
    return usable


def _spread(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
