"""DDPO (Black et al. 2024, arXiv 2305.13301): policy gradients with a clipped ratio through the denoising steps.

Differences from the released code: latents are stored as they were computed, in float32, so with --packed 1 the ratio
is exactly 1 before the first update. Each picture is trained on at steps of its own choice. Rewards are compared within
the pictures of one prompt in one round, not with rewards of earlier rounds. The last steps are left out, because they
add almost no noise.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..configs import DDPOConfig, PPOConfig, RoundConfig
from ..models.denoiser import Denoiser
from .objective import Objective
from .rollout import Rollout, step_mean
from .rounds import RoundAlgorithm
from .sampler import Sampler, usable_steps
from .tuner import Tuner


class PPOLoss(NamedTuple):
    """The loss, a scalar, and the ratios (B,)."""

    loss: Tensor
    ratio: Tensor


def ppo_loss(new: Tensor, old: Tensor, advantages: Tensor, clip: float) -> PPOLoss:
    """Mean max(−A r, −A clip(r, 1 ± ε)) with r = exp(new − old); all arguments (B,).

    Schulman et al. 2017 (arXiv 1707.06347), equation 7, with the sign of a loss.
    """
    ratio = (new - old).exp()
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return PPOLoss(torch.maximum(unclipped, clipped).mean(), ratio)


def trained_steps(
    sampler: Sampler, skip_last: int, fraction: float, pictures: int, generator: torch.Generator
) -> Tensor:
    """The denoising steps (B, K) that a round trains on, for each of B `pictures` in a random order of its own.

    K is this `fraction` of the steps before the last `skip_last`. Steps without noise are left out, because they
    have no log-probability. Some schedules end with such a step.
    """
    usable = torch.tensor(usable_steps(sampler, skip_last))
    taken = max(1, round(fraction * len(usable)))
    return usable[torch.rand(pictures, len(usable), generator=generator).argsort(1)[:, :taken]]


METRICS = ("loss", "clipped_high", "clipped_low", "ratio_mean", "ratio_std", "approximate_kl")
"""The loss; the shares of ratios above and below the clip range; mean and std of the ratios; half the mean squared
log-ratio."""


def update(
    tuner: Tuner,
    rollout: Rollout,
    advantages: Tensor,
    sampler: Sampler,
    steps: Tensor,
    *,
    guidance: float,
    config: DDPOConfig,
    packed: int,
    share: float,
) -> Tensor:
    """Add the gradient of some pictures to that of an optimizer step.

    `advantages` (B,) and `steps` (B, K) are those of the pictures of `rollout`. `share` is the weight of one picture at
    one step; over all pictures and steps of an optimizer step these add up to 1. `packed` steps of each picture
    go through the model together, as if they were pictures. Returns the weighted sums of `METRICS`, on the CPU, with
    the mean of (ratio − 1)² in place of its std.
    """
    policy, device = tuner.policy, tuner.policy.device
    sums = torch.zeros(len(METRICS), device=device)
    conditioning = policy.embed(rollout.prompts)
    for columns in steps.split(packed, dim=1):
        rows = torch.arange(len(steps)).repeat(columns.shape[1])
        here = columns.T.flatten()
        before, after = (rollout.latents[rows, one].to(device) for one in (here, here + 1))
        old, here = rollout.log_probs[rows, here].to(device), here.to(device)
        shown = conditioning.repeat(columns.shape[1])
        mean = step_mean(policy, sampler, before, shown, here, guidance)
        new = sampler.log_prob(after, mean, here)
        loss, ratio = ppo_loss(new, old, advantages[rows].to(device), config.clip)
        if config.kl:
            with policy.reference():
                reference = step_mean(policy, sampler, before, shown, here, guidance)
            loss = loss + config.kl * sampler.divergence(mean, reference, here).mean()
        weight = share * len(rows)
        tuner.backward(loss * weight)
        ratio = ratio.detach()
        high, low = (ratio > 1 + config.clip).float(), (ratio < 1 - config.clip).float()
        log_ratio = (new - old).detach()
        seen = (high, low, ratio, (ratio - 1).square(), 0.5 * log_ratio.square())
        sums += weight * torch.stack([loss.detach(), *(one.mean() for one in seen)])
    return sums.cpu()


@torch.no_grad()
def measure_kl(policy: Denoiser, rollout: Rollout, sampler: Sampler, steps: Tensor, guidance: float) -> Tensor:
    """The mean KL divergence (), per element, of the policy's denoising steps from those of the untuned model.

    It is measured at one step of each picture: `steps` (B,).
    """
    here = steps.to(policy.device)
    conditioning = policy.embed(rollout.prompts)
    before = rollout.latents[torch.arange(len(steps)), steps].to(policy.device)
    mean = step_mean(policy, sampler, before, conditioning, here, guidance)
    with policy.reference():
        reference = step_mean(policy, sampler, before, conditioning, here, guidance)
    return sampler.divergence(mean, reference, here).mean().cpu()


class DDPO(RoundAlgorithm):
    """Tunes the policy towards some rewards, in rounds of drawing, scoring and training.

    The tuner's generator also chooses the denoising steps to train on.
    """

    def __init__(
        self,
        tuner: Tuner,
        prompts: list[str],
        objective: Objective,
        config: PPOConfig,
        rounds: RoundConfig,
        own: DDPOConfig,
        *,
        steps: int,
        guidance: float,
    ) -> None:
        """For the arguments see `RoundAlgorithm`; `own` are the options of DDPO."""
        super().__init__(tuner, prompts, objective, config, rounds, steps=steps, guidance=guidance)
        self._own = own

    def step(self, number: int) -> dict[str, float]:
        """Draw pictures of some prompts, score them, and train on them. Returns the rewards and the means of `METRICS`.

        Raises `UserError` for a reward or a picture that is not finite.
        """
        tuner, rounds, own = self._tuner, self._rounds, self._own
        policy, world = tuner.policy, tuner.world
        sampler = self._round_sampler()
        parts, rollouts, rewards, advantages = self._draw(number, sampler)
        trained = trained_steps(sampler, own.skip_last, rounds.timestep_fraction, len(rewards), tuner.generator)
        (start, stop), drawn = next(iter(rollouts.items()))  # in the main process, the first pictures of the round
        kl = measure_kl(policy, drawn, sampler, trained[start:stop, 0], self._guidance)
        sums = torch.zeros(len(METRICS))
        for part in parts:
            share = 1 / ((part[-1][1] - part[0][0]) * trained.shape[1])
            for start, stop in tuner.own(part):
                sums += update(
                    tuner,
                    rollouts[start, stop],
                    advantages[start:stop],
                    sampler,
                    trained[start:stop],
                    guidance=self._guidance,
                    config=own,
                    packed=rounds.packed,
                    share=share,
                )
            tuner.step(f"round {number}")
        means = dict(zip(METRICS, (world.gather(sums).sum(0) / len(parts)).tolist(), strict=True))
        means["ratio_std"] = max(0.0, means["ratio_std"] - (means["ratio_mean"] - 1) ** 2) ** 0.5
        means |= tuner.skipped()
        return {**self._objective.metrics(rewards, self._config.images), **means, "kl": float(world.gather(kl)[0])}

    def _round_sampler(self) -> Sampler:
        """The sampler of a round: always the same."""
        return self._sampler
