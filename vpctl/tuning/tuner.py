"""What every algorithm that tunes a denoiser has: the trained LoRA, its optimizer, and a random generator."""

from collections.abc import Mapping
from typing import Any, Self, TypeVar

import torch

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

    @classmethod
    def open(cls, pipeline: Any, config: OptimizerConfig, *, source: str, seed: int, world: World) -> Self:
        """The tuner of a diffusers pipeline, with a new LoRA. Raises `UserError` if the pipeline cannot be tuned.

        `source` is the value of --model.
        """
        policy = open_denoiser(
            pipeline,
            rank=config.rank,
            targets=config.lora_targets,
            source=source,
            seed=seed,
            checkpointing=config.gradient_checkpointing,
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

    def state_dict(self) -> dict[str, Any]:
        """The LoRA, the optimizer and its number of steps, the random state."""
        return {
            "lora": self.policy.lora(),
            "optimizer": self._optimizer.state_dict(),
            "steps": self._steps,
            "random": random_state(self.generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Raises `ValueError` for the state of another run."""
        self.policy.set_lora(state["lora"])
        restore_optimizer(self._optimizer, state["optimizer"])
        self._steps = int(state["steps"])
        restore_random_state(state["random"], self.generator)
