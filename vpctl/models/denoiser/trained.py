"""What a training changes in the part of a pipeline that predicts: a LoRA, or all of its weights."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..tensors import copied, same_layout, swapped


class Trained(ABC):
    """The weights that a training changes, all in float32: in 16 bits, a step of 1e-5 would change almost nothing."""

    parameters: list[nn.Parameter]
    start: list[Tensor]
    """A copy of the weights as they were before the training; empty if the reference needs none."""

    @abstractmethod
    def reference(self) -> AbstractContextManager[None]:
        """A context in which the model is what it was before the training, and no gradients are recorded."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The weights by name, on the CPU. For a model on the CPU they are the trained tensors."""

    def load(self, weights: dict[str, Tensor]) -> None:
        """Load what `weights` returned. Raises `ValueError` if it does not fit."""
        if not same_layout(weights, self.weights()):
            raise ValueError("weights of another model")
        self._load(weights)

    @abstractmethod
    def _load(self, weights: dict[str, Tensor]) -> None:
        """Load weights that fit."""

    @abstractmethod
    def save(self, folder: Path, export: str = "") -> None:
        """Write the result of the training into a folder."""

    @abstractmethod
    def result(self, folder: Path | str) -> str:
        """Says what `save` has written there, and how to draw with it."""


@contextmanager
def as_at_the_start(parameters: list[nn.Parameter], start: list[Tensor]) -> Iterator[None]:
    """A context in which `parameters` have the values `start`, and no gradients are recorded."""
    with torch.no_grad(), swapped(parameters, start):
        yield


class AllWeights(Trained):
    """All weights of the part, without a LoRA. The reference is a copy of them, which takes as much memory."""

    def __init__(self, pipe: Any, part: str) -> None:
        """The part must be in float32."""
        self._pipe = pipe
        self._model: nn.Module = getattr(pipe, part).requires_grad_(True)
        self.parameters = [*self._model.parameters()]
        self.start = copied(self.parameters)

    def reference(self) -> AbstractContextManager[None]:
        """A context in which the model is what it was before the training, and no gradients are recorded."""
        return as_at_the_start(self.parameters, self.start)

    def weights(self) -> dict[str, Tensor]:
        """The weights by name, on the CPU. For a model on the CPU they are the trained tensors."""
        return {name: weight.detach().cpu() for name, weight in self._model.named_parameters()}

    def _load(self, weights: dict[str, Tensor]) -> None:
        for name, weight in self._model.named_parameters():
            weight.data.copy_(weights[name])

    def save(self, folder: Path, export: str = "") -> None:
        """Write the whole pipeline, in the folder ``model``. There is no other format."""
        assert not export, "the commands refuse it"
        self._pipe.save_pretrained(folder / "model", safe_serialization=True)

    def result(self, folder: Path | str) -> str:
        """Says where the pipeline is, and how to draw with it."""
        model = Path(folder, "model")
        return f"the tuned model is in {model}; use it with generate --model diffusion:{model}"
