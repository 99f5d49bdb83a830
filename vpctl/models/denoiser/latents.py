"""Latents of encoded pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Posteriors:
    """Posteriors of N pictures, from which latents are drawn anew at every visit.

    `mean` and `std` are (N, C, H, W), in half precision, on the CPU. `scale` turns what the autoencoder gives into the
    latents that the denoiser takes.
    """

    mean: Tensor
    std: Tensor
    scale: Callable[[Tensor], Tensor]

    def __getitem__(self, pictures: Tensor) -> "Posteriors":
        """The posteriors of the pictures with these indices (B,)."""
        return Posteriors(self.mean[pictures], self.std[pictures], self.scale)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Scaled latents (N, C, H, W), in float32, on the CPU."""
        mean, std = self.mean.float(), self.std.float()
        return self.scale(mean + std * torch.randn(mean.shape, generator=generator))

    @staticmethod
    def cat(parts: "Sequence[Posteriors]") -> "Posteriors":
        """The posteriors of all parts, which one model encoded."""
        mean, std = torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts])
        return Posteriors(mean, std, parts[0].scale)
