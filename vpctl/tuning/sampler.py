"""Sampling as a policy: each step is a normal distribution with a mean, a std and a log-probability."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..models.denoiser import Denoiser
from ..models.denoiser.schedule import FlowSchedule, NoiseSchedule


class Sampler(ABC):
    """Sampling in N steps from noise to a picture. `steps` (B,) is the step of each sample."""

    timesteps: Tensor
    """(N,): the timesteps of the run, as the denoiser takes them."""
    std: Tensor
    """(N,): the std of each step's noise; 0 if a step adds no noise."""

    @abstractmethod
    def original(self, predicted: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
        """The latents without noise, as a prediction for `latents` gives them; all are (B, C, H, W)."""

    @abstractmethod
    def mean(self, predicted: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
        """Mean of the next latents, from a prediction for `latents`; all are (B, C, H, W)."""

    def log_prob(self, after: Tensor, mean: Tensor, steps: Tensor) -> Tensor:
        """Log-probability (B,) of the next latents `after`, a mean over their elements.

        DDPO's code takes the mean, too; the joint log-probability would be the sum. Ratios are therefore the true
        ratios to the power of 1/(C·H·W). Clip ranges such as 1e-4 are chosen for such ratios.
        """
        std = _spread(self.std[steps])
        log_prob = -((after - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * torch.log(torch.tensor(2 * torch.pi))
        return log_prob.mean((1, 2, 3))

    def divergence(self, mean: Tensor, other: Tensor, steps: Tensor) -> Tensor:
        """KL divergence (B,) of a step with this mean from a step with the `other` mean, a mean over their elements.

        Both are normal distributions with the std of the step.
        """
        return (mean - other).square().mean((1, 2, 3)) / (2 * self.std[steps] ** 2)


class DDIM(Sampler):
    """DDIM with noise `eta`, Song et al. 2021 (arXiv 2010.02502)."""

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


class FlowStep(NamedTuple):
    """A step of a flow model: the next latents are `latents` · x + `velocity` · v + `std` · z, with normal noise z.

    x are the latents and v is the predicted velocity ε − x₀. Each tensor has the shape of the noise levels.
    """

    latents: Tensor
    velocity: Tensor
    std: Tensor


def flow_sde(sigma: Tensor, after: Tensor, eta: Tensor) -> FlowStep:
    """Flow-SDE, from the noise level `sigma` to the level `after`; `eta` is the amount of noise.

    Flow-GRPO (Liu et al. 2025, arXiv 2505.05470, equation 9), with s = η √(σ / (1 − σ)) and dt = σ' − σ: the mean is
    x (1 + s²/(2σ) dt) + v (1 + s² (1 − σ)/(2σ)) dt, and the std s √−dt. At σ = 1, where s is infinite, its
    denominator has the σ of the next step, as in the code of Flow-GRPO.
    """
    noisy = torch.where(sigma == 1, after, sigma)
    squared = eta**2 * sigma / (1 - noisy)
    change = after - sigma
    return FlowStep(
        1 + squared / (2 * sigma) * change,
        (1 + squared * (1 - sigma) / (2 * sigma)) * change,
        (squared * -change).sqrt(),
    )


def cps(sigma: Tensor, after: Tensor, eta: Tensor) -> FlowStep:
    """Coefficients-preserving sampling, from the noise level `sigma` to `after`; `eta` is the amount of noise.

    Wang and Yu 2025 (arXiv 2509.05952): the std is s = σ' sin(η π/2), and the mean x₀ (1 − σ') + x₁ √(σ'² − s²), with
    the predicted picture x₀ = x − σ v and noise x₁ = x + (1 − σ) v. So all noise that is left is that of the level σ'.
    """
    return _preserving(sigma, after, after * (eta * torch.pi / 2).sin())


def ancestral(sigma: Tensor, after: Tensor, eta: Tensor) -> FlowStep:
    """The step of DDIM for a flow model, from the noise level `sigma` to `after`; `eta` is the amount of noise.

    The std is η times that of DDPM sampling: σ'/σ √(σ² − σ'² (1 − σ)²/(1 − σ')²). This is equation 16 of Song et al.
    2021 (arXiv 2010.02502) for latents whose signal is 1 − σ and whose noise is σ.
    """
    kept = (after * (1 - sigma) / (1 - after)) ** 2
    return _preserving(sigma, after, eta * after / sigma * (sigma**2 - kept).sqrt())


def _preserving(sigma: Tensor, after: Tensor, std: Tensor) -> FlowStep:
    """The step with this std after which the latents have the noise level `after`, if the prediction is true."""
    noise = (after**2 - std**2).sqrt()
    return FlowStep(1 - after + noise, (1 - sigma) * noise - sigma * (1 - after), std)


class FlowSampler(Sampler):
    """Sampling of a flow model in steps of one kind. With `eta` 0 it is Euler's method for the model's ODE."""

    def __init__(
        self,
        schedule: FlowSchedule,
        eta: float,
        device: torch.device,
        *,
        kind: Callable[[Tensor, Tensor, Tensor], FlowStep] = ancestral,
        noisy: range | None = None,
    ) -> None:
        """`noisy` are the steps that add noise; by default all. The last step never does: it ends at the picture."""
        sigma, after = schedule.sigma.double(), schedule.sigma_next.double()
        amounts = torch.zeros_like(sigma)
        amounts[list(noisy or range(len(sigma)))] = eta
        amounts[-1] = 0
        self.timesteps = schedule.timesteps.to(device)
        self._latents, self._velocity, self.std = (one.float().to(device) for one in kind(sigma, after, amounts))
        self._sigma = schedule.sigma.to(device)

    def original(self, predicted: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
        """The latents without noise (B, C, H, W): x − σ v."""
        return latents - _spread(self._sigma[steps]) * predicted

    def mean(self, predicted: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
        """Mean (B, C, H, W) of the next latents, from a prediction of the velocity."""
        return _spread(self._latents[steps]) * latents + _spread(self._velocity[steps]) * predicted


def open_sampler(policy: Denoiser, steps: int, eta: float) -> Sampler:
    """The sampler for a model: a run of `steps` steps of DDIM with noise `eta`, or of its form for flow models."""
    schedule = policy.noise_schedule(steps)
    if isinstance(schedule, FlowSchedule):
        return FlowSampler(schedule, eta, policy.device)
    return DDIM(schedule, eta, policy.device)


def usable_steps(sampler: Sampler, skip_last: int) -> list[int]:
    """The steps that have noise, and so a log-probability, without the last `skip_last` steps of the run.

    Raises `UserError` if there are none.
    """
    usable: list[int] = (sampler.std[: len(sampler.std) - skip_last] > 0).nonzero().flatten().tolist()
    if not usable:
        raise UserError(f"--skip-last {skip_last}: leaves no denoising step with noise to train on; name more --steps")
    return usable


def _spread(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
