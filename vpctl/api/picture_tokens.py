"""How many tokens a picture takes: each family of models has its own rule.

The rules are those that the makers documented in November 2026. They serve estimates and the limits on cost only: the
real numbers come from the answers.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

TOKENS_PER_PIXEL = 1 / 196
"""In a picture, for an unknown model: one token per 14 × 14 pixels, the most that open models take."""


class PictureRule(Protocol):
    """A way to count the tokens of a picture."""

    def tokens(self, width: int, height: int, detail: str) -> float:
        """The number of tokens of a picture of this size in pixels. `detail` is low, high, auto or empty."""


class Tiles(NamedTuple):
    """A picture takes `base` tokens, and `tile` tokens for each tile of `side` × `side` pixels.

    It is scaled down first: to fit into `fit` × `fit` pixels, then its shorter side to `short` pixels. 0 leaves a step
    out. At most `most` tiles count. In low detail a picture takes only `base` tokens.
    """

    base: float
    tile: float
    side: float = 512
    fit: float = 2048
    short: float = 768
    most: float = math.inf

    def tokens(self, width: int, height: int, detail: str) -> float:
        """The number of tokens."""
        if detail == "low":
            return self.base
        scale = min(1.0, self.fit / max(width, height)) if self.fit else 1.0
        scale *= min(1.0, self.short / (min(width, height) * scale)) if self.short else 1.0
        tiles = math.ceil(width * scale / self.side) * math.ceil(height * scale / self.side)
        return self.base + min(tiles, self.most) * self.tile


class Patches(NamedTuple):
    """A picture takes `times` tokens for each patch of `side` × `side` pixels.

    It is scaled down first: its longer side to `fit` pixels, unless that is 0, and then until it has at most `most`
    patches. There are `row` more tokens for each row of patches, and `plus` more for the picture.
    """

    most: float
    times: float = 1.0
    side: float = 32
    fit: float = 0
    row: float = 0
    plus: float = 0

    def tokens(self, width: int, height: int, detail: str) -> float:
        """The number of tokens. `detail` does not change it."""
        scale = min(1.0, self.fit / max(width, height)) if self.fit else 1.0
        columns, rows = width * scale / self.side, height * scale / self.side
        if math.ceil(columns) * math.ceil(rows) > self.most:
            shrink = math.sqrt(self.most / (columns * rows))
            columns, rows = columns * shrink, rows * shrink
            whole = min(max(1, math.floor(columns)) / columns, max(1, math.floor(rows)) / rows, 1.0)
            columns, rows = round(columns * whole, 9), round(rows * whole, 9)
        patches = min(math.ceil(columns) * math.ceil(rows), self.most)
        return patches * self.times + math.ceil(rows) * self.row + self.plus


class Crops(NamedTuple):
    """A picture takes `crop` tokens, or that for each crop if a side is longer than 384 pixels.

    A crop is a square. Its side is the shorter side of the picture divided by 1.5, and from 256 to 768 pixels.
    """

    crop: float

    def tokens(self, width: int, height: int, detail: str) -> float:
        """The number of tokens. `detail` does not change it."""
        if max(width, height) <= 384:
            return self.crop
        side = min(768, max(256, math.floor(min(width, height) / 1.5)))
        return self.crop * math.ceil(width / side) * math.ceil(height / side)


class Fixed(NamedTuple):
    """Every picture takes `tokens_each` tokens, or `low` in low detail."""

    tokens_each: float
    low: float

    def tokens(self, width: int, height: int, detail: str) -> float:
        """The number of tokens."""
        return self.low if detail == "low" else self.tokens_each


_CLAUDE = Patches(1568, side=28, fit=1568)
_CLAUDE_LARGE = Patches(4784, side=28, fit=2576)
_PIXTRAL = Patches(4096, side=16, fit=1024, row=1)
_MISTRAL = Patches(3025, side=28, fit=1540, row=1)
_QWEN_28, _QWEN_32 = Patches(16_384, side=28, plus=2), Patches(16_384, side=32, plus=2)

RULES: Mapping[str, PictureRule] = {
    "gpt-4o": Tiles(85, 170),
    "chatgpt-4o": Tiles(85, 170),
    "gpt-4-turbo": Tiles(85, 170),
    "gpt-4o-mini": Tiles(2833, 5667),
    "gpt-4.1": Tiles(85, 170),
    "gpt-4.1-mini": Patches(1536, 1.62),
    "gpt-4.1-nano": Patches(1536, 2.46),
    "gpt-5": Tiles(70, 140),
    "gpt-5-mini": Patches(1536, 1.62),
    "gpt-5-nano": Patches(1536, 2.46),
    "gpt-5.1": Tiles(70, 140),
    "gpt-5.2": Patches(1536, 1.2),
    "gpt-5.3": Patches(1536, 1.2),
    "gpt-5.4": Patches(2500, 1.2),
    "gpt-5.4-mini": Patches(1536, 1.62),
    "gpt-5.4-nano": Patches(1536, 2.46),
    "gpt-5.5": Patches(10_000, 1.2),
    "gpt-5.6": Patches(10_000, 1.2),
    "gpt-6": Patches(10_000, 1.2),
    "gpt-6.1": Patches(10_000, 1.2),
    "o1": Tiles(75, 150),
    "o3": Tiles(75, 150),
    "o4-mini": Patches(1536, 1.72),
    "gemini": Fixed(1120, 280),
    "gemini-2.0": Crops(258),
    "gemini-2.5": Crops(258),
    "gemma-3": Fixed(256, 256),
    "claude": _CLAUDE_LARGE,
    "claude-3": _CLAUDE,
    "claude-haiku-4": _CLAUDE,
    "claude-opus-4": _CLAUDE,
    "claude-opus-4-7": _CLAUDE_LARGE,
    "claude-opus-4-8": _CLAUDE_LARGE,
    "claude-sonnet-4": _CLAUDE,
    "grok": Tiles(256, 256, side=448, fit=0, short=0, most=6),
    "pixtral": _PIXTRAL,
    "magistral": _MISTRAL,
    "ministral": _MISTRAL,
    "mistral": _MISTRAL,
    "qvq": _QWEN_28,
    "qwen-vl": _QWEN_32,
    "qwen2-vl": _QWEN_28,
    "qwen2.5-vl": _QWEN_28,
    "qwen3": _QWEN_32,
}
"""The rule of each family: of the models whose names begin with the name here. The longest name counts."""

_READ: tuple[type[Tiles] | type[Patches], ...] = (Tiles, Patches)


def family_rule(model: str) -> PictureRule | None:
    """The rule for the pictures of a model; None if its family is unknown. The part up to the last ``/`` is ignored."""
    bare = model.rpartition("/")[2].lower()
    if bare.startswith("claude"):
        bare = bare.replace(".", "-")  # OpenRouter calls claude-opus-4-7 claude-opus-4.7
    known = [name for name in RULES if bare.startswith(name) and not bare[len(name) : len(name) + 1].isdigit()]
    return RULES[max(known, key=len)] if known else None


def read_rule(entry: object) -> Tiles | Patches | None:
    """The rule that a table of the user's file describes, with the fields of `Tiles` or `Patches`; None if it is none.

    The values must be numbers.
    """
    if not isinstance(entry, dict):
        return None
    for kind in _READ:
        needed = {name for name in kind._fields if name not in kind._field_defaults}
        if needed <= entry.keys() <= {*kind._fields}:
            return kind(**entry)
    return None


def picture_tokens(width: int, height: int, detail: str, rule: PictureRule | None) -> float:
    """The number of tokens of a picture of this size in pixels, by the rule of its model, which may be unknown."""
    if rule is None:
        return width * height * TOKENS_PER_PIXEL + 16
    return rule.tokens(width, height, detail)
