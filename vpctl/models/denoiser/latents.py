"""Latents of encoded pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Posteriors:
    """Posteriors of N pictures. New latents are sampled from them at every use.

    `mean` and `std` are (N, C, H, W), in float16, on the CPU. `sizes` (N, 6) are those of `Denoiser.sizes`. `scale`
    turns the autoencoder's latents into those that the denoiser takes.
    """

    mean: Tensor
    std: Tensor
    sizes: Tensor
    scale: Callable[[Tensor], Tensor]

    def __getitem__(self, pictures: Tensor) -> "Posteriors":
        """The posteriors of the pictures with these indices (B,)."""
        return Posteriors(self.mean[pictures], self.std[pictures], self.sizes[pictures], self.scale)

    def draw(self, generator: torch.Generator) -> Tensor:
        """A sample of scaled latents (N, C, H, W), in float32, on the CPU."""
        mean, std = self.mean.float(), self.std.float()
        return self.scale(mean + std * torch.randn(mean.shape, generator=generator))

    @staticmethod
    def cat(parts: "Sequence[Posteriors]") -> "Posteriors":
        """The posteriors of all parts, in order. One model must have encoded them all."""
        mean, std = torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts])
        return Posteriors(mean, std, torch.cat([part.sizes for part in parts]), parts[0].scale)
