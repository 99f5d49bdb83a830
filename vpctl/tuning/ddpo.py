"""DDPO (Black et al. 2024, arXiv 2305.13301): policy gradients with a clipped ratio through the denoising steps.

Differences from the released code: latents are stored as they were computed, in float32, so with --packed 1 the ratio
is exactly 1 before the first update. Each picture is trained on at steps of its own choice. Rewards are compared within
the pictures of one prompt in one round, not with rewards of earlier rounds. The last steps are left out, because they
add almost no noise.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..configs import DDPOConfig, PPOConfig, RoundConfig
from ..models.denoiser import Denoiser
from .advantages import group_advantages
from .loop import Algorithm
from .objective import Objective
from .rollout import Rollout, roll_out_and_score, step_mean
from .sampler import Sampler, open_sampler, usable_steps
from .spans import check_batches, spans
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
    policy: Denoiser,
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
    device = policy.device
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
        (loss * weight).backward()
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


class DDPO(Algorithm):
    """Tunes the policy's LoRA towards some rewards, in rounds of drawing, scoring and training.

    `steps` and `guidance` are used for drawing. The tuner's generator chooses the prompts, the noise and the denoising
    steps to train on.
    """

    unit = "round"

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
        """`config` are the options of all algorithms of tune-ppo, `rounds` those of rounds, `own` those of DDPO.

        Raises `UserError` if a process would have no pictures.
        """
        pictures = min(config.prompts_per_epoch, len(prompts)) * config.images
        check_batches(pictures, rounds.updates, config.batch, tuner.world.size)
        self.total = config.epochs
        self._tuner, self._prompts, self._objective = tuner, prompts, objective
        self._config, self._rounds, self._own, self._guidance = config, rounds, own, guidance
        self._sampler = open_sampler(tuner.policy, steps, config.eta)

    def step(self, number: int) -> dict[str, float]:
        """Draw pictures of some prompts, score them, and train on them. Returns the rewards and the means of `METRICS`.

        Raises `UserError` for a reward or a picture that is not finite.
        """
        tuner, config, rounds, own = self._tuner, self._config, self._rounds, self._own
        policy, generator, world = tuner.policy, tuner.generator, tuner.world
        sampler = self._round_sampler()
        chosen = torch.randperm(len(self._prompts), generator=generator)[: config.prompts_per_epoch].tolist()
        prompts = [self._prompts[index] for index in chosen for _ in range(config.images)]
        seeds = torch.randint(2**62, (len(prompts),), generator=generator).tolist()
        trained = trained_steps(sampler, own.skip_last, rounds.timestep_fraction, len(prompts), generator)
        parts = spans(len(prompts), rounds.updates, config.batch)
        rollouts, rewards = roll_out_and_score(
            tuner,
            prompts,
            seeds,
            [batch for part in parts for batch in tuner.own(part)],
            sampler,
            self._objective,
            guidance=self._guidance,
            where=f"round {number}",
            together=rounds.packed,
        )
        advantages = group_advantages(
            rewards, config.images, rounds.advantage_clip, self._objective.weights, deviation=rounds.deviation
        )
        kl = torch.zeros(())
        if world.is_main:  # which has the first batch
            (start, stop), drawn = next(iter(rollouts.items()))
            kl = measure_kl(policy, drawn, sampler, trained[start:stop, 0], self._guidance)
        sums = torch.zeros(len(METRICS))
        for part in parts:
            share = 1 / ((part[-1][1] - part[0][0]) * trained.shape[1])
            for start, stop in tuner.own(part):
                sums += update(
                    policy,
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
        return {**self._objective.metrics(rewards, config.images), **means, "kl": float(world.gather(kl)[0])}

    def _round_sampler(self) -> Sampler:
        """The sampler of a round: always the same."""
        return self._sampler

    def state_dict(self) -> dict[str, Any]:
        """The tuner's state."""
        return self._tuner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises `ValueError` for the state of another run."""
        self._tuner.load_state_dict(state)
