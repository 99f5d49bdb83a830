"""The renderer of the shapes world: draws a scene as a picture of 32 × 32 pixels, with random places and sizes."""

import math
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .grammar import BACKGROUNDS, OPPOSITES, Scene

SIZE = 32
"""Side of a picture in pixels. All lengths in this module are in these pixels."""
SUPERSAMPLING = 8

SYMBOL = "symbol"
PALETTE = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 215, 40),
    "purple": (140, 50, 170),
    "orange": (245, 130, 30),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    SYMBOL: (128, 128, 128),
}
"""sRGB values in [0, 255] of every colour of the world. Only the harmful symbol is grey."""

_RADII = {1: (5.0, 9.0), 2: (4.4, 6.4), 3: (4.0, 5.2)}
"""Smallest and largest radius, by the number of things in the picture. A star with a radius below 4 pixels is not
recognisable."""


@dataclass(frozen=True)
class Placed:
    """A shape or the symbol, with its colour, its centre, and the radius of its circumscribed circle, in pixels."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float


def outline(shape: str, radius: float) -> list[tuple[float, float]]:
    """The corners of `shape` around (0, 0). Shapes with the same radius look about equally large."""
    if shape == "square":
        half = 0.86 * radius
        return [(-half, -half), (half, -half), (half, half), (-half, half)]
    if shape == "triangle":
        return [_polar(1.12 * radius, -90 + 120 * k, down=0.18 * radius) for k in range(3)]
    if shape == "star":
        return [_polar(radius * (1.18 if k % 2 == 0 else 0.52), -90 + 36 * k) for k in range(10)]
    if shape == "cross":
        long, short = radius, 0.34 * radius
        corner = [(short, -long), (short, -short), (long, -short)]
        turns = [corner, [(-y, x) for x, y in corner], [(-x, -y) for x, y in corner], [(y, -x) for x, y in corner]]
        return [point for turn in turns for point in turn]
    raise ValueError(f"no outline for {shape!r}")


def _polar(radius: float, degrees: float, *, down: float = 0.0) -> tuple[float, float]:
    angle = math.radians(degrees)
    return radius * math.cos(angle), radius * math.sin(angle) + down


def draw(placed: list[Placed], background: str) -> Image.Image:
    """Draw the placed shapes with anti-aliasing: at eight times the size, then averaged down."""
    scale = SUPERSAMPLING
    canvas = Image.new("RGB", (SIZE * scale, SIZE * scale), PALETTE[background])
    pen = ImageDraw.Draw(canvas)
    for one in placed:
        _draw_one(pen, one, PALETTE[one.colour], scale)
    return canvas.reduce(scale)


def coverage(one: Placed, size: int = SIZE) -> NDArray[np.float32]:
    """The share of each pixel that `one` covers: (size, size), in [0, 1]."""
    scale = SUPERSAMPLING
    canvas = Image.new("L", (size * scale, size * scale), 0)
    _draw_one(ImageDraw.Draw(canvas), one, 255, scale)
    return np.asarray(canvas.reduce(scale), np.float32) / np.float32(255)


def _draw_one(pen: ImageDraw.ImageDraw, one: Placed, fill: tuple[int, ...] | int, scale: int) -> None:
    x, y, radius = one.x * scale, one.y * scale, one.radius * scale
    disc = (x - radius, y - radius, x + radius, y + radius)
    if one.shape == "circle":
        pen.ellipse(disc, fill=fill)
    elif one.shape == SYMBOL:
        width = 0.38 * radius
        reach = (radius - width / 2) * math.sqrt(0.5)
        pen.ellipse(disc, outline=fill, width=round(width))
        pen.line((x - reach, y - reach, x + reach, y + reach), fill=fill, width=round(width))
    else:
        pen.polygon([(x + dx, y + dy) for dx, dy in outline(one.shape, radius)], fill=fill)


def arrange(scene: Scene, rng: Random) -> list[Placed]:
    """Choose random places and sizes that make the scene true. Things do not touch, and relations are unambiguous."""
    total = len(scene.things) + scene.symbol
    smallest, largest = _RADII[total]
    named = [(thing.shape, thing.colour or rng.choice(BACKGROUNDS[:6])) for thing in scene.things]
    if scene.symbol:
        named.append((SYMBOL, SYMBOL))
    while True:
        placed: list[Placed] = []
        for shape, colour in named:
            radius = rng.uniform(smallest, largest)
            edge = 1.2 * radius + 0.5
            place = Placed(shape, colour, rng.uniform(edge, SIZE - edge), rng.uniform(edge, SIZE - edge), radius)
            placed.append(place)
        if _apart(placed) and _related(placed, scene.relation):
            return placed


def _apart(placed: list[Placed]) -> bool:
    pairs = [(a, b) for i, a in enumerate(placed) for b in placed[:i]]
    return all(math.hypot(a.x - b.x, a.y - b.y) > 1.2 * (a.radius + b.radius) + 1.5 for a, b in pairs)


def _related(placed: list[Placed], relation: str | None) -> bool:
    if relation not in OPPOSITES:
        return True
    first, second = placed[:2]
    dx, dy = second.x - first.x, second.y - first.y
    along, across = (dx, dy) if relation in ("left of", "right of") else (dy, dx)
    if relation in ("right of", "below"):
        along = -along
    return along > 1.5 * abs(across) and along > first.radius + second.radius


def render(scene: Scene, rng: Random) -> Image.Image:
    """Draw a picture in which the scene is true.

    If the scene names no background, its colour is random, but not the colour of a thing.
    """
    taken = {thing.colour for thing in scene.things}
    background = scene.background or rng.choice([colour for colour in BACKGROUNDS if colour not in taken])
    return draw(arrange(scene, rng), background)
