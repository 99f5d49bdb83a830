"""What every algorithm that tunes a denoiser has: the trained weights, their optimizer, and a random generator."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from .. import progress
from ..configs import OptimizerConfig
from ..models.denoiser import Denoiser, open_denoiser
from ..models.devices import World, resolve_dtype
from ..models.tensors import copied, swapped
from .run import (
    diverged,
    loss_scaler,
    optimizer_step,
    random_state,
    restore_optimizer,
    restore_random_state,
    way_out,
)
from .zero import DividedAdamW, bucket

T = TypeVar("T")


class Tuner:
    """A policy with its AdamW, in one of the processes of a `World`.

    All processes have the same weights and the same random numbers. They divide the batches of an optimizer step among
    themselves, and add up their gradients. The result is that of one process that computes all batches.
    """

    def __init__(self, policy: Denoiser, config: OptimizerConfig, *, seed: int, world: World) -> None:
        self.policy, self.world = policy, world
        self.generator = torch.Generator().manual_seed(seed)
        """Chooses prompts, noise and timesteps. Its state is part of the checkpoint."""
        self._config = config
        self._optimizer = new_optimizer(policy.trainable, config)
        self._divided = (
            DividedAdamW(self._optimizer, policy.trainable, config.max_grad_norm, world) if world.zero_stage else None
        )
        self._scaler = loss_scaler(world.device, config.dtype)
        self._steps = self._skipped = 0
        self._average = copied(policy.trainable) if config.ema else []

    @classmethod
    def open(
        cls, pipeline: Any, config: OptimizerConfig, *, algorithm: str, source: str, seed: int, world: World
    ) -> Self:
        """The tuner of a diffusers pipeline, with what --lora and --full say is trained.

        `source` is the value of --model. Raises `UserError` if the pipeline cannot be tuned with the `algorithm`.
        """
        policy = open_denoiser(
            pipeline,
            rank=config.rank,
            targets=config.lora_targets,
            lora=config.lora,
            full=config.full,
            source=source,
            seed=seed,
            dtype=resolve_dtype(config.dtype),
            checkpointing=config.gradient_checkpointing,
            algorithm=algorithm,
            export=config.export,
            device=world.device,
            processes=world.size if world.sharded else 1,
        )
        return cls(policy, config, seed=seed, world=world)

    def memory(self, *, copies: int = 0) -> str:
        """Says how much memory of the device the training takes at least: all that is known before its first step.

        `copies` is how many copies of the trained weights the algorithm itself keeps.
        """
        trained = self.policy.trained
        kept = [*trained.parameters * copies, *self._average, *trained.start]
        weights, parts = sum(one.numel() for one in trained.parameters), self.world.size
        gradients, moments, exchanged = 4 * weights, (2 if self._config.optimizer == "adamw8bit" else 8) * weights, 0
        if self.world.zero_stage:  # a part of the moments, and a copy of this part of the weights
            moments, exchanged = 12 * weights // parts, 4 * bucket(trained.parameters)
        if self.world.zero_stage > 1:
            gradients //= parts
        model, added = self.policy.size, sum(one.nbytes for one in kept) + gradients + moments + exchanged
        return (
            f"needs at least {progress.size(model + added)} of memory, and more for what a step computes: "
            f"{progress.size(model)} for the model, and {progress.size(added)} for gradients, moments and copies of "
            "the trained weights"
        )

    def own(self, batches: list[T]) -> list[T]:
        """The batches of an optimizer step that this process computes."""
        return batches[self.world.rank :: self.world.size]

    def in_step(self, batches: list[T]) -> Iterator[tuple[T, bool]]:
        """The batches of a measurement that this process computes, and whether each counts.

        With sharded weights all processes must predict equally often. So one that has fewer batches than the others
        computes the first batch once more, and it does not count.
        """
        own = self.own(batches)
        yield from ((batch, True) for batch in own)
        if self.world.sharded and len(own) < -(-len(batches) // self.world.size):
            yield batches[0], False

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to those of the optimizer step."""
        if self._divided:
            self._divided.backward(loss)
        else:
            self._scaler.scale(loss).backward()

    def step(self, where: str) -> None:
        """Do one optimizer step with the gradients of all processes, and remove the gradients.

        `where` names the step in errors. Raises `UserError` if a gradient is not finite. In float16 such a step may be
        skipped: then it changes no weight, and does not count for --warmup and --ema.
        """
        number = self._steps + 1
        rate = self._config.learning_rate * min(1.0, number / max(1, self._config.warmup))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        if self._divided:
            if not math.isfinite(norm := self._divided.step()):
                raise diverged(where, norm)
        elif not self._undivided_step(where):
            self._skipped += 1
            return
        self._steps = number
        if self._average:
            blend(self._average, self.policy.trainable, min(self._config.ema, number / (number + 9)))

    def _undivided_step(self, where: str) -> bool:
        """An optimizer step that each process does by itself. Returns whether it was done."""
        self.world.sum_gradients(self.policy.trainable)
        return optimizer_step(
            self._optimizer,
            self.policy.trainable,
            where=where,
            largest_norm=self._config.max_grad_norm,
            scaler=self._scaler,
        )

    def skipped(self) -> dict[str, float]:
        """In float16, the metric `skipped`: how many optimizer steps were skipped since it was last asked for."""
        found, self._skipped = self._skipped, 0
        return {"skipped": found} if self._scaler.is_enabled() else {}

    @property
    def way_out(self) -> str:
        """What the user can do if the training has diverged."""
        return way_out(self._scaler)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the trained weights are the average of --ema. Without --ema nothing changes."""
        with swapped(self.policy.trainable, self._average) if self._average else nullcontext():
            yield

    def state_dict(self) -> dict[str, Any]:
        """The trained weights, their average, the optimizer with its steps and its scaler, the random state."""
        return {
            "weights": self.policy.trained.weights(),
            "average": self._average,
            "optimizer": (self._divided or self._optimizer).state_dict(),
            "steps": self._steps,
            "scaler": self._scaler.state_dict(),
            "random": random_state(self.generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises `ValueError` for the state of another run."""
        self.policy.trained.load(state["weights"])
        if self._divided:
            self._divided.load_state_dict(state["optimizer"])
        else:
            restore_optimizer(self._optimizer, state["optimizer"])
        self._steps = int(state["steps"])
        self._scaler.load_state_dict(state["scaler"])
        restore_weights(self._average, state["average"])
        restore_random_state(state["random"], self.generator)


def new_optimizer(weights: Sequence[torch.nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The AdamW of --optimizer, with a learning rate that `Tuner.step` sets."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW(weights, weight_decay=config.weight_decay)
    from bitsandbytes.optim import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(weights, weight_decay=config.weight_decay)
    return made


def blend(average: Sequence[Tensor], weights: Sequence[Tensor], decay: float) -> None:
    """Move an average towards `weights`: it keeps the share `decay` of itself."""
    for old, new in zip(average, weights, strict=True):
        old.lerp_(new.detach(), 1 - decay)


def restore_weights(weights: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
    """Give `weights` the values of `saved`. Raises `ValueError` if they do not fit."""
    if [one.shape for one in weights] != [one.shape for one in saved]:
        raise ValueError("weights of another model")
    for one, other in zip(weights, saved, strict=True):
        one.data.copy_(other)
