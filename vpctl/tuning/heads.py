"""The heads of a reward model in training: functions from the features of a picture and its prompt to numbers.

A folder of transformers holds one reward. A head of several layers without activations is one affine function (but for
its dropout), so at the end it is written into the backbone's own matching head. Then nothing but transformers is needed
to use it. The heads that are trained beside the overall one are written to a file of their own.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..models.layouts import affine
from ..models.reward import RewardModel

HEADS_FILE = "heads.safetensors"
LOG_STD = "log_std"
"""The name of the head for the logarithm of the reward's standard deviation, beside those of the aspects."""
_WIDTHS, _DROPOUT = (1024, 128, 64, 16, 1), (0.2, 0.2, 0.1, 0.0)
"""ImageReward's head: the outputs of its layers, and the dropout after each of them but the last."""


class HeadOutputs(NamedTuple):
    """Of N pictures: rewards (N,), rewards by aspect (N, A), and variances of the rewards (N,)."""

    rewards: Tensor
    aspects: Tensor
    variances: Tensor


class Heads(nn.Module):
    """The overall head, and one more for each aspect and, with `uncertain`, for the deviation of the reward.

    `head` is ``matching`` for the backbone's own head, and ``mlp`` for five new layers. Random weights come from
    torch's own generator. A head of an aspect begins as a copy of the overall one; the deviation begins as 1.
    """

    def __init__(self, model: RewardModel, *, head: str, aspects: Sequence[str], uncertain: bool) -> None:
        super().__init__()
        self.aspects = [*aspects]
        self.names = [*aspects, *([LOG_STD] if uncertain else [])]
        self.mlp: nn.Sequential | None = None
        weight, bias = model.affine()
        if head == "mlp":
            self.mlp = five_layers(weight.numel())
            weight, bias = collapsed(self.mlp)
        self.more = nn.Linear(weight.numel(), len(self.names)) if self.names else None
        if self.more:
            with torch.no_grad():
                self.more.weight.copy_(weight.detach().expand(len(self.names), -1))
                self.more.bias.copy_(bias.detach().expand(len(self.names)))
                self.more.weight[len(aspects) :] = 0
                self.more.bias[len(aspects) :] = 0

    def forward(self, model: RewardModel, features: Tensor) -> HeadOutputs:
        """The outputs for features (N, D) of the model."""
        rewards = self.mlp(features)[:, 0] if self.mlp else model.reward(features)
        more = self.more(features) if self.more else features.new_zeros(len(features), 0)
        logs = more[:, len(self.aspects) :].sum(1)
        deviations = logs.exp() if len(self.names) > len(self.aspects) else torch.zeros_like(rewards)
        return HeadOutputs(rewards, more[:, : len(self.aspects)], deviations**2)

    def fold(self, model: RewardModel) -> None:
        """Write the new overall head, if there is one, into the model, which then gives the same rewards."""
        if self.mlp:
            model.set_affine(*collapsed(self.mlp))

    def save(self, folder: Path) -> None:
        """Write the heads beside the overall one to a file: `weight` (A, D), `bias` (A,) and, as metadata, `names`."""
        if self.more:
            tensors = {"weight": self.more.weight.detach().cpu(), "bias": self.more.bias.detach().cpu()}
            save_file(tensors, folder / HEADS_FILE, {"names": json.dumps(self.names)})


def five_layers(width: int) -> nn.Sequential:
    """ImageReward's head for features of this width: five affine layers with dropout between them, no activations.

    ImageReward draws all weights with a standard deviation of 1 / (width + 1). Each layer then makes its input up to
    two hundred times smaller, and no gradient reaches the first. Here the deviation is 1 / √inputs: every layer keeps
    the size of its input.
    """
    layers: list[nn.Module] = []
    for inputs, outputs, dropout in zip((width, *_WIDTHS), _WIDTHS, (*_DROPOUT, 0.0), strict=False):
        layer = nn.Linear(inputs, outputs)
        nn.init.normal_(layer.weight, std=inputs**-0.5)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.Dropout(dropout)] if dropout else [layer]
    return nn.Sequential(*layers)


@torch.no_grad()
def collapsed(layers: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Weight (D,) and bias () of the one affine function that these layers are without their dropout."""
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    weight, bias = affine([(layer.weight.cpu(), layer.bias.cpu()) for layer in linear])
    return weight[0].float(), bias[0].float()
