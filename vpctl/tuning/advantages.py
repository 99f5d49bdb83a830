"""How much better a picture is than the others of its prompt."""

import torch
from torch import Tensor


def win_rates(scores: Tensor, group: int) -> Tensor:
    """The win rate (B,) of each picture against the others of its prompt, B = prompts × `group`, by the `scores` (B,).

    It is 1 against a picture with a lower score, and ½ against one with the same score, as in Pref-GRPO (Wang et al.
    2025, arXiv 2508.20751). Only the order of the scores counts. A picture whose score is NaN is compared with none,
    and its win rate is ½, which is the mean of its prompt.
    """
    grouped = scores.double().view(-1, group)
    known = grouped.isfinite()
    compared = (known[:, :, None] & known[:, None, :]) & ~torch.eye(group, dtype=torch.bool)
    wins = (0.5 + 0.5 * (grouped[:, :, None] - grouped[:, None, :]).nan_to_num().sign()) * compared
    others = compared.sum(2)
    return torch.where(others > 0, wins.sum(2) / others.clamp_min(1), 0.5).flatten()


def group_advantages(
    rewards: Tensor, group: int, limit: float, weights: Tensor | None = None, *, deviation: str = "round"
) -> Tensor:
    """The advantages (B,) of the pictures, B = prompts × `group`, clamped to ± `limit`.

    An advantage is the reward minus the mean reward of the prompt's pictures, divided by the std of these differences
    over all pictures of the round. With the `deviation` ``prompt`` it is divided by the std over the prompt's own
    pictures, as in GRPO (Shao et al. 2024, arXiv 2402.03300): a prompt whose rewards differ only a little has then as
    much weight as any other prompt.

    `rewards` are (B,), or (B, R) for several rewards with `weights` (R,). Each reward has advantages of its own, whose
    weighted sum is divided by its std again, over the same pictures, as in GDPO (Liu et al. 2026, arXiv 2601.05242):
    otherwise the reward with the largest numbers would decide. Rewards that differ by rounding only have advantages
    near 0, also in the sum.
    """
    grouped = rewards.double().view(-1, group, 1 if rewards.ndim == 1 else rewards.shape[1])
    centred = grouped - grouped.mean(1, keepdim=True)
    over = 1 if deviation == "prompt" else (0, 1)
    advantages = centred / (centred.square().mean(over, keepdim=True).sqrt() + 1e-6)
    if weights is not None:
        advantages = advantages @ weights.double()[:, None]
        # Of one reward, the std is its weight. A sum that is much smaller is rounding.
        least = 0.01 * float(weights.abs().sum())
        advantages /= advantages.square().mean(over, keepdim=True).sqrt().clamp_min(least)
    return advantages.clamp(-limit, limit).flatten().float()
