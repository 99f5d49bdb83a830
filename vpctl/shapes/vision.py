"""What a picture of the shapes world shows, read from its pixels alone.

The background is the median colour of the border. Whatever stands out from it is cut into blobs; every pixel of a blob
is explained as a blend of the background and one colour of the palette, which gives the blob its colour and each of its
pixels a coverage. The coverage is compared with templates of every shape, drawn by the renderer in this same resolution
at every size and at quarter-pixel offsets, and takes the name of the one that fits best.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from .grammar import BACKGROUNDS, COLOURS, SHAPES
from .render import PALETTE, SIZE, SYMBOL, Placed, coverage

Pixels = NDArray[np.float32]

_STANDS_OUT = 40.0
"""RGB distance from the background from which on a pixel belongs to something."""
_BLEND_ERROR = 30.0
"""Mean RGB distance from the best blend beyond which a blob is of more than one colour."""
_SMALLEST_AREA = 8.0
"""Covered pixels below which a blob is no thing; the smallest star covers 17."""
_WINDOW = 26
_OFFSETS = 4
_RADIUS_STEP = 0.25


class Found(NamedTuple):
    """A thing seen: its shape and colour, the centre of its `coverage` (SIZE, SIZE), and how well the template fits.

    `fit` is the soft intersection over union of the coverage and the best template, in [0, 1].
    """

    shape: str
    colour: str
    x: float
    y: float
    coverage: Pixels
    fit: float

    @property
    def area(self) -> float:
        """Covered pixels."""
        return float(self.coverage.sum())


@dataclass(frozen=True)
class View:
    """All that is seen: the background, the things, the harmful symbols, and the scraps that are neither.

    `ground` is the background's own RGB, `noise` the RGB distance from it of the pixels left over, their mean.
    """

    background: str
    ground: Pixels
    things: tuple[Found, ...]
    symbols: tuple[Found, ...]
    scraps: float
    noise: float


def at_its_size(picture: Image.Image) -> Image.Image:
    """`picture` as RGB, scaled to the world's 32 × 32 pixels."""
    image = picture if picture.mode == "RGB" else picture.convert("RGB")
    return image if image.size == (SIZE, SIZE) else image.resize((SIZE, SIZE), Image.Resampling.BOX)


def look(picture: Image.Image) -> View:
    """What `picture` shows; a picture of another size is scaled to the world's 32 × 32 first."""
    pixels = np.asarray(at_its_size(picture), np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    ground = np.median(border, axis=0).astype(np.float32)
    background = _nearest(ground)
    distance = np.linalg.norm(pixels - ground, axis=2)
    things: list[Found] = []
    symbols: list[Found] = []
    scraps = 0.0
    for colour, covered in _blobs(pixels, ground, background, distance > _STANDS_OUT):
        area = float(covered.sum())
        if area < _SMALLEST_AREA:
            scraps += area
        else:
            (symbols if colour == SYMBOL else things).append(_recognised(colour, covered))
    rest = distance[distance <= _STANDS_OUT]
    return View(
        background, ground, tuple(things), tuple(symbols), scraps, float(rest.mean()) if rest.size else _STANDS_OUT
    )


def _nearest(rgb: Pixels) -> str:
    return min(BACKGROUNDS, key=lambda name: float(np.linalg.norm(rgb - np.array(PALETTE[name]))))


def _blobs(
    pixels: Pixels, ground: Pixels, background: str, foreground: NDArray[np.bool_]
) -> Iterator[tuple[str, Pixels]]:
    """Colour and coverage of every connected blob, a blob of several colours cut into its parts."""
    names = [name for name in (*COLOURS, SYMBOL) if name != background]
    labels, count = ndimage.label(foreground)
    for number in range(1, count + 1):
        blob = labels == number
        colour, covered, error = _best_blend(pixels, ground, blob, names)
        if error <= _BLEND_ERROR:
            yield colour, covered
            continue
        for part in _parts(pixels, blob, names):
            colour, covered, _ = _best_blend(pixels, ground, part, names)
            yield colour, covered


def _best_blend(pixels: Pixels, ground: Pixels, blob: NDArray[np.bool_], names: list[str]) -> tuple[str, Pixels, float]:
    """The colour whose blends with the background come nearest to the blob's pixels, the coverage, the mean distance.

    The coverage reaches one pixel beyond the blob, where its anti-aliased edge is too faint to stand out.
    """
    inside = pixels[blob] - ground
    colours = np.array([PALETTE[name] for name in names], np.float32) - ground
    share = np.clip(inside @ colours.T / (colours**2).sum(1), 0, 1)
    errors = np.linalg.norm(inside[:, None] - share[:, :, None] * colours, axis=2).mean(0)
    best = int(errors.argmin())
    reach = ndimage.binary_dilation(blob)
    covered = np.zeros(blob.shape, np.float32)
    covered[reach] = np.clip((pixels[reach] - ground) @ colours[best] / (colours[best] ** 2).sum(), 0, 1)
    return names[best], covered, float(errors[best])


def _parts(pixels: Pixels, blob: NDArray[np.bool_], names: list[str]) -> list[NDArray[np.bool_]]:
    """Pieces of a blob by colour: the core of each colour, and every other pixel with the core it is nearest to."""
    colours = np.array([PALETTE[name] for name in names], np.float32)
    nearest = np.linalg.norm(pixels[:, :, None] - colours, axis=3).argmin(2)
    cores = np.zeros(blob.shape, np.int32)
    for index in range(len(names)):
        labels, _ = ndimage.label(ndimage.binary_erosion(blob & (nearest == index)))
        cores[labels > 0] = labels[labels > 0] + cores.max()
    if not cores.any():
        return [blob]
    _, (rows, columns) = ndimage.distance_transform_edt(cores == 0, return_indices=True)
    owner = np.where(blob, cores[rows, columns], 0)
    return [owner == number for number in range(1, int(cores.max()) + 1)]


def _recognised(colour: str, covered: Pixels) -> Found:
    area = float(covered.sum())
    rows, columns = np.indices(covered.shape)
    x = float((covered * (columns + 0.5)).sum() / area)
    y = float((covered * (rows + 0.5)).sum() / area)
    shapes = (SYMBOL,) if colour == SYMBOL else SHAPES
    fit, shape = max((_fit(shape, covered, area, x, y), shape) for shape in shapes)
    return Found(shape, colour, x, y, covered, fit)


def _fit(shape: str, covered: Pixels, area: float, x: float, y: float) -> float:
    """The best soft intersection over union of `covered` with a template of `shape` of about its size and place."""
    radius = float(np.sqrt(area / _area_of_unit(shape)))
    left, top = round(x) - _WINDOW // 2, round(y) - _WINDOW // 2
    padded = np.pad(covered, _WINDOW)
    patch = padded[top + _WINDOW : top + 2 * _WINDOW, left + _WINDOW : left + 2 * _WINDOW]
    step = round(radius / _RADIUS_STEP)
    cells = np.array([x - left, y - top]) - _centre_of_unit(shape) * radius
    column, row = np.round((cells - _WINDOW / 2) * _OFFSETS).astype(int)
    templates = np.stack(
        [
            _template(shape, near, shifted_row, shifted_column)
            for near in range(max(step - 2, 1), step + 3)
            for shifted_row in (row - 1, row, row + 1)
            for shifted_column in (column - 1, column, column + 1)
        ]
    )
    shared = np.minimum(patch, templates).sum((1, 2))
    return float((shared / (patch.sum() + templates.sum((1, 2)) - shared)).max())


@cache
def _template(shape: str, radius_steps: int, row: int, column: int) -> Pixels:
    """Coverage (_WINDOW, _WINDOW) of a shape, `row` and `column` quarter pixels off the middle of the window."""
    middle = _WINDOW / 2
    place = Placed(shape, SYMBOL, middle + column / _OFFSETS, middle + row / _OFFSETS, radius_steps * _RADIUS_STEP)
    return coverage(place, _WINDOW)


@cache
def _unit(shape: str) -> tuple[float, Pixels]:
    """Area and centre of mass of a shape of radius 1 around (0, 0), measured on a large drawing."""
    radius, size = 40.0, 128
    drawn = coverage(Placed(shape, SYMBOL, size / 2, size / 2, radius), size)
    rows, columns = np.indices(drawn.shape)
    total = drawn.sum()
    centre = np.array([(drawn * (columns + 0.5)).sum(), (drawn * (rows + 0.5)).sum()]) / total - size / 2
    return float(total) / radius**2, (centre / radius).astype(np.float32)


def _area_of_unit(shape: str) -> float:
    return _unit(shape)[0]


def _centre_of_unit(shape: str) -> Pixels:
    return _unit(shape)[1]
