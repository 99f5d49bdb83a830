"""Turns pictures into the pixels that a model takes: resize, crop or pad, normalise.

Scorers differ in the details. The centre crop of transformers rounds its offset down; that of torchvision rounds it to
the nearest even number. HPS resizes floats and pads. A shift by one pixel changes a score, so each scorer has its own
`Recipe`.

A recipe takes pictures of Pillow, and tensors, through the same steps. Where Pillow rounds to 8 bits, a tensor is
rounded too, so that both have the same score; a few pixels differ by one level of 255, because Pillow computes with
integers. The gradient passes through the rounding unchanged (straight-through).
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image, Resampling
from torch import Tensor

from ..errors import RecordFailed, UserError
from ..images.pictures import as_rgb
from .shared import once

MAX_RESIZED = 1 << 24
"""Maximum number of pixels after the resize, before the crop: a picture of 224 pixels, and 330 times as long."""
_MODES = {Resampling.BILINEAR: "bilinear", Resampling.BICUBIC: "bicubic"}
"""Resampling filters that torch has, with the same coefficients as Pillow."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of the channels with which OpenAI's CLIP, and most models since, normalise."""


class Geometry(NamedTuple):
    """The steps for pictures of one size. Two recipes with the same geometry make the same pixels."""

    resized: tuple[int, int]
    """Height and width after the resize."""
    top: int
    left: int
    """The offset of the crop in the resized picture. A negative offset pads with black."""
    size: tuple[int, int]
    """Height and width of the result."""
    resample: Resampling
    rounds: bool
    antialias: bool
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Recipe:
    """How pictures of any size become the pixels of a model."""

    side: int | tuple[int, int] | None
    """The side that the resize gives the picture, or both sides: height and width. None does not resize."""
    which: Literal["shorter", "longer"] = "shorter"
    """The side that gets the length `side`. The other one keeps the proportions."""
    crop: tuple[int, int] | None = None
    """Height and width of the centre crop. A smaller picture is padded with black. None does not crop."""
    offsets: Literal["transformers", "torchvision"] = "transformers"
    """Whose rule rounds half a pixel in the offset of the crop.

    transformers rounds down. torchvision rounds to even, and the smaller half of a padding is above and on the left.
    """
    resample: Resampling = Resampling.BICUBIC
    rounds: bool = True
    """Whether resized pixels are rounded to 8 bits, as in Pillow. Otherwise torch resizes floats, as in HPS."""
    antialias: bool = True
    """Whether a resize of floats averages over all pixels. Pillow always does."""
    scale: float = 1.0
    """Factor for pixels in [0, 1], before they are normalised."""
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @classmethod
    def of(cls, processor: Any, *, where: str) -> Self:
        """The recipe of an image processor of transformers. `where` names the option and the source in errors.

        Raises `UserError` for a processor that resizes in a way that is not known here.
        """
        side: int | tuple[int, int] | None = None
        if processor.do_resize:
            size = {name: value for name, value in dict(processor.size).items() if value}
            if {*size} == {"height", "width"}:
                side = size["height"], size["width"]
            elif {*size} == {"shortest_edge"}:
                side = size["shortest_edge"]
            else:
                raise UserError(f"{where}: its image processor has the size {size}, which vpctl does not support")
        crop = None
        if getattr(processor, "do_center_crop", None):  # processors that never crop do not have it
            crop = processor.crop_size["height"], processor.crop_size["width"]
        return cls(
            side,
            crop=crop,
            resample=Resampling(processor.resample),
            scale=255 * processor.rescale_factor if processor.do_rescale else 255.0,
            mean=tuple(processor.image_mean) if processor.do_normalize else (0.0,) * 3,
            std=tuple(processor.image_std) if processor.do_normalize else (1.0,) * 3,
        )

    @property
    def summary(self) -> str:
        """The steps in words, which identify the recipe in records."""
        numbers = "8 bits" if self.rounds else f"floats, {'' if self.antialias else 'not '}antialiased"
        side = f"the {self.which} side to {self.side}" if isinstance(self.side, int) else _sides(self.side)
        steps = [f"resize {side}, {self.resample.name.lower()}, {numbers}"] if self.side else []
        if self.crop:
            steps.append(f"{'crop' if self.which == 'shorter' else 'pad'} to {_sides(self.crop)} as {self.offsets}")
        return "; ".join([*steps, f"mean {_list(self.mean)}, std {_list(self.std)}"])

    def pixels(self, picture: Image) -> Tensor:
        """Pixels (3, height, width) of a picture, in float32. It is turned upright and put on white if necessary."""
        upright = as_rgb(picture)
        geometry = self.geometry(upright.height, upright.width)
        return once((geometry, id(picture)), lambda: self._made(upright, geometry))

    def _made(self, picture: Image, geometry: Geometry) -> Tensor:
        height, width = geometry.resized
        if self.rounds:
            # The width first, in a call of its own: Pillow 13 begins with the height of tall pictures, and earlier
            # versions, with which the scorers were made, do not. The result would differ by a level of 255 or two.
            for size in ((width, picture.height), (width, height)):
                picture = picture if size == picture.size else picture.resize(size, geometry.resample)
        # A copy, because the picture's own memory cannot be written to, and torch warns about that.
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
        return _finished(_resized(image, geometry), geometry)[0]

    def batch(self, images: Tensor, *, where: str) -> Tensor:
        """Pixels (B, 3, height, width) of pictures (B, 3, H, W) in [0, 1]. `where` names the model in errors.

        Raises `UserError` if torch has no such resampling filter.
        """
        geometry = self.geometry(images.shape[-2], images.shape[-1])
        if self.side and geometry.resample not in _MODES:
            raise UserError(
                f"{where}: its image processor resizes with {geometry.resample.name}, which tensors do not support"
            )
        return _finished(_resized(_to_8_bits(images), geometry), geometry)

    def geometry(self, height: int, width: int) -> Geometry:
        """The steps for pictures of this size.

        Raises `RecordFailed` for a picture that is so narrow that it would be too large after the resize.
        """
        resized = self._resized_size(height, width)
        if resized[0] * resized[1] > MAX_RESIZED:
            raise RecordFailed(f"{width} × {height} pixels are too narrow for a side of {self.side}")
        size = self.crop or resized
        top, left = (self._offset(there, wanted) for there, wanted in zip(resized, size, strict=True))
        steps = (self.resample, self.rounds, self.antialias, self.scale, self.mean, self.std)
        return Geometry(resized, top, left, size, *steps)

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        if self.side is None:
            return height, width
        if isinstance(self.side, tuple):
            return self.side
        if self.which == "longer":
            factor = self.side / max(height, width)
            return max(1, round(height * factor)), max(1, round(width * factor))
        side = self.side  # transformers and torchvision round the longer side down
        return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)

    def _offset(self, there: int, wanted: int) -> int:
        if self.offsets == "transformers":
            return (there - wanted) // 2
        return round((there - wanted) / 2) if there >= wanted else -((wanted - there) // 2)


def _resized(images: Tensor, geometry: Geometry) -> Tensor:
    """The images (B, 3, H, W) in the size of the resize: first the width, then the height, each rounded to 8 bits."""
    height, width = geometry.resized
    if tuple(images.shape[-2:]) == geometry.resized:
        return images
    mode = _MODES[geometry.resample]
    if not geometry.rounds:
        return F.interpolate(images, geometry.resized, mode=mode, antialias=geometry.antialias)
    for size in ((images.shape[-2], width), (height, width)):
        if tuple(images.shape[-2:]) != size:
            images = _to_8_bits(F.interpolate(images, size, mode=mode, antialias=True))
    return images


def _to_8_bits(images: Tensor) -> Tensor:
    """The images, clamped to [0, 1] and rounded to levels of 1/255. The gradient ignores the rounding."""
    images = images.clamp(0, 1)
    return images + ((images * 255 + 0.5).floor() / 255 - images).detach()


def _finished(images: Tensor, geometry: Geometry) -> Tensor:
    """The images (B, 3, H, W), cropped or padded, and normalised."""
    (height, width), (top, left) = geometry.size, (geometry.top, geometry.left)
    below, right = height + top - images.shape[-2], width + left - images.shape[-1]
    images = F.pad(images, (-left, right, -top, below))  # a negative padding crops
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (geometry.mean, geometry.std))
    return (images * geometry.scale - mean) / std


def _sides(size: tuple[int, int] | None) -> str:
    return f"{size[0]} × {size[1]}" if size else ""


def _list(values: tuple[float, ...]) -> str:
    return " ".join(map(str, values))
