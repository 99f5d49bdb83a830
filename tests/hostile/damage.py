"""Wrong values, and damage to bytes, as Hypothesis draws them."""

import json
import math
import re
from typing import NamedTuple

from hypothesis import strategies as st

TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", " ", "\0", "\r", "\x1b[2J", "\u202e", "\ud800", "../..", "/etc/hostname", "a.png", "nan", "-"]
    ),
    st.sampled_from(["%s", "{{7*7}}", "failed", "expired", "cancelled", "completed", "in_progress", "stop", "length"]),
)
NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**64), 10**40, 1e308, -0.0, math.nan, math.inf]),
    st.integers(),
    st.floats(),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)

_VALUE = re.compile(rb'(?<=[:\[,])\s*("[^"]{0,40}"|-?[\d.]+|true|false|null|\[[^\[\]]{0,99}\]|\{[^{}]{0,99}\})')
"""A value in JSON, or a short list or object."""


class Damage(NamedTuple):
    """A change of any bytes. `how` says which: see `__call__`. The other values are used as far as it needs them."""

    how: str
    at: int
    length: int
    bit: int
    put: bytes
    value: bytes

    def __call__(self, content: bytes) -> bytes:
        """The changed bytes."""
        at = self.at % max(len(content), 1)
        begin, rest = content[:at], content[at:]
        match self.how:
            case "flip" if content:
                return begin + bytes([rest[0] ^ (1 << self.bit)]) + rest[1:]
            case "byte" if content:
                return begin + bytes([self.length]) + rest[1:]
            case "cut":
                return begin
            case "take":
                return begin + rest[self.length :]
            case "double":
                return begin + rest[: self.length] + rest
            case "put":
                return begin + self.put + rest
            case "zero":
                return begin + bytes(self.length) + rest[self.length :]
            case "replace":
                return self.value
            case "line":
                lines = content.splitlines(keepends=True)
                return b"".join(lines[: self.bit]) + b"".join(lines[self.bit + 1 :])
        places = [*_VALUE.finditer(content[:20_000])]
        if not places:
            return content
        place = places[self.at % len(places)]
        return content[: place.start()] + self.value + content[place.end() :]


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """A random change."""
    how = st.sampled_from("flip flip byte cut take double put zero replace line value value value value".split())
    puts = st.one_of(st.binary(max_size=16), st.sampled_from([b"\r", b"\n", b"\0", b"\r\n", b"\xff", b"\xef\xbb\xbf"]))
    return Damage(
        draw(how),
        draw(st.one_of(st.integers(0, 200), st.integers(0, 2**20))),  # the beginning determines how the rest is read
        draw(st.integers(1, 64)),
        draw(st.integers(0, 7)),
        draw(puts),
        json.dumps(draw(VALUES)).encode("utf-8", "surrogatepass"),
    )
