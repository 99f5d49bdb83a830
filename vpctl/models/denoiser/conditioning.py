"""The conditioning of a denoiser: encoded prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

REMEMBERED = 4096
"""Number of prompts whose conditioning is cached. One takes 0.24 MB in Stable Diffusion 1, and 0.64 MB in SDXL."""
LARGEST = 4 << 30
"""Number of bytes above which the cache is emptied: a prompt takes 5 MB in Stable Diffusion 3, and 8 MB in FLUX.1."""


@dataclass(frozen=True)
class Conditioning:
    """The encoded form of B prompts: tensors with one row for each prompt.

    Stable Diffusion has one tensor, the text embeddings (B, L, D). SDXL, Stable Diffusion 3 and FLUX.1 also have pooled
    embeddings (B, P), and SDXL sizes of pictures (B, 6).
    """

    tensors: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.tensors[0])

    @property
    def size(self) -> int:
        """The number of bytes that the tensors take."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def __getitem__(self, rows: slice | Tensor) -> "Conditioning":
        return Conditioning(tuple(tensor[rows] for tensor in self.tensors))

    def repeat(self, times: int) -> "Conditioning":
        """All rows, `times` times: one block of B rows after the other."""
        return Conditioning(tuple(tensor.repeat(times, *[1] * (tensor.dim() - 1)) for tensor in self.tensors))

    def to(self, device: torch.device | str) -> "Conditioning":
        """The conditioning on another device."""
        return Conditioning(tuple(tensor.to(device) for tensor in self.tensors))

    @staticmethod
    def cat(parts: "Sequence[Conditioning]") -> "Conditioning":
        """The rows of all parts, in order."""
        return Conditioning(tuple(map(torch.cat, zip(*(part.tensors for part in parts), strict=True))))


class Embeddings:
    """Encodes prompts, each once, and caches their conditioning on the CPU."""

    def __init__(self, encode: Callable[[str], Conditioning], device: torch.device) -> None:
        """`encode` runs the text encoders of a model on one prompt. `device` is the device of the results."""
        self.encode = encode
        """May be replaced by a function that reads the same results from disk."""
        self._device = device
        self._known: dict[str, Conditioning] = {}

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Conditioning:
        """The conditioning of `prompts` on the device, in their order, in float32.

        Prompts are encoded one by one: in a batch they would differ by rounding, and a resumed run has other batches.
        """
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._known:
                self._known[prompt] = Conditioning(tuple(one.float() for one in self.encode(prompt).to("cpu").tensors))
        found = Conditioning.cat([self._known[prompt] for prompt in prompts]).to(self._device)
        if len(self._known) > REMEMBERED or sum(one.size for one in self._known.values()) > LARGEST:
            self._known = {prompt: self._known[prompt] for prompt in prompts}
        return found
