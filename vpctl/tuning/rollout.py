"""Pictures drawn by a policy, with the latents and log-probabilities that its update needs."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.denoiser import Denoiser
from ..models.denoiser.conditioning import Conditioning
from .sampler import Sampler

PixelReward = Callable[[Tensor, list[str]], Tensor]
"""Rewards (B,) of pixels (B, 3, H, W) in [0, 1] and their prompts."""


class Rollout(NamedTuple):
    """B drawn pictures, with their latents and log-probabilities in T steps."""

    prompts: list[str]
    latents: Tensor
    """(B, T + 1, C, H, W), from noise to picture."""
    log_probs: Tensor
    """(B, T), of every step, by the policy that drew the pictures."""
    rewards: Tensor
    """(B,)"""


@torch.no_grad()
def roll_out(
    policy: Denoiser,
    prompts: list[str],
    reward: PixelReward,
    sampler: Sampler,
    batches: list[tuple[int, int]],
    *,
    guidance: float,
    generator: torch.Generator,
) -> Rollout:
    """Draw one picture for each prompt, each from its own noise, and score it."""
    shape = (len(sampler.timesteps) + 1, *policy.latent_shape)
    seeds = torch.randint(2**62, (len(prompts),), generator=generator).tolist()
    trails, log_probs, rewards = [], [], []
    for start, stop in batches:
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds[start:stop]])
        noise = noise.to(policy.device)
        conditioning = policy.embed(prompts[start:stop])
        trail, of_trail = [noise[:, 0]], []
        for step in range(len(sampler.timesteps)):
            steps = torch.full((stop - start,), step, device=policy.device)
            mean = step_mean(policy, sampler, trail[-1], conditioning, steps, guidance)
            trail.append(mean + sampler.std[step] * noise[:, step + 1])
            of_trail.append(sampler.log_prob(trail[-1], mean, steps))
        trails.append(torch.stack(trail, 1))
        log_probs.append(torch.stack(of_trail, 1))
        rewards.append(reward(policy.decode(trail[-1]), prompts[start:stop]).float().cpu())
    return Rollout(prompts, torch.cat(trails), torch.cat(log_probs), torch.cat(rewards))


def step_mean(
    policy: Denoiser, sampler: Sampler, latents: Tensor, conditioning: Conditioning, steps: Tensor, guidance: float
) -> Tensor:
    """Mean (B, C, H, W) of the latents after a step; `steps` (B,) is the step of each sample."""
    predicted = policy.predict(latents, sampler.timesteps[steps], conditioning, guidance)
    return sampler.mean(predicted, latents, steps)
