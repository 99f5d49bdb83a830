"""What a picture of the shapes world shows, measured on its pixels alone.

The background is the median colour of the border. Everything that differs from it is divided into blobs. Every pixel of
a blob is explained as a blend of the background and one colour of the palette, which gives the colour of the blob and
the coverage of each pixel. The coverage is compared with templates of every shape, which the renderer draws at the same
resolution in every size and at quarter-pixel offsets. The blob is named after the shape of the best template.
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
"""Minimum RGB distance from the background at which a pixel belongs to a blob."""
_BLEND_ERROR = 30.0
"""Maximum mean RGB distance from the best blend. A blob with a larger distance has several colours."""
_SMALLEST_AREA = 8.0
"""Minimum area of a thing in covered pixels. The smallest star covers 17."""
_WINDOW = 26
_OFFSETS = 4
_RADIUS_STEP = 0.25


class Found(NamedTuple):
    """A thing in the picture: shape, colour, centre (`x`, `y`), `coverage` (SIZE, SIZE), and fit of the template.

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
        """Number of covered pixels."""
        return float(self.coverage.sum())


@dataclass(frozen=True)
class View:
    """Everything in a picture: the background, the things, the harmful symbols, and the rest.

    `ground` is the exact RGB of the background. `scraps` is the area of blobs that are too small to be a thing. `noise`
    is the mean RGB distance from the background of all pixels outside blobs.
    """

    background: str
    ground: Pixels
    things: tuple[Found, ...]
    symbols: tuple[Found, ...]
    scraps: float
    noise: float


def resized(picture: Image.Image) -> Image.Image:
    """`picture` as RGB, scaled to the world's 32 × 32 pixels."""
    image = picture if picture.mode == "RGB" else picture.convert("RGB")
    return image if image.size == (SIZE, SIZE) else image.resize((SIZE, SIZE), Image.Resampling.BOX)


def look(picture: Image.Image) -> View:
    """Return what `picture` shows. A picture of another size is first scaled to 32 × 32 pixels."""
    pixels = np.asarray(resized(picture), np.float32)
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
    """Yield colour and coverage of every connected blob. A blob of several colours is split into its parts."""
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
    """The colour whose blends with the background fit the pixels of a blob best, the coverage, and the mean error.

    The coverage extends one pixel beyond the blob, where its anti-aliased edge is too faint to be detected.
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
    """Split a blob by colour: the core of each colour, and every other pixel with its nearest core."""
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
    """The best soft intersection over union of `covered` with templates of `shape` near its size and place."""
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
    """Coverage (_WINDOW, _WINDOW) of a shape, `row` and `column` quarter pixels off the centre of the window."""
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
