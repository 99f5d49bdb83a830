"""Preview grids: pictures that show the progress of a training."""

from collections.abc import Callable, Iterable
from itertools import islice

import torch
from PIL import Image

from ..contracts import Settings
from ..models.denoiser import Denoiser
from ..models.tensors import to_pictures
from .run import Run

PREVIEWS = 16
"""Pictures in a preview grid."""


def previews(
    run: Run, policy: Denoiser, prompts: Iterable[str], settings: Settings, *, every: int, seed: int
) -> Callable[[int], dict[str, float]]:
    """Return the function that draws a preview grid, for `train`: at every multiple of `every`, including step 0.

    A grid shows the first `PREVIEWS` distinct prompts. If `every` is 0, no grids are drawn. No metrics are returned.
    """
    shown = list(islice(dict.fromkeys(prompts), PREVIEWS))

    def show(step: int) -> dict[str, float]:
        if every and step % every == 0:
            run.preview(step, preview(policy, shown, settings, seed=seed), shown)
        return {}

    return show


@torch.no_grad()
def preview(policy: Denoiser, prompts: list[str], settings: Settings, *, seed: int) -> Image.Image:
    """A grid with one picture for each prompt, always from the same noise."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), 8):
        texts = prompts[start : start + 8]
        generators = [torch.Generator().manual_seed(seed + start + index) for index in range(len(texts))]
        pictures += to_pictures(policy.draw(texts, generators, settings))
    return grid(pictures)


def grid(pictures: list[Image.Image], columns: int = 8) -> Image.Image:
    """A grid of pictures of the same size on white, in rows of `columns`. Small pictures are enlarged."""
    scale = max(1, 128 // pictures[0].width)
    width, height = pictures[0].width * scale, pictures[0].height * scale
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (min(len(pictures), columns) * (width + 4), rows * (height + 4)), "white")
    for index, picture in enumerate(pictures):
        enlarged = picture.resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (index % columns * (width + 4), index // columns * (height + 4)))
    return sheet
