"""A small policy and pictures for it."""

import copy
from pathlib import Path
from random import Random

import pytest
import torch
from diffusers import StableDiffusionPipeline

from vpctl.configs import OptimizerConfig
from vpctl.generators.shapes import load
from vpctl.models.denoiser import Denoiser
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.models.devices import join_world
from vpctl.models.tensors import from_pictures
from vpctl.shapes.grammar import describe, sample
from vpctl.shapes.render import render
from vpctl.tuning.run import Run
from vpctl.tuning.tuner import Tuner


@pytest.fixture(scope="session")
def packaged() -> StableDiffusionPipeline:
    """The shapes world's smaller pipeline; take a copy before you change it."""
    return load("small", device="cpu").pipeline


@pytest.fixture
def policy(packaged: StableDiffusionPipeline) -> StableDiffusion:
    """A fresh policy, whose LoRA changes nothing yet."""
    return new_policy(packaged)


def new_policy(packaged: StableDiffusionPipeline, *, rank: int = 4, seed: int = 0) -> StableDiffusion:
    return StableDiffusion(copy.deepcopy(packaged), rank=rank, seed=seed)


def new_tuner(policy: Denoiser, config: OptimizerConfig, *, seed: int = 0) -> Tuner:
    return Tuner(policy, config, seed=seed, world=join_world("cpu"))


def disturb(policy: Denoiser, amount: float = 0.05) -> None:
    """Move every weight of the LoRA a little, so that it does something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.trainable:
            weight.add_(amount * torch.randn(weight.shape, generator=generator))


class Killed(Exception):
    """What ends a `Mortal`."""


class Mortal(Run):
    """A run that is killed when it has finished `last` steps; 0 is never."""

    def __init__(self, folder: Path, config: dict[str, object], *, last: int) -> None:
        super().__init__(str(folder), config, join_world("cpu"))
        self.last = last

    def finished(self, step: int) -> None:
        super().finished(step)
        if step == self.last:
            raise Killed


@pytest.fixture(scope="session")
def rendered() -> tuple[list[str], torch.Tensor]:
    """Twelve prompts and true pictures of them, (12, 3, 32, 32)."""
    rng = Random(5)
    scenes = [sample(rng) for _ in range(12)]
    return [describe(scene) for scene in scenes], from_pictures([render(scene, rng) for scene in scenes])


@pytest.fixture(autouse=True)
def few_untuned_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpctl.tuning.refl.NORMALISED_ON", 16)
