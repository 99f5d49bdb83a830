"""DDPO (Black et al. 2024, arXiv 2305.13301): policy gradients with a clipped ratio through the denoising steps.

Differences from the released code: latents are rounded to the stored type before their log-probability is computed, so
the ratio is exactly 1 before the first update. Rewards are compared within the pictures of one prompt in one round, not
with rewards of earlier rounds. The last steps are left out, because they add almost no noise.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..configs import PPOConfig
from ..errors import UserError
from ..models.denoiser import Denoiser
from .loop import Algorithm
from .rollout import PixelReward, Rollout, roll_out, step_mean
from .run import optimizer_step, random_state, restore_optimizer, restore_random_state
from .sampler import Sampler, open_sampler


class PPOLoss(NamedTuple):
    """The loss, a scalar; the share of ratios that were clipped; half the mean squared log-ratio."""

    loss: Tensor
    clipped: Tensor
    approximate_kl: Tensor


def ppo_loss(new: Tensor, old: Tensor, advantages: Tensor, clip: float) -> PPOLoss:
    """Mean max(−A r, −A clip(r, 1 ± ε)) with r = exp(new − old); all arguments (B,).

    Schulman et al. 2017 (arXiv 1707.06347), equation 7, with the sign of a loss.
    """
    ratio = (new - old).exp()
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return PPOLoss(
        torch.maximum(unclipped, clipped).mean(),
        ((ratio - 1).abs() > clip).float().mean(),
        0.5 * (new - old).square().mean(),
    )


def group_advantages(rewards: Tensor, group: int, limit: float) -> Tensor:
    """The advantages (B,) of the pictures, B = prompts × `group`, clamped to ± `limit`.

    An advantage is the reward minus the mean reward of the prompt's pictures, divided by the std of these differences
    over all pictures of the round. The std is not computed per prompt: a prompt whose rewards differ only a little
    would then have as much weight as any other prompt.
    """
    grouped = rewards.double().view(-1, group)
    centred = grouped - grouped.mean(1, keepdim=True)
    return (centred / (centred.square().mean().sqrt() + 1e-6)).clamp(-limit, limit).flatten().float()


def spans(pictures: int, updates: int, batch: int) -> list[list[tuple[int, int]]]:
    """The batches of each optimizer step of a round. A batch is a range of pictures: its first, and one past its last.

    Drawing and training use the same batches, so both compute the same numbers. Which pictures belong to a step does
    not depend on the batch size.
    """
    bounds = [round(number * pictures / updates) for number in range(updates + 1)]
    return [
        [(start, min(start + batch, last)) for start in range(first, last, batch)]
        for first, last in pairwise(bounds)
        if first < last
    ]


def trained_steps(sampler: Sampler, config: PPOConfig, generator: torch.Generator) -> list[int]:
    """The denoising steps that a round trains on: a random `timestep_fraction` of those before the last `skip_last`.

    Steps without noise are left out, because they have no log-probability. Some schedules end with such a step.
    """
    steps = len(sampler.timesteps)
    usable = max(1, min(steps - config.skip_last, int((sampler.std > 0).sum())))
    taken = max(1, round(config.timestep_fraction * usable))
    return torch.randperm(usable, generator=generator)[:taken].tolist()


def update(
    policy: Denoiser,
    rollout: Rollout,
    advantages: Tensor,
    sampler: Sampler,
    batches: list[tuple[int, int]],
    steps: list[int],
    *,
    guidance: float,
    clip: float,
    kl: float,
) -> dict[str, float]:
    """Compute the gradient of one optimizer step. Returns the loss and other metrics, as means over its pictures."""
    sums = torch.zeros(4)
    pictures = batches[-1][1] - batches[0][0]
    for start, stop in batches:
        share = (stop - start) / (pictures * len(steps))
        conditioning = policy.embed(rollout.prompts[start:stop])
        for step in steps:
            before, after = rollout.latents[start:stop, step], rollout.latents[start:stop, step + 1]
            here = torch.full((stop - start,), step, device=policy.device)
            mean = step_mean(policy, sampler, before, conditioning, here, guidance)
            new, old = sampler.log_prob(after, mean, here), rollout.log_probs[start:stop, step]
            loss, clipped, approximate = ppo_loss(new, old, advantages[start:stop].to(policy.device), clip)
            divergence = torch.zeros((), device=policy.device)
            if kl:
                with policy.reference():
                    reference = step_mean(policy, sampler, before, conditioning, here, guidance)
                divergence = ((mean - reference).square().mean((1, 2, 3)) / (2 * sampler.std[here] ** 2)).mean()
                loss = loss + kl * divergence
            (loss * share).backward()
            sums += share * torch.stack([loss, clipped, approximate, divergence]).detach().cpu()
    return dict(zip(("loss", "clipped", "approximate_kl", "kl"), sums.tolist(), strict=True))


class DDPO(Algorithm):
    """Tunes the policy's LoRA towards a reward, in rounds of drawing, scoring and training.

    `steps` and `guidance` are used for drawing. One random generator chooses the prompts, the noise and the denoising
    steps to train on; its state is part of the checkpoint.
    """

    unit = "round"

    def __init__(
        self,
        policy: Denoiser,
        prompts: list[str],
        reward: PixelReward,
        config: PPOConfig,
        *,
        steps: int,
        guidance: float,
        seed: int,
    ) -> None:
        self.total = config.epochs
        self._policy, self._prompts, self._reward, self._config = policy, prompts, reward, config
        self._guidance = guidance
        self._generator = torch.Generator().manual_seed(seed)
        self._optimizer = torch.optim.AdamW(policy.trainable, lr=config.learning_rate, weight_decay=1e-4)
        self._sampler = open_sampler(policy, steps, config.eta)

    def step(self, number: int) -> dict[str, float]:
        """Draw pictures of some prompts, score them, and train on them. Returns the rewards and the means of `update`.

        Raises `UserError` for a reward that is not finite.
        """
        policy, config, generator = self._policy, self._config, self._generator
        chosen = torch.randperm(len(self._prompts), generator=generator)[: config.prompts_per_epoch].tolist()
        repeated = [self._prompts[index] for index in chosen for _ in range(config.images)]
        parts = spans(len(repeated), config.updates, config.batch)
        batches = [batch for part in parts for batch in part]
        rollout = roll_out(
            policy, repeated, self._reward, self._sampler, batches, guidance=self._guidance, generator=generator
        )
        if not rollout.rewards.isfinite().all():
            raise UserError(
                f"--reward: gave {rollout.rewards[~rollout.rewards.isfinite()][0]:g}, which is not a valid reward"
            )
        advantages = group_advantages(rollout.rewards, config.images, config.advantage_clip)
        trained = trained_steps(self._sampler, config, generator)
        watched: list[dict[str, float]] = []
        for part in parts:
            numbers = update(
                policy,
                rollout,
                advantages,
                self._sampler,
                part,
                trained,
                guidance=self._guidance,
                clip=config.clip,
                kl=config.kl,
            )
            optimizer_step(self._optimizer, policy.trainable, where=f"round {number}")
            watched.append(numbers)
        means = {name: sum(one[name] for one in watched) / len(watched) for name in watched[0]}
        std = rollout.rewards.view(-1, config.images).std(1).mean()
        return {"reward": float(rollout.rewards.mean()), "reward_std": float(std), **means}

    def state_dict(self) -> dict[str, Any]:
        """The LoRA, the optimizer, the random state."""
        return {
            "lora": self._policy.lora(),
            "optimizer": self._optimizer.state_dict(),
            "random": random_state(self._generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises `ValueError` for the state of another run."""
        self._policy.set_lora(state["lora"])
        restore_optimizer(self._optimizer, state["optimizer"])
        restore_random_state(state["random"], self._generator)
