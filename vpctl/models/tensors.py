"""Conversion between pictures and tensors (B, 3, H, W) in float32 and [0, 1]; weights compared, copied and swapped."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_pictures(images: Tensor) -> list[Image.Image]:
    """The pictures in a tensor (B, 3, H, W) in [0, 1], rounded to 8 bits as in diffusers."""
    pixels = (images.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return [Image.fromarray(one) for one in pixels.permute(0, 2, 3, 1).numpy()]


def from_pictures(pictures: list[Image.Image]) -> Tensor:
    """A tensor (B, 3, H, W) in [0, 1] from RGB pictures of equal size."""
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def same_layout(weights: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights have the same names, shapes and dtypes."""
    shapes, others = ({name: (one.shape, one.dtype) for name, one in some.items()} for some in (weights, like))
    return shapes == others


def digest_of(config: object, weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 of a model's config, as its `repr`, and of all bits of its weights, in hexadecimal digits."""
    found = hashlib.sha256(repr(config).encode())
    for name, values in weights.items():
        found.update(name.encode() + values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


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
