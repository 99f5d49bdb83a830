"""What the algorithms that train on given pictures share: their order, their noise, and the error of a prediction."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.denoiser import Denoiser
from ..models.denoiser.conditioning import Conditioning


class Shuffled:
    """The numbers below `count` in random permutations, one after the other. `left` is part of a checkpoint."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self._count, self._generator = count, generator
        self.left: list[int] = []
        """What is left of the permutation."""

    def take(self, wanted: int) -> list[int]:
        """The next numbers."""
        while len(self.left) < wanted:
            self.left += torch.randperm(self._count, generator=self._generator).tolist()
        taken, self.left = self.left[:wanted], self.left[wanted:]
        return taken

    def restore(self, left: list[int]) -> None:
        """Go on with `left`. Raises `ValueError` if it has numbers of another count."""
        if not all(0 <= number < self._count for number in left):
            raise ValueError("an order of another number of records")
        self.left = left


@dataclass(frozen=True)
class NoisedPictures:
    """N pictures with their noise: `latents` and `noise` (N, C, H, W), `timesteps` (N,), `sizes` (N, 6), on the CPU."""

    prompts: list[str]
    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    sizes: Tensor

    def __getitem__(self, pictures: slice) -> "NoisedPictures":
        return NoisedPictures(
            self.prompts[pictures],
            self.latents[pictures],
            self.noise[pictures],
            self.timesteps[pictures],
            self.sizes[pictures],
        )


class Task(NamedTuple):
    """What a model is given of N pictures, and the `target` (N, C, H, W) that it should predict."""

    noisy: Tensor
    timesteps: Tensor
    conditioning: Conditioning
    target: Tensor


def task(policy: Denoiser, pictures: NoisedPictures) -> Task:
    """The prediction of some pictures' noise, or of what the model predicts instead."""
    noisy, target = policy.noised(pictures.latents, pictures.noise, pictures.timesteps)
    conditioning = policy.embed(pictures.prompts, pictures.sizes)
    return Task(noisy, pictures.timesteps.to(policy.device), conditioning, target)


def squared_errors(policy: Denoiser, asked: Task) -> Tensor:
    """Squared error (N,) of the prediction, a mean over C, H, W."""
    return (policy.predict(*asked[:3]) - asked.target).square().mean((1, 2, 3))


def with_dropped(prompts: list[str], share: float, generator: torch.Generator) -> list[str]:
    """The prompts; about this share of them is replaced by the empty prompt."""
    dropped = torch.rand(len(prompts), generator=generator) < share
    return ["" if gone else prompt for gone, prompt in zip(dropped, prompts, strict=True)]


def advice_if_worse(worse: int, total: int, better: str, other: str, options: str) -> str:
    """What to change if the error on the `better` pictures was above the reference's in `worse` of `total` steps.

    Empty if these are at most half of them.
    """
    if worse <= total / 2:
        return ""
    return (
        f"in {worse} of {total} steps the error on the {better} pictures was above that of the untuned model: it "
        f"learns more from the {other} ones; see {options}"
    )
