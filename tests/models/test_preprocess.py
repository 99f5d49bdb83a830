"""Pictures and tensors are prepared as their models were trained: every size, crop, padding and filter.

The rules of torchvision and of HPS are written here a second time, from their descriptions, in numpy.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vpctl.errors import RecordFailed, UserError
from vpctl.models import hub
from vpctl.models.preprocess import CLIP_MEAN, CLIP_STD, Recipe
from vpctl.models.shared import sharing
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
def test_a_picture_gets_the_pixels_that_the_processor_of_transformers_makes(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    processor, picture = opened(tmp_path, PROCESSORS[name]), noise(*size)
    wanted = processor(picture, return_tensors="pt")["pixel_values"][0]
    found = Recipe.of(processor, where="").pixels(picture)
    tall = size[1] > 2 * size[0]  # Pillow 13 resizes the height of such a picture first, and rounds other numbers
    level = processor.rescale_factor / min(processor.image_std if processor.do_normalize else [1.0])
    torch.testing.assert_close(found, wanted, atol=2.01 * level if tall else 2e-6, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_tensor_gets_the_pixels_of_the_picture(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    processor, picture = opened(tmp_path, PROCESSORS[name]), noise(*size)
    recipe = Recipe.of(processor, where="")
    wanted, found = recipe.pixels(picture)[None], recipe.batch(from_pictures([picture]), where="")
    assert found.shape == wanted.shape
    level = processor.rescale_factor / min(processor.image_std if processor.do_normalize else [1.0])
    difference = (found - wanted).abs()
    assert float(difference.max()) <= 1.01 * level, "Pillow computes with integers, and may round the other way"
    assert float((difference > 0.01 * level).float().mean()) < 0.01


def torchvision(picture: Image.Image, side: int) -> Any:
    """Resize to the shorter side, and crop as torchvision does: half a pixel is rounded to even."""
    width, height = picture.size
    short, long = sorted((width, height))
    resized = (side, int(side * long / short)) if width <= height else (int(side * long / short), side)
    wide = picture.resize((resized[0], height), Image.Resampling.BICUBIC)
    pixels = np.asarray(wide.resize(resized, Image.Resampling.BICUBIC))
    top, left = (round((there - side) / 2) for there in pixels.shape[:2])
    return np.divide(pixels[top : top + side, left : left + side].transpose(2, 0, 1), 255)


def bicubic(pixels: Any, length: int, *, antialias: bool) -> Any:
    """The first axis in another length. Keys' cubic kernel has a = -0.75 in torch, and -0.5 where it antialiases."""
    there = pixels.shape[0]
    if there == length:
        return pixels
    scale = there / length
    a, stretch = (-0.5, max(scale, 1.0)) if antialias else (-0.75, 1.0)
    centres = (np.arange(length) + 0.5) * scale - 0.5
    reach = np.arange(-int(3 * stretch) - 2, int(3 * stretch) + 3)
    places = np.floor(centres)[:, None].astype(int) + reach
    x = np.abs(places - centres[:, None]) / stretch
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    kernel = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    if antialias:  # what lies outside has no weight; otherwise the edge is repeated
        kernel = np.where((places >= 0) & (places < there), kernel, 0.0)
        kernel /= kernel.sum(1, keepdims=True)
    return np.einsum("lk,lk...->l...", kernel, pixels[places.clip(0, there - 1)])


def hps(picture: Image.Image, side: int, *, antialias: bool) -> np.ndarray[Any, Any]:
    """Resize floats to the longer side, and pad with black: the smaller half is above and on the left."""
    pixels = np.asarray(picture) / 255
    factor = side / max(pixels.shape[:2])
    height, width = (max(1, round(length * factor)) for length in pixels.shape[:2])
    pixels = bicubic(pixels, height, antialias=antialias)
    pixels = bicubic(pixels.swapaxes(0, 1), width, antialias=antialias).swapaxes(0, 1)
    whole = np.zeros((side, side, 3))
    top, left = (side - height) // 2, (side - width) // 2
    whole[top : top + height, left : left + width] = pixels
    return whole.transpose(2, 0, 1)


def normalised(pixels: Any) -> torch.Tensor:
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return torch.from_numpy((pixels - mean) / std).float()


@pytest.mark.parametrize("size", SIZES)
def test_the_recipe_of_torchvision(size: tuple[int, int]) -> None:
    picture = noise(*size)
    recipe = Recipe(56, crop=(56, 56), offsets="torchvision")
    wanted = normalised(torchvision(picture, 56))
    torch.testing.assert_close(recipe.pixels(picture), wanted, atol=2e-6, rtol=1e-6)
    level = 1 / 255 / min(CLIP_STD)
    assert (recipe.batch(from_pictures([picture]), where="")[0] - wanted).abs().max() <= 1.01 * level


def test_the_two_rules_for_the_centre_differ_by_a_pixel_where_half_a_pixel_is_rounded_up() -> None:
    """A square picture hides it, and so do many others: this is how a scorer gets the pixels of another."""
    rules = {rule: Recipe(56, crop=(56, 56), offsets=rule) for rule in ("transformers", "torchvision")}
    lefts = {width: tuple(recipe.geometry(56, width).left for recipe in rules.values()) for width in (56, 57, 58, 59)}
    assert lefts == {56: (0, 0), 57: (0, 0), 58: (1, 1), 59: (1, 2)}
    picture = noise(59, 56)
    pixels = [recipe.pixels(picture) for recipe in rules.values()]
    torch.testing.assert_close(pixels[0][:, :, 1:], pixels[1][:, :, :-1])


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_the_recipe_of_hps_with_and_without_antialias(size: tuple[int, int], antialias: bool) -> None:
    picture = noise(*size)
    recipe = Recipe(56, which="longer", crop=(56, 56), offsets="torchvision", rounds=False, antialias=antialias)
    wanted = normalised(hps(picture, 56, antialias=antialias))
    torch.testing.assert_close(recipe.pixels(picture), wanted, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(recipe.batch(from_pictures([picture]), where="")[0], wanted, atol=1e-4, rtol=1e-5)


def test_what_is_upright_and_on_white_in_a_viewer_is_so_for_the_model() -> None:
    recipe = Recipe(8, crop=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert recipe.pixels(clear).unique().tolist() == [1.0]
    turned = Image.new("RGB", (8, 8), "black")
    turned.paste("white", (0, 0, 8, 4))
    turned.getexif()[0x0112] = 3  # upside down
    assert recipe.pixels(turned).mean((0, 2)).round().tolist() == [0.0] * 4 + [1.0] * 4


def test_gradients_reach_the_part_that_is_not_cropped_and_no_other(tmp_path: Path) -> None:
    images = torch.rand(1, 3, 56, 112, requires_grad=True)
    Recipe.of(opened(tmp_path, PROCESSORS["clip"]), where="").batch(images, where="").sum().backward()
    assert images.grad is not None
    columns = images.grad.abs().sum((0, 1, 2)) > 0
    assert columns.nonzero().flatten().tolist() == list(range(28, 84))


def test_the_gradient_is_that_of_the_resize_without_its_rounding() -> None:
    torch.manual_seed(0)
    weight = torch.randn(1, 3, 8, 8)
    gradients = []
    for rounds in (True, False):
        images = (torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.25).requires_grad_()
        recipe = Recipe(8, crop=(8, 8), rounds=rounds)
        (recipe.batch(images, where="") * weight).sum().backward()
        gradients.append(images.grad)
    torch.testing.assert_close(*gradients)


def test_pixels_are_shared_between_recipes_that_make_the_same() -> None:
    picture = noise(96, 96)  # a square, so the two rules for the crop are the same
    ours, theirs = (Recipe(56, crop=(56, 56), offsets=rule) for rule in ("transformers", "torchvision"))
    with sharing():
        assert ours.pixels(picture) is theirs.pixels(picture)
        assert ours.pixels(noise(96, 96)) is not ours.pixels(picture)
    assert ours.pixels(picture) is not theirs.pixels(picture)


def test_a_filter_that_tensors_do_not_have_is_an_error(tmp_path: Path) -> None:
    recipe = Recipe.of(opened(tmp_path, {**PROCESSORS["clip"], "resample": 1}), where="")
    assert recipe.pixels(noise(80, 60)).shape == (3, 56, 56)
    reason = "--reward clip:x: its image processor resizes with LANCZOS, which tensors do not support"
    with pytest.raises(UserError, match=re.escape(reason)):
        recipe.batch(torch.rand(1, 3, 50, 50), where="--reward clip:x")


def test_a_size_that_is_not_known_is_an_error(tmp_path: Path) -> None:
    processor = opened(tmp_path, {**PROCESSORS["clip"], "size": {"longest_edge": 56}})
    reason = "--reward clip:x: its image processor has the size {'longest_edge': 56}, which vpctl does not support"
    with pytest.raises(UserError, match=re.escape(reason)):
        Recipe.of(processor, where="--reward clip:x")


def test_a_picture_that_is_too_narrow_is_refused_before_it_is_resized() -> None:
    recipe = Recipe(224, crop=(224, 224))
    assert recipe.pixels(Image.new("RGB", (300, 1))).shape == (3, 224, 224)
    with pytest.raises(RecordFailed, match=r"^2000 × 1 pixels are too narrow for a side of 224$"):
        recipe.pixels(Image.new("RGB", (2000, 1)))
    padded = Recipe(224, which="longer", crop=(224, 224))
    assert padded.pixels(Image.new("RGB", (60000, 1))).shape == (3, 224, 224)
