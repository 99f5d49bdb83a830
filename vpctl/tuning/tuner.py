"""What every algorithm that tunes a denoiser has: the trained LoRA, its optimizer, and a random generator."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from ..configs import OptimizerConfig
from ..models.denoiser import Denoiser, open_denoiser
from ..models.devices import World
from .run import optimizer_step, random_state, restore_optimizer, restore_random_state

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
        self._optimizer = torch.optim.AdamW(policy.trainable, weight_decay=config.weight_decay)
        self._steps = 0
        self._average = copied(policy.trainable) if config.ema else []

    @classmethod
    def open(
        cls, pipeline: Any, config: OptimizerConfig, *, algorithm: str, source: str, seed: int, world: World
    ) -> Self:
        """The tuner of a diffusers pipeline, with a new LoRA.

        `source` is the value of --model. Raises `UserError` if the pipeline cannot be tuned with the `algorithm`.
        """
        policy = open_denoiser(
            pipeline,
            rank=config.rank,
            targets=config.lora_targets,
            source=source,
            seed=seed,
            checkpointing=config.gradient_checkpointing,
            algorithm=algorithm,
            export=config.export,
        )
        return cls(policy, config, seed=seed, world=world)

    def own(self, batches: list[T]) -> list[T]:
        """The batches of an optimizer step that this process computes."""
        return batches[self.world.rank :: self.world.size]

    def step(self, where: str) -> None:
        """Do one optimizer step with the gradients of all processes, and remove the gradients.

        `where` names the step in errors. Raises `UserError` if a gradient is not finite.
        """
        self.world.sum_gradients(self.policy.trainable)
        self._steps += 1
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.learning_rate * min(1.0, self._steps / max(1, self._config.warmup))
        optimizer_step(self._optimizer, self.policy.trainable, where=where, largest_norm=self._config.max_grad_norm)
        if self._average:
            blend(self._average, self.policy.trainable, min(self._config.ema, self._steps / (self._steps + 9)))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the LoRA has the averaged weights of --ema. Without --ema nothing changes."""
        with swapped(self.policy.trainable, self._average) if self._average else nullcontext():
            yield

    def state_dict(self) -> dict[str, Any]:
        """The LoRA and its average, the optimizer and its number of steps, the random state."""
        return {
            "lora": self.policy.lora(),
            "average": self._average,
            "optimizer": self._optimizer.state_dict(),
            "steps": self._steps,
            "random": random_state(self.generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises `ValueError` for the state of another run."""
        self.policy.set_lora(state["lora"])
        restore_optimizer(self._optimizer, state["optimizer"])
        self._steps = int(state["steps"])
        restore_weights(self._average, state["average"])
        restore_random_state(state["random"], self.generator)


@contextmanager
def swapped(weights: Sequence[Tensor], others: Sequence[Tensor]) -> Iterator[None]:
    """A context in which `weights` have the values of `others`, and `others` have those of `weights`."""
    _swap(weights, others)
    try:
        yield
    finally:
        _swap(weights, others)


def _swap(weights: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    for one, other in zip(weights, others, strict=True):
        one.data, other.data = other.data, one.data


def copied(weights: Sequence[Tensor]) -> list[Tensor]:
    """A copy of weights, without gradients."""
    return [weight.detach().clone() for weight in weights]


def blend(average: Sequence[Tensor], weights: Sequence[Tensor], decay: float) -> None:
    """Move an average towards `weights`: it keeps the share `decay` of itself."""
    for old, new in zip(average, weights, strict=True):
        old.lerp_(new.detach(), 1 - decay)


def restore_weights(weights: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
    """Give `weights` the values of `saved`. Raises `ValueError` if they do not fit."""
    if [one.shape for one in weights] != [one.shape for one in saved]:
        raise ValueError("weights of another LoRA")
    for one, other in zip(weights, saved, strict=True):
        one.data.copy_(other)
