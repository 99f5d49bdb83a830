"""Training a reward model on preference pairs.

The loss is the paper's (section 4.1), the Bradley-Terry likelihood of the preferred picture. Where the method's own
recipe leaves things open we follow ImageReward (Xu et al. 2023, section 4.1): the lower part of both towers is frozen
and the learning rate falls as a cosine. We depart from it in one thing: there is no new five-layer head, whose
published initialisation gives gradients below the optimiser's epsilon; the backbone's own matching head is trained on,
so that the model starts as a judge of prompt and picture.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configs import RewardModelConfig
from ..flow import ahead
from ..models.reward import RewardModel
from ..models.tensors import fits
from .run import Run, optimizer_step, random_state, restore_optimizer, restore_random_state


class PromptPairs(NamedTuple):
    """All pairs of one prompt: its pictures by number, and which is preferred to which, as places in `pictures`."""

    prompt: str
    pictures: list[int]
    pairs: list[tuple[int, int]]


Load = Callable[[list[int]], Tensor]
"""Normalised pixels (B, 3, H, W) of pictures by number."""


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """−log σ(chosen − rejected), mean over pairs; both are raw rewards (B,). Equation 1 of the paper."""
    return -F.logsigmoid(chosen - rejected).mean()


def freeze(model: nn.Module, fraction: float) -> int:
    """Freeze embeddings and the lowest `fraction` of the layers of every transformer stack; returns how many tensors.

    ImageReward's 0.7 of 24 vision and 12 text layers freezes 16 and 8. Zero freezes nothing.
    """
    if fraction == 0:
        return 0
    frozen = 0
    stacks = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    for name, parameter in model.named_parameters():
        stack = next((one for one in stacks if name.startswith(f"{one}.")), None)
        if stack is None:
            # pre_layrnorm is CLIP's, spelt so there.
            keep = not any(part in name for part in ("embeddings", "pre_layrnorm"))
        else:
            layer = int(name.removeprefix(f"{stack}.").partition(".")[0])
            keep = layer >= int(fraction * len(stacks[stack]))
        if not keep:
            parameter.requires_grad_(False)
            frozen += 1
    return frozen


class Measured(NamedTuple):
    """A reward model over some pairs: their mean loss and accuracy, and mean and std of the rewards."""

    loss: float
    accuracy: float
    mean: float
    std: float


def rewards_of(model: RewardModel, groups: list[PromptPairs], pixels: Tensor, device: torch.device) -> Tensor:
    """Rewards (N,) of all pictures of the groups, whose pixels (N, 3, H, W) come in the same order."""
    prompts = [group.prompt for group in groups for _ in group.pictures]
    tokens = {name: value.to(device) for name, value in model.tokens(prompts).items()}
    rewards: Tensor = model(pixels.to(device), **tokens)
    return rewards


def preferences(groups: list[PromptPairs]) -> tuple[Tensor, Tensor]:
    """Places of chosen and rejected pictures, each (P,), among all pictures of the groups."""
    chosen, rejected, offset = [], [], 0
    for group in groups:
        chosen += [offset + better for better, _ in group.pairs]
        rejected += [offset + worse for _, worse in group.pairs]
        offset += len(group.pictures)
    return torch.tensor(chosen), torch.tensor(rejected)


def batches(groups: list[PromptPairs], size: int, load: Load) -> Iterator[tuple[list[PromptPairs], Tensor]]:
    """The groups, `size` prompts at a time, with their pixels; the next are loaded while these are worked on."""
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
    """The model as it is on some pairs. An equal pair counts half."""
    margins, every = [], []
    for part, rewards in rewarded(model, groups, load, batch, device):
        chosen, rejected = preferences(part)
        margins.append(rewards[chosen] - rewards[rejected])
        every.append(rewards)
    margin, flat = torch.cat(margins), torch.cat(every)
    right = (margin > 0).float() + 0.5 * (margin == 0).float()
    return Measured(float(-F.logsigmoid(margin).mean()), float(right.mean()), float(flat.mean()), float(flat.std()))


def correct(
    model: RewardModel, groups: list[PromptPairs], load: Load, batch: int, device: torch.device
) -> list[tuple[float, str]]:
    """For every pair 1 if the model prefers what was chosen, 0.5 if it is undecided, else 0; and the pair's prompt."""
    found = []
    for part, rewards in rewarded(model, groups, load, batch, device):
        chosen, rejected = preferences(part)
        margin = rewards[chosen] - rewards[rejected]
        right = (margin > 0).float() + 0.5 * (margin == 0).float()
        prompts = [group.prompt for group in part for _ in group.pairs]
        found += list(zip(right.tolist(), prompts, strict=True))
    return found


def train(
    model: RewardModel,
    groups: list[PromptPairs],
    validation: list[PromptPairs],
    load: Load,
    config: RewardModelConfig,
    run: Run,
    *,
    seed: int,
    device: torch.device,
) -> None:
    """Train in place, from where `run` left off; with validation pairs the best epoch's weights are left in the model.

    A step takes `batch` prompts with all their pairs: every picture goes through the model once, however many pairs it
    stands in. An interrupt ends it after the step under way.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
    total = config.epochs * steps_per_epoch(len(groups), config)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
    )
    best: dict[str, Any] = {"loss": math.inf, "weights": {}}
    order = torch.empty(0, dtype=torch.long)
    if run.resumes:
        with run.restoring() as state:
            order, best = state["order"], state["best"]
            if order.sort().values.tolist() != list(range(len(groups))):
                raise ValueError("an order of other prompts")
            if not best["loss"] <= math.inf or (best["weights"] and not fits(best["weights"], state["model"])):
                raise ValueError("weights of another model")
            model.load_state_dict(state["model"])
            restore_optimizer(optimizer, state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            restore_random_state(state["random"], generator)
    model.train()
    per_epoch = steps_per_epoch(len(groups), config)
    step = run.step
    with run.training(total):
        while step < total:
            if step % per_epoch == 0:
                order = torch.randperm(len(groups), generator=generator)
            left = [groups[index] for index in order[step % per_epoch * config.batch :].tolist()]
            for part, pixels in batches(left, config.batch, load):
                rewards = rewards_of(model, part, pixels, device)
                chosen, rejected = preferences(part)
                loss = bradley_terry_loss(rewards[chosen], rewards[rejected])
                loss.backward()
                step += 1
                optimizer_step(optimizer, trainable, where=f"step {step}")
                schedule.step()
                accuracy = float((rewards[chosen] > rewards[rejected]).float().mean())
                run.log(step, loss=loss.item(), accuracy=accuracy)
                if step % per_epoch == 0 and validation:
                    model.eval()
                    measured = measure(model, validation, load, config.batch, device)
                    model.train()
                    run.log(step, validation_loss=measured.loss, validation_accuracy=measured.accuracy)
                    if measured.loss < best["loss"]:
                        best = {"loss": measured.loss, "weights": copy.deepcopy(model.state_dict())}
                run.finished(step)
                if run.due(config.save_every):
                    run.save(
                        step,
                        {
                            "model": model.state_dict(),
                            "best": best,
                            "order": order,
                            "optimizer": optimizer.state_dict(),
                            "schedule": schedule.state_dict(),
                            "random": random_state(generator),
                        },
                    )
    if validation:
        model.load_state_dict(best["weights"])
    model.eval()


def steps_per_epoch(prompts: int, config: RewardModelConfig) -> int:
    """Optimizer steps in a pass over so many prompts; the last may be smaller."""
    return -(-prompts // config.batch)
