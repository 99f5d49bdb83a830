"""Tensors are prepared as the processor of transformers prepares pictures: every size, crop and filter."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vpctl.errors import UserError
from vpctl.models import hub
from vpctl.models.preprocess import Preprocess
from vpctl.models.tensors import from_pictures

SIZES = [(224, 224), (640, 427), (427, 640), (454, 448), (448, 453), (227, 224), (96, 500), (13, 7), (300, 1)]
"""Width and height. Some differ from the size of the crop by an odd number of pixels."""
CLIP = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 56}, "do_center_crop": True}
PROCESSORS: dict[str, dict[str, Any]] = {
    "clip": {**CLIP, "crop_size": {"height": 56, "width": 56}},
    "clip with a smaller crop": {**CLIP, "size": {"shortest_edge": 64}, "crop_size": {"height": 49, "width": 33}},
    "clip that pads": {**CLIP, "size": {"shortest_edge": 40}, "crop_size": {"height": 56, "width": 51}},
    "clip that stretches": {**CLIP, "size": {"height": 56, "width": 56}, "do_center_crop": False},
    "clip that only crops": {**CLIP, "do_resize": False, "crop_size": {"height": 50, "width": 50}},
    "raw numbers": {
        **CLIP,
        "crop_size": {"height": 9, "width": 9},
        "do_resize": False,
        "do_normalize": False,
        "rescale_factor": 1 / 127.5,
    },
    "blip": {"image_processor_type": "BlipImageProcessor", "size": {"height": 48, "width": 48}},
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 40, "width": 60}, "resample": 2},
}


def opened(folder: Path, settings: dict[str, Any]) -> Any:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return hub.image_processor(folder, where="")


def noise(width: int, height: int) -> Image.Image:
    """A picture of smooth and of sharp structures, whose corners and centre differ."""
    rng = np.random.default_rng(width * height)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height))
    fine = rng.integers(-20, 21, (height, width, 3))
    return Image.fromarray((np.asarray(coarse).astype(int) + fine).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_tensor_gets_the_pixels_that_the_processor_makes_of_the_picture(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    processor, picture = opened(tmp_path, PROCESSORS[name]), noise(*size)
    wanted = processor(picture, return_tensors="pt")["pixel_values"]
    found = Preprocess(processor, where="")(from_pictures([picture]))
    assert found.shape == wanted.shape
    level = processor.rescale_factor / min(processor.image_std if processor.do_normalize else [1.0])
    assert float((found - wanted).abs().max()) <= 2 * level, "two roundings of half a level, which the filter amplifies"
    assert float((found - wanted).abs().mean()) <= 0.4 * level


def test_gradients_reach_the_part_that_is_not_cropped_and_no_other(tmp_path: Path) -> None:
    images = torch.rand(1, 3, 56, 112, requires_grad=True)
    Preprocess(opened(tmp_path, PROCESSORS["clip"]), where="")(images).sum().backward()
    assert images.grad is not None
    columns = images.grad.abs().sum((0, 1, 2)) > 0
    assert columns.nonzero().flatten().tolist() == list(range(28, 84))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"resample": 1}, "its image processor resizes with LANCZOS, and tensors cannot be resized so"),
        ({"size": {"longest_edge": 56}}, "its image processor has the size {'longest_edge': 56}, and tensors cannot"),
    ],
)
def test_what_tensors_cannot_do_is_an_error(settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    processor = opened(tmp_path, {**PROCESSORS["clip"], **settings})
    with pytest.raises(UserError, match=re.escape(f"--reward clip:x: {reason}")):
        Preprocess(processor, where="--reward clip:x")(torch.rand(1, 3, 50, 50))
