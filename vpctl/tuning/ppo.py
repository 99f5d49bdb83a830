"""DDPO (Black et al. 2024, arXiv 2305.13301): policy gradients with a clipped ratio through the denoising steps.

Departures from the released code: latents are rounded to what is stored before their log-probability is taken, so that
the ratio is exactly 1 before the first update; rewards are compared within the pictures of one prompt, which are drawn
together, instead of with those of earlier rounds; the last steps, whose noise is next to none, are left out.
"""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..configs import PPOConfig
from ..errors import UserError
from ..models.denoiser.sd import Policy
from .rollout import Reward, Rollout, predicted_mean, roll_out
from .run import Run, descend, random_state, restore_optimizer, restore_random_state
from .sampler import Coefficients, coefficients, log_probability


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


def spans(pictures: int, updates: int, batch: int) -> list[list[tuple[int, int]]]:
    """The pictures of a round, from and to, as they go through the model: a list of batches for each optimizer step.

    Drawing and training use the same ones, so that the same numbers come out; which pictures make up a step does not
    depend on the size of the batches.
    """
    bounds = [round(number * pictures / updates) for number in range(updates + 1)]
    return [
        [(start, min(start + batch, last)) for start in range(first, last, batch)]
        for first, last in pairwise(bounds)
        if first < last
    ]


def trained_steps(table: Coefficients, config: PPOConfig, chance: torch.Generator) -> list[int]:
    """Which denoising steps a round trains on: `timestep_fraction` of those before the last `skip_last`, by lot.

    A last step without any noise, as some schedules have it, has no density to train on.
    """
    steps = len(table.timesteps)
    usable = max(1, min(steps - config.skip_last, int((table.deviation > 0).sum())))
    taken = max(1, round(config.timestep_fraction * usable))
    return torch.randperm(usable, generator=chance)[:taken].tolist()


def update(
    policy: Policy,
    rollout: Rollout,
    advantages: Tensor,
    table: Coefficients,
    batches: list[tuple[int, int]],
    steps: list[int],
    *,
    guidance: float,
    clip: float,
    kl: float,
) -> dict[str, float]:
    """Gather the gradient of one optimizer step; returns its loss and what is to be watched, mean over its pictures."""
    sums = torch.zeros(4)
    pictures = batches[-1][1] - batches[0][0]
    for start, stop in batches:
        share = (stop - start) / (pictures * len(steps))
        embedded = policy.embed(rollout.prompts[start:stop])
        for step in steps:
            before, after = rollout.latents[start:stop, step], rollout.latents[start:stop, step + 1]
            deviation = table.deviation[step].expand(stop - start)
            mean = predicted_mean(policy, before, embedded, table, step, guidance)
            new, old = log_probability(after, mean, deviation), rollout.log_probabilities[start:stop, step]
            loss, clipped, approximate = ppo_loss(new, old, advantages[start:stop].to(policy.device), clip)
            divergence = torch.zeros((), device=policy.device)
            if kl:
                with policy.reference():
                    reference = predicted_mean(policy, before, embedded, table, step, guidance)
                divergence = ((mean - reference).square().mean((1, 2, 3)) / (2 * deviation**2)).mean()
                loss = loss + kl * divergence
            (loss * share).backward()
            sums += share * torch.stack([loss, clipped, approximate, divergence]).detach().cpu()
    return dict(zip(("loss", "clipped", "approximate_kl", "kl"), sums.tolist(), strict=True))


def one_round(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    prompts: list[str],
    reward: Reward,
    table: Coefficients,
    config: PPOConfig,
    *,
    guidance: float,
    chance: torch.Generator,
    where: str,
) -> dict[str, float]:
    """Draw, score and train on the pictures of some of the prompts; returns what is to be logged."""
    chosen = torch.randperm(len(prompts), generator=chance)[: config.prompts_per_epoch].tolist()
    repeated = [prompts[index] for index in chosen for _ in range(config.images)]
    parts = spans(len(repeated), config.updates, config.batch)
    batches = [batch for part in parts for batch in part]
    rollout = roll_out(policy, repeated, reward, table, batches, guidance=guidance, chance=chance)
    if not rollout.rewards.isfinite().all():
        raise UserError(
            f"--reward: gave {rollout.rewards[~rollout.rewards.isfinite()][0]:g}, which is not a valid reward"
        )
    advantages = advantages_within(rollout.rewards, config.images, config.advantage_clip)
    trained = trained_steps(table, config, chance)
    watched: list[dict[str, float]] = []
    for part in parts:
        numbers = update(
            policy,
            rollout,
            advantages,
            table,
            part,
            trained,
            guidance=guidance,
            clip=config.clip,
            kl=config.kl,
        )
        descend(optimizer, policy.trainable, where=where)
        watched.append(numbers)
    means = {name: sum(one[name] for one in watched) / len(watched) for name in watched[0]}
    deviation = rollout.rewards.view(-1, config.images).std(1).mean()
    return {"reward": float(rollout.rewards.mean()), "reward_deviation": float(deviation), **means}


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
) -> None:
    """Tune the policy's LoRA towards the reward, from where `run` left off, and log every round.

    Prompts, noise and what is trained on come from one generator, whose state is in the checkpoint. A round is long: an
    interrupt does not wait for its end, and saves the state of its beginning.
    """
    chance = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(policy.trainable, lr=config.learning_rate, weight_decay=1e-4)
    table = coefficients(policy.scheduler, steps, config.eta, policy.device)
    if run.resumes:
        with run.restoring() as state:
            policy.set_lora(state["lora"])
            restore_optimizer(optimizer, state["optimizer"])
            restore_random_state(state["random"], chance)
    elif config.preview_every:
        preview(0)

    def now() -> dict[str, Any]:
        return {"lora": policy.lora(), "optimizer": optimizer.state_dict(), "random": random_state(chance)}

    with run.training(config.epochs, "round"):
        for epoch in range(run.step + 1, config.epochs + 1):
            before = copy.deepcopy(now())
            try:
                with run.interruptible():
                    numbers = one_round(
                        policy,
                        optimizer,
                        prompts,
                        reward,
                        table,
                        config,
                        guidance=guidance,
                        chance=chance,
                        where=f"round {epoch}",
                    )
            except KeyboardInterrupt:
                if run.step > run.saved:
                    run.save(run.step, before)
                raise
            run.log(epoch, **numbers)
            if config.preview_every and epoch % config.preview_every == 0:
                preview(epoch)
            run.finished(epoch)
            if run.due(config.save_every):
                run.save(epoch, now())
