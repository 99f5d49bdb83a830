"""Where models run and in which precision, and pictures as tensors: (B, 3, H, W), float32, in [0, 1]."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import UserError


def pick(device: str) -> torch.device:
    """The device of a name; ``auto`` is the first GPU, else the CPU. Raises `UserError` for one that is not there."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from None
    return picked


def half_on_gpu(device: torch.device) -> torch.dtype:
    """The precision for inference: half on a GPU, full on a CPU, which computes halves slowly."""
    return torch.float32 if device.type == "cpu" else torch.float16


def to_pictures(images: Tensor) -> list[Image.Image]:
    """Pictures of a tensor (B, 3, H, W) in [0, 1], rounded to 8 bits as diffusers rounds them."""
    pixels = (images.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return [Image.fromarray(one) for one in pixels.permute(0, 2, 3, 1).numpy()]


def from_pictures(pictures: list[Image.Image]) -> Tensor:
    """A tensor (B, 3, H, W) in [0, 1] of RGB pictures of one size."""
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
