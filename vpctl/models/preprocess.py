"""The steps of an image processor of transformers for tensors, so that gradients flow through them."""

from math import ceil
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from PIL.Image import Resampling
from torch import Tensor, nn

from ..errors import UserError

_MODES = {Resampling.BILINEAR: "bilinear", Resampling.BICUBIC: "bicubic"}
"""Resampling filters that torch has, with the same coefficients as Pillow."""


class Preprocess(nn.Module):
    """Resizes, crops, rescales and normalises pictures as a processor of transformers does.

    The processor rounds resized pixels to 8 bits, after each of two passes. This does not, so a pixel differs by up to
    two levels of 255, and on average by less than half a level. `where` names the option and the source in errors.
    """

    def __init__(self, processor: Any, *, where: str) -> None:
        super().__init__()
        self._processor, self._where = processor, where
        normalize = processor.do_normalize
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", _channels(processor.image_mean if normalize else [0.0] * 3), persistent=False)
        self.register_buffer("std", _channels(processor.image_std if normalize else [1.0] * 3), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Pixels (B, 3, height, width) of pictures (B, 3, H, W) in [0, 1].

        Raises `UserError` if the processor resizes in a way that has no gradients here.
        """
        how = self._processor
        size = self._resized(images.shape[-2], images.shape[-1]) if how.do_resize else tuple(images.shape[-2:])
        if size != tuple(images.shape[-2:]):
            resample = Resampling(how.resample)
            if resample not in _MODES:
                self._refuse(f"resizes with {resample.name}")
            for step in ((images.shape[-2], size[1]), size):  # as Pillow: first the width, and both results are clamped
                images = F.interpolate(images, step, mode=_MODES[resample], antialias=True).clamp(0, 1)
        if getattr(how, "do_center_crop", None):  # processors that never crop do not have it
            images = _center_crop(images, how.crop_size["height"], how.crop_size["width"])
        scale = 255 * how.rescale_factor if how.do_rescale else 255
        return (images * scale - self.mean) / self.std

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """The size of a picture after the resize, before the crop."""
        size = dict(self._processor.size)
        if size.get("height") and size.get("width"):
            return size["height"], size["width"]
        short = size.get("shortest_edge")
        if not short or size.get("longest_edge"):
            self._refuse(f"has the size {size}")
        # transformers rounds the longer side down.
        return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)

    def _refuse(self, what: str) -> NoReturn:
        raise UserError(f"{self._where}: its image processor {what}, and tensors cannot be resized so")


def _channels(values: list[float]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)


def _center_crop(images: Tensor, height: int, width: int) -> Tensor:
    """The centre of the pictures. A picture that is smaller is padded with black.

    transformers rounds the offset down for a crop and up for a padding.
    """
    missing = [max(0, wanted - there) for wanted, there in zip((height, width), images.shape[-2:], strict=True)]
    if any(missing):
        (above, left), (rows, columns) = map(ceil, (side / 2 for side in missing)), missing
        images = F.pad(images, (left, columns - left, above, rows - above))
    top, side = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, side : side + width]
