"""Grids of pictures, to look at while a training runs."""

import torch
from PIL import Image

from ..contracts import Settings
from ..models.denoiser import Denoiser
from ..models.tensors import to_pictures


@torch.inference_mode()
def preview(policy: Denoiser, prompts: list[str], settings: Settings, *, seed: int) -> Image.Image:
    """A grid of one picture a prompt, always from the same noise."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), 8):
        texts = prompts[start : start + 8]
        generators = [torch.Generator().manual_seed(seed + start + index) for index in range(len(texts))]
        pictures += to_pictures(policy.draw(texts, generators, settings))
    return grid(pictures)


def grid(pictures: list[Image.Image], columns: int = 8) -> Image.Image:
    """Pictures of one size in rows of `columns`, on white, small ones enlarged to be seen."""
    scale = max(1, 128 // pictures[0].width)
    width, height = pictures[0].width * scale, pictures[0].height * scale
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (min(len(pictures), columns) * (width + 4), rows * (height + 4)), "white")
    for index, picture in enumerate(pictures):
        enlarged = picture.resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (index % columns * (width + 4), index // columns * (height + 4)))
    return sheet
