"""Pictures as tensors: (B, 3, H, W), float32, in [0, 1]; and whether weights fit."""

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_pictures(images: Tensor) -> list[Image.Image]:
    """Pictures of a tensor (B, 3, H, W) in [0, 1], rounded to 8 bits as diffusers rounds them."""
    pixels = (images.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return [Image.fromarray(one) for one in pixels.permute(0, 2, 3, 1).numpy()]


def from_pictures(pictures: list[Image.Image]) -> Tensor:
    """A tensor (B, 3, H, W) in [0, 1] of RGB pictures of one size."""
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def fits(weights: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> bool:
    """Whether weights have the names, shapes and types of others."""
    shapes, others = ({name: (one.shape, one.dtype) for name, one in some.items()} for some in (weights, like))
    return shapes == others
