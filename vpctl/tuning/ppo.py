"""DDPO (Black et al. 2024, arXiv 2305.13301): policy gradients with a clipped ratio through the denoising steps.

Departures from the released code: latents are rounded to what is stored before their log-probability is taken, so that
the ratio is exactly 1 before the first update; rewards are compared within the pictures of one prompt, which are drawn
together, instead of with those of earlier rounds; the last steps, whose noise is next to none, are left out.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..configs import PPOConfig
from .policy import Coefficients, Policy, coefficients, log_probability, step_mean
from .run import Run, random_state, restore_random_state

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


def advantages_within(rewards: Tensor, group: int, limit: float) -> Tensor:
    """How much better each picture is than the others of its prompt: (B,), B = prompts × `group`, clamped to ± `limit`.

    Less the mean of the prompt's own pictures, over the deviation of all pictures about these means: a prompt whose
    pictures are all alike then says little, and is not blown up to say as much as any other.
    """
    grouped = rewards.double().view(-1, group)
    centred = grouped - grouped.mean(1, keepdim=True)
    return (centred / (centred.square().mean().sqrt() + 1e-6)).clamp(-limit, limit).flatten().float()


@torch.no_grad()
def roll_out(
    policy: Policy,
    prompts: list[str],
    reward: Reward,
    table: Coefficients,
    *,
    batch: int,
    guidance: float,
    chance: torch.Generator,
) -> Rollout:
    """Draw one picture a prompt with the policy as it is, and have it scored."""
    unet = policy.pipe.unet.config
    shape = (unet.in_channels, unet.sample_size, unet.sample_size)
    trails, densities, rewards = [], [], []
    for start in range(0, len(prompts), batch):
        texts = prompts[start : start + batch]
        embedded = policy.embed(texts)
        trail = [torch.randn((len(texts), *shape), generator=chance).to(policy.device)]
        density = []
        for step in range(len(table.timesteps)):
            mean = _mean(policy, trail[-1], embedded, table, step, guidance)
            after = mean + table.deviation[step] * torch.randn(mean.shape, generator=chance).to(policy.device)
            density.append(log_probability(after, mean, table.deviation[step].expand(len(texts))))
            trail.append(after)
        trails.append(torch.stack(trail, 1))
        densities.append(torch.stack(density, 1))
        rewards.append(reward(policy.decode(trail[-1]), texts).float().cpu())
    return Rollout(prompts, torch.cat(trails), torch.cat(densities), torch.cat(rewards))


def _mean(policy: Policy, latents: Tensor, embedded: Tensor, table: Coefficients, step: int, guidance: float) -> Tensor:
    index = torch.full((len(latents),), step, device=policy.device)
    predicted = policy.predict(latents, table.timesteps[index], embedded, guidance)
    return step_mean(predicted, latents, table, index, policy.prediction_type)


class Job(NamedTuple):
    """A forward pass of training: pictures `start` to `stop` of a rollout at one of their denoising steps.

    These are the pictures of one forward pass of drawing, so that the same numbers come out of it again.
    """

    start: int
    stop: int
    step: int


def jobs(pictures: int, batch: int, steps: int, config: PPOConfig, chance: torch.Generator) -> list[list[Job]]:
    """What is trained on in a round, in random order: a list for each optimizer step.

    Every batch of pictures at a random `timestep_fraction` of its steps, the last `skip_last` of which do not count.
    """
    usable = max(1, steps - config.skip_last)
    taken = max(1, round(config.timestep_fraction * usable))
    every = [
        Job(start, min(start + batch, pictures), step)
        for start in range(0, pictures, batch)
        for step in torch.randperm(usable, generator=chance)[:taken].tolist()
    ]
    shuffled = [every[index] for index in torch.randperm(len(every), generator=chance).tolist()]
    return [part for part in (shuffled[number :: config.updates] for number in range(config.updates)) if part]


def update(
    policy: Policy,
    rollout: Rollout,
    advantages: Tensor,
    table: Coefficients,
    part: list[Job],
    config: PPOConfig,
    guidance: float,
) -> dict[str, float]:
    """Gather the gradient of one optimizer step; returns its loss and what is to be watched, mean over the jobs."""
    sums = torch.zeros(4)
    for start, stop, step in part:
        before, after = rollout.latents[start:stop, step], rollout.latents[start:stop, step + 1]
        embedded = policy.embed(rollout.prompts[start:stop])
        deviation = table.deviation[step].expand(stop - start)
        mean = _mean(policy, before, embedded, table, step, guidance)
        new, old = log_probability(after, mean, deviation), rollout.log_probabilities[start:stop, step]
        loss, clipped, approximate = ppo_loss(new, old, advantages[start:stop].to(policy.device), config.clip)
        divergence = torch.zeros(())
        if config.kl:
            with policy.reference():
                reference = _mean(policy, before, embedded, table, step, guidance)
            divergence = ((mean - reference).square().mean((1, 2, 3)) / (2 * deviation**2)).mean()
            loss = loss + config.kl * divergence
        (loss / len(part)).backward()
        sums += torch.stack([loss.detach(), clipped, approximate.detach(), divergence.detach()]).cpu()
    names = ("loss", "clipped", "approximate_kl", "kl")
    return dict(zip(names, (sums / len(part)).tolist(), strict=True))


def train(
    policy: Policy,
    prompts: list[str],
    reward: Reward,
    config: PPOConfig,
    run: Run,
    *,
    steps: int,
    guidance: float,
    seed: int,
    preview: Callable[[int], None],
    advance: Callable[[], None],
) -> None:
    """Tune the policy's LoRA towards the reward, from where `run` left off, and log every round.

    Prompts, noise and what is trained on come from one generator, whose state is in the checkpoint.
    """
    chance = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(policy.trainable, lr=config.learning_rate, weight_decay=1e-4)
    table = coefficients(policy.scheduler, steps, config.eta, policy.device)
    start = 0
    if run.state:
        start = run.state["step"]
        policy.set_lora(run.state["lora"])
        optimizer.load_state_dict(run.state["optimizer"])
        restore_random_state(run.state["random"], chance)
    else:
        preview(0)
    for epoch in range(start + 1, config.epochs + 1):
        chosen = torch.randperm(len(prompts), generator=chance)[: config.prompts_per_epoch].tolist()
        repeated = [prompts[index] for index in chosen for _ in range(config.images)]
        rollout = roll_out(policy, repeated, reward, table, batch=config.batch, guidance=guidance, chance=chance)
        advantages = advantages_within(rollout.rewards, config.images, config.advantage_clip)
        watched: list[dict[str, float]] = []
        for part in jobs(len(repeated), config.batch, steps, config, chance):
            watched.append(update(policy, rollout, advantages, table, part, config, guidance))
            torch.nn.utils.clip_grad_norm_(policy.trainable, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        means = {name: sum(one[name] for one in watched) / len(watched) for name in watched[0]}
        deviation = rollout.rewards.view(-1, config.images).std(1).mean()
        run.log(epoch, reward=float(rollout.rewards.mean()), reward_deviation=float(deviation), **means)
        if config.preview_every and epoch % config.preview_every == 0:
            preview(epoch)
        if epoch % config.save_every == 0 and epoch < config.epochs:
            run.save(
                epoch,
                {"lora": policy.lora(), "optimizer": optimizer.state_dict(), "random": random_state(chance)},
            )
        advance()
