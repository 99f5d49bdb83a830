"""The rewards that a tuning increases, each with a weight."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeGuard

import torch
from torch import Tensor

from .. import plugins
from ..contracts import WITHOUT_GRADIENT, Reward
from ..errors import UserError
from ..judging.reward import JudgeReward, counted
from ..models.devices import World
from ..models.scoring import compute_scores
from ..models.tensors import to_pictures
from .advantages import group_advantages, win_rates

MOST_UNSCORED = 0.5
"""Maximum share of pictures to which a judge gives no score. Above it, what is left says too little."""


class Objective:
    """R rewards with their weights (R,), in the order of `names`.

    The rewards stay apart until each of them is normalised: the scale of a reward says nothing about its importance,
    only its weight does.
    """

    def __init__(self, rewards: Mapping[str, Reward], weights: Mapping[str, float]) -> None:
        self.names = [*rewards]
        self.weights = torch.tensor([weights[name] for name in self.names], dtype=torch.float64)
        self._rewards = rewards

    def score(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """The rewards (B, R) of pixels (B, 3, H, W) in [0, 1], in float64, on the CPU. See `begin`."""
        return self.begin(pixels, prompts)()

    @torch.no_grad()
    def begin(self, pixels: Tensor, prompts: list[str]) -> Callable[[], Tensor]:
        """Compute the rewards of pixels (B, 3, H, W) in [0, 1], and begin to ask the judges.

        The function that is returned waits for the judges, and returns the rewards (B, R), in float64, on the CPU. A
        picture that a judge gave no score has NaN. Pictures are rounded to 8 bits, so the rewards are those of the
        saved files. Raises `UserError` for a reward that is not finite.
        """
        pictures = to_pictures(pixels)
        waiting = {name: one.begin(pictures, prompts) for name, one in self._rewards.items() if is_judge(one)}
        others = {name: one for name, one in self._rewards.items() if not is_judge(one)}
        scores = compute_scores(others, dict.fromkeys(others, pictures), prompts)

        def rewards() -> Tensor:
            columns = {**scores, **{name: wait() for name, wait in waiting.items()}}
            values = torch.tensor([columns[name] for name in self.names], dtype=torch.float64).T
            self._check_finite(values)
            return values

        return rewards

    def score_with_gradients(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """The rewards (B, R) of pixels (B, 3, H, W) in [0, 1], in float32. Gradients flow to the pixels.

        Raises `UserError` for a reward that has no gradient, or is not finite.
        """
        columns = []
        for name, reward in self._rewards.items():
            with plugins.blamed("reward", name):
                given = reward(pixels, prompts)
            if not isinstance(given, Tensor) or given.shape != (len(prompts),):
                raise plugins.contract_error("reward", name, given)
            if not given.requires_grad:
                raise UserError(f"--reward {name}: {WITHOUT_GRADIENT}")
            columns.append(given.to(pixels.device, torch.float32))
        values = torch.stack(columns, 1)
        self._check_finite(values.detach())
        return values

    def advantages(self, rewards: Tensor, group: int, limit: float, *, deviation: str = "round") -> Tensor:
        """The advantages (B,) of rewards (B, R), B = prompts × `group`; see `group_advantages`.

        The scores of a judge count as win rates. A picture that it gave no score has no advantage by it.
        """
        columns = [
            win_rates(column, group) if is_judge(self._rewards[name]) else column
            for name, column in zip(self.names, rewards.T, strict=True)
        ]
        return group_advantages(torch.stack(columns, 1), group, limit, self.weights, deviation=deviation)

    def check_scored(self, rewards: Tensor, where: str, world: World) -> None:
        """Raise `UserError` if a judge gave too few of the pictures with these rewards (B, R) a score.

        The rewards are those of all processes of the `world`, and all of them must call this.
        """
        for name, column in zip(self.names, rewards.T, strict=True):
            if not is_judge(judge := self._rewards[name]):
                continue
            counts, reason = judge.take_faults()
            every = world.gather(torch.tensor(counts)).sum(0).tolist()
            if (lacking := int(column.isnan().sum())) > MOST_UNSCORED * len(column):
                first = f"; the first: {reason}" if reason else ""
                raise UserError(
                    f"--reward {name}: gave {lacking} of {len(column)} pictures no score, {where}: {counted(every)}"
                    f"{first}; take another judge, or run the same command again, which asks again about all but the "
                    "refused pictures"
                )

    def metrics(self, rewards: Tensor, group: int) -> dict[str, float]:
        """Metrics of rewards (B, R), B = prompts × `group`. A picture without a score is an average of its prompt.

        `reward` is the mean of the weighted sum, and `reward_std` the mean of its std within a prompt. Of several
        rewards, each has its mean. `equal_groups` is the share of prompts whose pictures all have the same reward;
        nothing can be learnt from them. With judges, `unscored` is the share of pictures that have no score of one of
        them.
        """
        unscored, means = rewards.isnan(), rewards.nanmean(0)
        total = (_filled(rewards, group) @ self.weights).view(-1, group)
        each = {f"reward:{name}": float(mean) for name, mean in zip(self.names, means, strict=True)}
        found = {"reward": float(means @ self.weights), **(each if len(each) > 1 else {})}
        if group > 1:
            found["reward_std"] = float(total.std(1).mean())
            found["equal_groups"] = float((total.max(1).values == total.min(1).values).double().mean())
        if any(map(is_judge, self._rewards.values())):
            found["unscored"] = float(unscored.any(1).double().mean())
        return found

    def check_differentiable(self) -> None:
        """Raise `UserError` if a reward says that it has no gradient."""
        for name, reward in self._rewards.items():
            if not getattr(reward, "differentiable", False):
                raise UserError(f"--reward {name}: {WITHOUT_GRADIENT}")

    def _check_finite(self, values: Tensor) -> None:
        for name, column in zip(self.names, values.T, strict=True):
            finite = column.isfinite()
            if not (finite.all() or is_judge(self._rewards[name])):
                raise UserError(f"--reward {name}: gave {column[~finite][0]:g}, which is not a valid reward")


def _filled(rewards: Tensor, group: int) -> Tensor:
    """The rewards (B, R), with the mean of its own prompt in place of NaN, or of the round if the prompt has none."""
    grouped = rewards.view(-1, group, rewards.shape[1])
    lacking = grouped.isnan()
    low = torch.where(lacking, math.inf, grouped).amin(1, keepdim=True)
    high = torch.where(lacking, -math.inf, grouped).amax(1, keepdim=True)
    own = grouped.nanmean(1, keepdim=True).maximum(low).minimum(high)  # rounding would make equal rewards unequal
    own = torch.where(low <= high, own, rewards.nanmean(0))
    return torch.where(lacking, own, grouped).view_as(rewards)


def is_judge(reward: Reward) -> TypeGuard[JudgeReward]:
    """Whether a reward is an annotator: it is asked in the background, and its scores count as win rates."""
    return isinstance(reward, JudgeReward)


def close_judges(rewards: Iterable[Reward]) -> None:
    """Wait for the running calls of judges, and make no others."""
    for reward in rewards:
        if is_judge(reward):
            reward.close()
