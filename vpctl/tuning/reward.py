"""Training a reward model on preference pairs.

The default loss is that of the paper (section 4.1): the Bradley-Terry likelihood of the preferred picture. What the
paper does not say follows ImageReward (Xu et al. 2023, section 4.1): the lower part of both towers is frozen, and the
learning rate decays as a cosine. One thing differs by default: there is no new five-layer head. The backbone's own
matching head is trained instead, so the model can compare prompt and picture from the start.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import BlipForImageTextRetrieval

from ..configs import RewardModelConfig
from ..errors import UserError
from ..flow import ahead
from ..models.attention import fuse
from ..models.devices import World
from ..models.reward import RewardModel
from ..models.tensors import same_layout
from .heads import HeadOutputs, Heads
from .loop import Algorithm
from .losses import LossName, aspect_loss, bradley_terry_loss, loss_of
from .run import loss_scaler, optimizer_step, random_state, restore_optimizer, restore_random_state


class Comparison(NamedTuple):
    """A pair: the places of its chosen and its rejected picture among the pictures of its prompt.

    `margin` is from 0 to 1; 0 is a tie. `aspects` are the margins by aspect, below 0 where the rejected picture is
    better.
    """

    chosen: int
    rejected: int
    margin: float = 1.0
    aspects: Mapping[str, float] = MappingProxyType({})


class PromptPairs(NamedTuple):
    """All pairs of one prompt, and its pictures by number."""

    prompt: str
    pictures: list[int]
    pairs: list[Comparison]


COLLAPSED, COLLAPSED_STEPS = 1e-6, 10
"""A training has collapsed if, in this many steps in a row, `widest_difference` is smaller than this.

ImageReward's head as it is published gives differences of 1e-9, and they stay so, because the gradients are below
Adam's epsilon. A new vision tower may begin like this, but the first step ends it.
"""

Load = Callable[[list[int]], Tensor]
"""Normalised pixels (B, 3, H, W) of pictures by number."""


def cosine_decay(peak: float, step: int, total: int) -> float:
    """The learning rate after `step` of `total` steps: `peak` at the beginning, 0 after the last, half of a cosine."""
    return peak * 0.5 * (1 + math.cos(math.pi * step / total))


def correctness(margins: Tensor) -> Tensor:
    """For every pair, 1 if its margin (P,) is above zero, 0.5 if it is zero, else 0: a tie is half correct."""
    return (margins > 0).float() + 0.5 * (margins == 0).float()


def widest_difference(differences: Tensor, rewards: Tensor) -> float:
    """The largest absolute value in `differences` (P,), relative to that of the `rewards` (N,) if this is above 1."""
    return float(differences.abs().max() / rewards.abs().max().clamp_min(1))


class Measured(NamedTuple):
    """Measurements on some pairs: mean loss and accuracy, and mean and std of the rewards."""

    loss: float
    accuracy: float
    mean: float
    std: float


def features_of(
    model: RewardModel,
    groups: list[PromptPairs],
    pixels: Tensor,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Features (N, D) of all pictures of the groups, in float32. `pixels` (N, 3, H, W) are in the same order.

    With `dtype` the backbone computes in this precision. The heads never do: differences of rewards are small.
    """
    prompts = [group.prompt for group in groups for _ in group.pictures]
    tokens = {name: value.to(device) for name, value in model.tokens(prompts).items()}
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        features = model.pair_features(model.image_features(pixels.to(device)), **tokens)
    return features.float()


def preferences(groups: list[PromptPairs]) -> tuple[Tensor, Tensor]:
    """Places of chosen and rejected pictures, each (P,), among all pictures of the groups."""
    chosen, rejected, offset = [], [], 0
    for group in groups:
        chosen += [offset + pair.chosen for pair in group.pairs]
        rejected += [offset + pair.rejected for pair in group.pairs]
        offset += len(group.pictures)
    return torch.tensor(chosen), torch.tensor(rejected)


def margins(groups: list[PromptPairs]) -> Tensor:
    """The margins (P,) of the groups' pairs."""
    return torch.tensor([pair.margin for group in groups for pair in group.pairs])


def preferred_by_aspect(groups: list[PromptPairs], aspects: Sequence[str]) -> Tensor:
    """For every pair and aspect (P, A): 1 if the chosen picture is better, −1 if the rejected one is, 0 if neither."""
    pairs = [pair for group in groups for pair in group.pairs]
    known = torch.tensor([pair.aspects.get(name, 0.0) for pair in pairs for name in aspects])
    return known.view(len(pairs), len(aspects)).sign()


def batches(groups: list[PromptPairs], size: int) -> list[list[PromptPairs]]:
    """The groups, `size` prompts at a time."""
    return [groups[start : start + size] for start in range(0, len(groups), size)]


def loaded(parts: Iterable[list[PromptPairs]], load: Load) -> Iterator[tuple[list[PromptPairs], Tensor]]:
    """The batches with the inputs of their pictures. The next one is loaded during the work on this one."""
    return ahead((part, load(_pictures(part))) for part in parts)


def _pictures(groups: list[PromptPairs]) -> list[int]:
    return [number for group in groups for number in group.pictures]


@torch.inference_mode()
def rewarded(
    model: RewardModel,
    groups: list[PromptPairs],
    load: Load,
    batch: int,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Iterator[tuple[list[PromptPairs], Tensor]]:
    """The groups in batches with their pictures' rewards (N,), on the CPU."""
    for part, pixels in loaded(batches(groups, batch), load):
        yield part, model.reward(features_of(model, part, pixels, device, dtype)).cpu()


def measure(
    model: RewardModel,
    groups: list[PromptPairs],
    load: Load,
    batch: int,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Measured:
    """Measure the model on some pairs, none of them tied. A pair with equal rewards counts as half correct."""
    differences, every = [], []
    for part, rewards in rewarded(model, groups, load, batch, device, dtype):
        chosen, rejected = preferences(part)
        differences.append(rewards[chosen] - rewards[rejected])
        every.append(rewards)
    difference, flat = torch.cat(differences), torch.cat(every)
    right = float(correctness(difference).mean())
    return Measured(float(bradley_terry_loss(difference).mean()), right, float(flat.mean()), float(flat.std()))


class Kept(NamedTuple):
    """The epoch whose weights were kept, of the `epochs` that were done; with its measurements on validation pairs.

    `loss` and `accuracy` are None if there were no validation pairs: then the last epoch is kept.
    """

    epoch: int
    epochs: int
    loss: float | None = None
    accuracy: float | None = None


class Totals(NamedTuple):
    """What is divided by in a step: the number of its pairs, of its untied pairs, and of those by aspect (A,)."""

    pairs: int
    untied: int
    by_aspect: Tensor


class RewardTraining(Algorithm):
    """Trains a reward model in place. With validation pairs, none of them tied, the weights of the best epoch are kept.

    A step uses `batch` × `accumulate` prompts, with all their pairs, in each process of the `world`. Each picture goes
    through the model once, even if it is in many pairs. `aspects` are those that get a head of their own. The loss of a
    step is the mean of the pairs' losses plus `aspect_weight` × the mean of the aspects' losses. That of an aspect is a
    mean over the pairs that are not tied on it.
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
        world: World,
        aspects: Sequence[str] = (),
    ) -> None:
        self._model, self._groups, self._validation, self._load = model, groups, validation, load
        self._batch, self._world, self._device = config.batch, world, world.device
        self._together = config.batch * config.accumulate * world.size
        self._per_epoch = -(-len(groups) // self._together)
        self.total = total = config.epochs * self._per_epoch
        self._patience = config.patience or config.epochs
        self._largest_norm = config.max_grad_norm
        self._generator = torch.Generator().manual_seed(seed)
        self._seed = seed
        torch.manual_seed(seed)
        if isinstance(model.backbone, BlipForImageTextRetrieval):
            fuse(model.backbone, training=True)
        self._loss = cast(LossName, config.loss)
        self._aspects, self._aspect_weight = aspects, config.aspect_weight
        self.heads = Heads(model, head=config.head, aspects=aspects, uncertain=config.loss == "uncertainty").to(
            world.device
        )
        if self.heads.mlp:
            model.get_submodule("backbone.itm_head").requires_grad_(False)  # the new head is written there at the end
        parameters = (*model.parameters(), *self.heads.parameters())
        self._trainable = [parameter for parameter in parameters if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._trainable, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self._learning_rate = [cosine_decay(config.learning_rate, step, total) for step in range(total)]
        self.dtype = None if config.dtype == "float32" else getattr(torch, config.dtype)
        self._scaler = loss_scaler(world.device, config.dtype)
        self._best: dict[str, Any] = {"epoch": 0, "loss": math.inf, "accuracy": 0.0, "weights": {}, "heads": {}}
        self._collapsed = 0  # steps in a row
        self._order = torch.empty(0, dtype=torch.long)
        self._batches: Iterator[tuple[list[PromptPairs], Tensor]] | None = None
        self._training(True)

    def _training(self, on: bool) -> None:
        """Turn dropout on or off. When it is off, the model has the overall head."""
        self._model.train(on)
        self.heads.train(on)
        if not on:
            self.heads.fold(self._model)

    def step(self, number: int) -> dict[str, float]:
        """Do one optimizer step on the next prompts. Returns its losses, and its accuracy on the pairs without ties.

        The losses are means over the pairs of the step, in however many forward passes they are.
        """
        groups, passes = self._next(number)
        totals = self._totals(groups)
        sums = {"loss": 0.0, "aspect_loss": 0.0, "accuracy": 0.0}
        widest = 0.0
        for place, (part, pixels) in enumerate(passes):
            self._seed_dropout(number, self._world.rank + place * self._world.size)
            features = features_of(self._model, part, pixels, self._device, self.dtype)
            outputs = self.heads(self._model, features)
            chosen, rejected = preferences(part)
            difference = outputs.rewards[chosen] - outputs.rewards[rejected]
            margin = margins(part).to(self._device)
            variance = outputs.variances[chosen] + outputs.variances[rejected]
            overall = loss_of(self._loss, difference, margin, variance).sum() / totals.pairs
            by_aspect = self._aspect_loss(part, outputs, totals)
            self._scaler.scale(overall + self._aspect_weight * by_aspect).backward()
            widest = max(widest, widest_difference(difference.detach(), outputs.rewards.detach()))
            sums["loss"] += overall.item()
            sums["aspect_loss"] += by_aspect.item()
            sums["accuracy"] += float(correctness(difference[margin > 0]).sum()) / max(1, totals.untied)
        names = [*sums]
        every = self._world.gather(torch.tensor([*sums.values(), widest], dtype=torch.float64))
        sums = dict(zip(names, every[:, :-1].sum(0).tolist(), strict=True))
        self._check_collapse(number, float(every[:, -1].max()))
        self._world.sum_gradients(self._trainable)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate[number - 1]
        optimizer_step(
            self._optimizer,
            self._trainable,
            where=f"step {number}",
            largest_norm=self._largest_norm,
            scaler=self._scaler,
        )
        if not self._aspects:
            del sums["aspect_loss"]
        if not totals.untied:
            del sums["accuracy"]
        return {**sums, **({"loss_scale": self._scaler.get_scale()} if self._scaler.is_enabled() else {})}

    def _seed_dropout(self, step: int, place: int) -> None:
        """Let dropout depend on the seed, the step and the place of a batch in it, whichever process computes it."""
        torch.manual_seed(((self._seed + 1) * 1_000_003 + step) * 1_000_003 + place & (1 << 63) - 1)

    def _check_collapse(self, number: int, widest: float) -> None:
        """Raise `UserError` if the rewards have been nearly the same for all pictures of a pair for too many steps.

        `widest` is the largest difference in a pair of this step.
        """
        self._collapsed = self._collapsed + 1 if widest < COLLAPSED else 0
        if self._collapsed == COLLAPSED_STEPS:
            raise UserError(
                f"step {number}: the rewards have collapsed: in {COLLAPSED_STEPS} steps in a row no two pictures of a "
                f"pair differed by more than {widest:.0e}, so nothing is learnt; take another --backbone or --head, "
                "change --learning-rate, or lower --freeze, above all for a new: backbone"
            )

    def _totals(self, groups: list[PromptPairs]) -> Totals:
        margin, preferred = margins(groups), preferred_by_aspect(groups, self._aspects)
        return Totals(len(margin), int((margin > 0).sum()), preferred.abs().sum(0).to(self._device))

    def _aspect_loss(self, part: list[PromptPairs], outputs: HeadOutputs, totals: Totals) -> Tensor:
        """The share of some prompts in the mean loss of the aspects on which the step has untied pairs."""
        chosen, rejected = preferences(part)
        preferred = preferred_by_aspect(part, self._aspects).to(self._device)
        losses = aspect_loss(outputs.aspects[chosen] - outputs.aspects[rejected], preferred).sum(0)
        return (losses / totals.by_aspect.clamp_min(1)).sum() / (totals.by_aspect > 0).sum().clamp_min(1)

    def _next(self, number: int) -> tuple[list[PromptPairs], Iterator[tuple[list[PromptPairs], Tensor]]]:
        """The prompts of a step, and this process's batches of them with their inputs."""
        done = (number - 1) % self._per_epoch
        if done == 0:
            self._order = torch.randperm(len(self._groups), generator=self._generator)
        left = [self._groups[index] for index in self._order[done * self._together :].tolist()]
        if done == 0 or self._batches is None:
            steps = batches(left, self._together)
            self._batches = loaded(chain.from_iterable(map(self._own, steps)), self._load)
        groups = left[: self._together]
        return groups, islice(self._batches, len(self._own(groups)))

    def _own(self, groups: list[PromptPairs]) -> list[list[PromptPairs]]:
        """The batches of a step that this process computes."""
        return batches(groups, self._batch)[self._world.rank :: self._world.size]

    def validate(self, number: int) -> dict[str, float]:
        """Loss and accuracy on the validation pairs after the last step of an epoch; empty after other steps.

        Ends the training if `patience` epochs in a row had no lower loss.
        """
        if number == 0 or number % self._per_epoch or not self._validation:
            return {}
        self._training(False)
        ours = measure(self._model, self._validation, self._load, self._batch, self._device, self.dtype)
        values = torch.tensor(ours, dtype=torch.float64)
        measured = Measured(*self._world.gather(values)[0].tolist())  # one process decides for all of them
        self._training(True)
        epoch = number // self._per_epoch
        if measured.loss < self._best["loss"]:
            weights, heads = copy.deepcopy((self._model.state_dict(), self.heads.state_dict()))
            found = {"epoch": epoch, "loss": measured.loss, "accuracy": measured.accuracy}
            self._best = {**found, "weights": weights, "heads": heads}
        elif epoch - self._best["epoch"] >= self._patience:
            self.total = number
        return {"validation_loss": measured.loss, "validation_accuracy": measured.accuracy}

    def finish(self) -> Kept:
        """Make the model ready for use, with the best weights if there were validation pairs. Says which were kept."""
        epochs = self.total // self._per_epoch
        self._training(False)
        if not self._validation:
            return Kept(epochs, epochs)
        self._model.load_state_dict(self._best["weights"])
        self.heads.load_state_dict(self._best["heads"])
        return Kept(self._best["epoch"], epochs, self._best["loss"], self._best["accuracy"])

    def state_dict(self) -> dict[str, Any]:
        """The model, its best weights, the order of the epoch, the optimizer, the scaler, the random state."""
        return {
            "total": self.total,
            "model": self._model.state_dict(),
            "heads": self.heads.state_dict(),
            "best": self._best,
            "order": self._order,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "collapsed": self._collapsed,
            "random": random_state(self._generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises `ValueError` for the state of another run."""
        self._order, self._best = state["order"], state["best"]
        if self._order.sort().values.tolist() != list(range(len(self._groups))):
            raise ValueError("an order of other prompts")
        best = self._best
        kept = (("weights", "model"), ("heads", "heads")) if best["epoch"] else ()
        if not best["loss"] <= math.inf or not all(same_layout(best[one], state[other]) for one, other in kept):
            raise ValueError("weights of another model")
        if not 0 < state["total"] <= self.total:
            raise ValueError("a training of another length")
        self.total = state["total"]
        self._model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        restore_optimizer(self._optimizer, state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self._collapsed = state["collapsed"]
        restore_random_state(state["random"], self._generator)
