"""Pictures drawn by a policy, with all that its update needs to know of how they came about."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.denoiser.sd import Policy
from .sampler import Coefficients, log_probability, step_mean

Reward = Callable[[Tensor, list[str]], Tensor]
"""Rewards (B,) of pixels (B, 3, H, W) in [0, 1] and their prompts."""


class Rollout(NamedTuple):
    """Drawn pictures and how they came about, B of them in T steps."""

    prompts: list[str]
    latents: Tensor
    """(B, T + 1, C, H, W), from noise to picture."""
    log_probabilities: Tensor
    """(B, T), of every step under the policy that drew."""
    rewards: Tensor
    """(B,)"""


@torch.no_grad()
def roll_out(
    policy: Policy,
    prompts: list[str],
    reward: Reward,
    table: Coefficients,
    batches: list[tuple[int, int]],
    *,
    guidance: float,
    chance: torch.Generator,
) -> Rollout:
    """Draw one picture a prompt with the policy as it is, each from noise of its own, and have it scored."""
    unet = policy.pipe.unet.config
    shape = (len(table.timesteps) + 1, unet.in_channels, unet.sample_size, unet.sample_size)
    seeds = torch.randint(2**62, (len(prompts),), generator=chance).tolist()
    trails, densities, rewards = [], [], []
    for start, stop in batches:
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds[start:stop]])
        noise = noise.to(policy.device)
        embedded = policy.embed(prompts[start:stop])
        trail, density = [noise[:, 0]], []
        for step in range(len(table.timesteps)):
            mean = predicted_mean(policy, trail[-1], embedded, table, step, guidance)
            trail.append(mean + table.deviation[step] * noise[:, step + 1])
            density.append(log_probability(trail[-1], mean, table.deviation[step].expand(stop - start)))
        trails.append(torch.stack(trail, 1))
        densities.append(torch.stack(density, 1))
        rewards.append(reward(policy.decode(trail[-1]), prompts[start:stop]).float().cpu())
    return Rollout(prompts, torch.cat(trails), torch.cat(densities), torch.cat(rewards))


def predicted_mean(
    policy: Policy, latents: Tensor, embedded: Tensor, table: Coefficients, step: int, guidance: float
) -> Tensor:
    """Mean (B, C, H, W) of the latents that a denoising step leads to."""
    index = torch.full((len(latents),), step, device=policy.device)
    predicted = policy.predict(latents, table.timesteps[index], embedded, guidance)
    return step_mean(predicted, latents, table, index, policy.prediction_type)
