"""The rewards that a tuning increases, each with a weight."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .. import plugins
from ..contracts import WITHOUT_GRADIENT, Reward
from ..errors import UserError
from ..models.scoring import compute_scores
from ..models.tensors import to_pictures


class Objective:
    """R rewards with their weights (R,), in the order of `names`.

    The rewards stay apart until each of them is normalised: the scale of a reward says nothing about its importance,
    only its weight does.
    """

    def __init__(self, rewards: Mapping[str, Reward], weights: Mapping[str, float]) -> None:
        self.names = [*rewards]
        self.weights = torch.tensor([weights[name] for name in self.names], dtype=torch.float64)
        self._rewards = rewards

    @torch.no_grad()
    def score(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """The rewards (B, R) of pixels (B, 3, H, W) in [0, 1], in float64, on the CPU.

        Pictures are rounded to 8 bits, so the rewards are those of the saved files. Raises `UserError` for a reward
        that is not finite.
        """
        pictures = to_pictures(pixels)
        scores = compute_scores(self._rewards, dict.fromkeys(self.names, pictures), prompts)
        values = torch.tensor([scores[name] for name in self.names], dtype=torch.float64).T
        self._check_finite(values)
        return values

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

    def metrics(self, rewards: Tensor, group: int) -> dict[str, float]:
        """Metrics of rewards (B, R), B = prompts × `group`.

        `reward` is the mean of the weighted sum, and `reward_std` the mean of its std within a prompt. Of several
        rewards, each has its mean. `equal_groups` is the share of prompts whose pictures all have the same reward;
        nothing can be learnt from them.
        """
        total = (rewards @ self.weights).view(-1, group)
        each = {f"reward:{name}": float(column.mean()) for name, column in zip(self.names, rewards.T, strict=True)}
        found = {"reward": float(total.mean()), **(each if len(each) > 1 else {})}
        if group > 1:
            found["reward_std"] = float(total.std(1).mean())
            found["equal_groups"] = float((total.max(1).values == total.min(1).values).double().mean())
        return found

    def check_differentiable(self) -> None:
        """Raise `UserError` if a reward says that it has no gradient."""
        for name, reward in self._rewards.items():
            if not getattr(reward, "differentiable", False):
                raise UserError(f"--reward {name}: {WITHOUT_GRADIENT}")

    def _check_finite(self, values: Tensor) -> None:
        for name, column in zip(self.names, values.T, strict=True):
            if not (finite := column.isfinite()).all():
                raise UserError(f"--reward {name}: gave {column[~finite][0]:g}, which is not a valid reward")
