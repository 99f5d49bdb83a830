"""Training a reward model on preference pairs.

The loss is that of the paper (section 4.1): the Bradley-Terry likelihood of the preferred picture. What the paper does
not say follows ImageReward (Xu et al. 2023, section 4.1): the lower part of both towers is frozen, and the learning
rate decays as a cosine. One thing differs: there is no new five-layer head, because its published initialisation gives
gradients below the optimizer's epsilon. The backbone's own matching head is trained instead, so the model can compare
prompt and picture from the start.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..configs import RewardModelConfig
from ..flow import ahead
from ..models.reward import RewardModel
from ..models.tensors import same_layout
from .loop import Algorithm
from .run import optimizer_step, random_state, restore_optimizer, restore_random_state


class PromptPairs(NamedTuple):
    """All pairs of one prompt. A pair has the places in `pictures` of its chosen and its rejected picture."""

    prompt: str
    pictures: list[int]
    pairs: list[tuple[int, int]]


Load = Callable[[list[int]], Tensor]
"""Normalised pixels (B, 3, H, W) of pictures by number."""


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """−log σ(chosen − rejected), mean over pairs; both are raw rewards (B,). Equation 1 of the paper."""
    return -F.logsigmoid(chosen - rejected).mean()


def cosine_decay(peak: float, step: int, total: int) -> float:
    """The learning rate after `step` of `total` steps: `peak` at the beginning, 0 after the last, half of a cosine."""
    return peak * 0.5 * (1 + math.cos(math.pi * step / total))


def correctness(margins: Tensor) -> Tensor:
    """For every pair, 1 if its margin (P,) is above zero, 0.5 if it is zero, else 0: a tie is half correct."""
    return (margins > 0).float() + 0.5 * (margins == 0).float()


class Measured(NamedTuple):
    """Measurements on some pairs: mean loss and accuracy, and mean and std of the rewards."""

    loss: float
    accuracy: float
    mean: float
    std: float


def rewards_of(model: RewardModel, groups: list[PromptPairs], pixels: Tensor, device: torch.device) -> Tensor:
    """Rewards (N,) of all pictures of the groups. `pixels` (N, 3, H, W) are in the same order."""
    prompts = [group.prompt for group in groups for _ in group.pictures]
    tokens = {name: value.to(device) for name, value in model.tokens(prompts).items()}
    rewards: Tensor = model(pixels.to(device), **tokens)
    return rewards.float()


def preferences(groups: list[PromptPairs]) -> tuple[Tensor, Tensor]:
    """Places of chosen and rejected pictures, each (P,), among all pictures of the groups."""
    chosen, rejected, offset = [], [], 0
    for group in groups:
        chosen += [offset + better for better, _ in group.pairs]
        rejected += [offset + worse for _, worse in group.pairs]
        offset += len(group.pictures)
    return torch.tensor(chosen), torch.tensor(rejected)


def batches(groups: list[PromptPairs], size: int, load: Load) -> Iterator[tuple[list[PromptPairs], Tensor]]:
    """The groups, `size` prompts at a time, with their pixels. The next batch is loaded during the work on this one."""
    parts = [groups[start : start + size] for start in range(0, len(groups), size)]
    return ahead((part, load(_pictures(part))) for part in parts)


def _pictures(groups: list[PromptPairs]) -> list[int]:
    return [number for group in groups for number in group.pictures]


@torch.inference_mode()
def rewarded(
    model: RewardModel, groups: list[PromptPairs], load: Load, batch: int, device: torch.device
) -> Iterator[tuple[list[PromptPairs], Tensor]]:
    """The groups in batches with their pictures' rewards (N,), on the CPU."""
    for part, pixels in batches(groups, batch, load):
        yield part, rewards_of(model, part, pixels, device).float().cpu()


def measure(model: RewardModel, groups: list[PromptPairs], load: Load, batch: int, device: torch.device) -> Measured:
    """Measure the model on some pairs. A pair with equal rewards counts as half correct."""
    margins, every = [], []
    for part, rewards in rewarded(model, groups, load, batch, device):
        chosen, rejected = preferences(part)
        margins.append(rewards[chosen] - rewards[rejected])
        every.append(rewards)
    margin, flat = torch.cat(margins), torch.cat(every)
    right = float(correctness(margin).mean())
    return Measured(float(-F.logsigmoid(margin).mean()), right, float(flat.mean()), float(flat.std()))


def correct(
    model: RewardModel, groups: list[PromptPairs], load: Load, batch: int, device: torch.device
) -> list[tuple[float, str]]:
    """For every pair, its `correctness` and its prompt."""
    found = []
    for part, rewards in rewarded(model, groups, load, batch, device):
        chosen, rejected = preferences(part)
        right = correctness(rewards[chosen] - rewards[rejected])
        prompts = [group.prompt for group in part for _ in group.pairs]
        found += list(zip(right.tolist(), prompts, strict=True))
    return found


class Kept(NamedTuple):
    """The epoch whose weights were kept, of the `epochs` that were done; with its measurements on validation pairs.

    `loss` and `accuracy` are None if there were no validation pairs: then the last epoch is kept.
    """

    epoch: int
    epochs: int
    loss: float | None = None
    accuracy: float | None = None


class BradleyTerry(Algorithm):
    """Trains a reward model in place. With validation pairs, the weights of the best epoch are kept.

    A step uses `batch` × `accumulate` prompts with all their pairs. Each picture goes through the model once, even if
    it is in many pairs.
    """

    def __init__(
        self,
        model: RewardModel,
        groups: list[PromptPairs],
        validation: list[PromptPairs],
        load: Load,
        config: RewardModelConfig,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self._model, self._groups, self._validation, self._load = model, groups, validation, load
        self._batch, self._together, self._device = config.batch, config.batch * config.accumulate, device
        self._per_epoch = steps_per_epoch(len(groups), config)
        self.total = total = config.epochs * self._per_epoch
        self._patience = config.patience or config.epochs
        self._generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self._trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
        self._learning_rate = [cosine_decay(config.learning_rate, step, total) for step in range(total)]
        self._dtype = None if config.dtype == "float32" else getattr(torch, config.dtype)
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.dtype == "float16")
        self._best: dict[str, Any] = {"epoch": 0, "loss": math.inf, "accuracy": 0.0, "weights": {}}
        self._order = torch.empty(0, dtype=torch.long)
        self._batches: Iterator[tuple[list[PromptPairs], Tensor]] | None = None
        model.train()

    def step(self, number: int) -> dict[str, float]:
        """Do one optimizer step on the next prompts. Returns the mean loss and accuracy of their pairs.

        The loss is the mean over all pairs of the step, in however many forward passes they are.
        """
        groups, passes = self._next(number)
        pairs = sum(len(group.pairs) for group in groups)
        loss = right = 0.0
        for part, pixels in passes:
            with self._in_precision():
                rewards = rewards_of(self._model, part, pixels, self._device)
            chosen, rejected = preferences(part)
            share = len(chosen) / pairs
            partial = bradley_terry_loss(rewards[chosen], rewards[rejected]) * share
            self._scaler.scale(partial).backward()
            loss += partial.item()
            right += float(correctness(rewards[chosen] - rewards[rejected]).mean()) * share
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate[number - 1]
        optimizer_step(self._optimizer, self._trainable, where=f"step {number}", scaler=self._scaler)
        scale = {"loss_scale": self._scaler.get_scale()} if self._scaler.is_enabled() else {}
        return {"loss": loss, "accuracy": right, **scale}

    def _in_precision(self) -> torch.autocast:
        """A context in which the model computes in the precision of `--dtype`. Its weights stay in float32."""
        return torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None)

    def _next(self, number: int) -> tuple[list[PromptPairs], Iterator[tuple[list[PromptPairs], Tensor]]]:
        """The prompts of a step, and the same in batches with their pixels. The next batches are loaded meanwhile."""
        done = (number - 1) % self._per_epoch
        if done == 0:
            self._order = torch.randperm(len(self._groups), generator=self._generator)
        left = [self._groups[index] for index in self._order[done * self._together :].tolist()]
        if done == 0 or self._batches is None:
            self._batches = batches(left, self._batch, self._load)
        groups = left[: self._together]
        return groups, islice(self._batches, -(-len(groups) // self._batch))

    def validate(self, number: int) -> dict[str, float]:
        """Loss and accuracy on the validation pairs after the last step of an epoch; empty after other steps.

        Ends the training if `patience` epochs in a row had no lower loss.
        """
        if number == 0 or number % self._per_epoch or not self._validation:
            return {}
        self._model.eval()
        with self._in_precision():
            measured = measure(self._model, self._validation, self._load, self._batch, self._device)
        self._model.train()
        epoch = number // self._per_epoch
        if measured.loss < self._best["loss"]:
            weights = copy.deepcopy(self._model.state_dict())
            self._best = {"epoch": epoch, "loss": measured.loss, "accuracy": measured.accuracy, "weights": weights}
        elif epoch - self._best["epoch"] >= self._patience:
            self.total = number
        return {"validation_loss": measured.loss, "validation_accuracy": measured.accuracy}

    def finish(self) -> Kept:
        """Make the model ready for use, with the best weights if there were validation pairs. Says which were kept."""
        epochs = self.total // self._per_epoch
        self._model.eval()
        if not self._validation:
            return Kept(epochs, epochs)
        self._model.load_state_dict(self._best["weights"])
        return Kept(self._best["epoch"], epochs, self._best["loss"], self._best["accuracy"])

    def state_dict(self) -> dict[str, Any]:
        """The model, its best weights, the order of the epoch, the optimizer, the scaler, the random state."""
        return {
            "total": self.total,
            "model": self._model.state_dict(),
            "best": self._best,
            "order": self._order,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "random": random_state(self._generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises `ValueError` for the state of another run."""
        self._order, self._best = state["order"], state["best"]
        if self._order.sort().values.tolist() != list(range(len(self._groups))):
            raise ValueError("an order of other prompts")
        best = self._best
        if not best["loss"] <= math.inf or (best["weights"] and not same_layout(best["weights"], state["model"])):
            raise ValueError("weights of another model")
        if not 0 < state["total"] <= self.total:
            raise ValueError("a training of another length")
        self.total = state["total"]
        self._model.load_state_dict(state["model"])
        restore_optimizer(self._optimizer, state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        restore_random_state(state["random"], self._generator)


def steps_per_epoch(prompts: int, config: RewardModelConfig) -> int:
    """Optimizer steps in one pass over this number of prompts; the last may be smaller."""
    return -(-prompts // (config.batch * config.accumulate))
