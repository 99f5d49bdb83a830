"""Files whose checksums hold, and files that are cut off, changed, or hold more than pixels."""

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vpctl.images.intact import is_intact


def stored(form: str, **how: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 90).convert("RGB").save(file, form, **how)
    return file.getvalue()


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def texts(*, compressed: bool) -> PngInfo:
    info = PngInfo()
    info.add_text("parameters", "a red circle", zip=compressed)
    return info


PNG, JPEG = stored("PNG", dpi=(72, 72), pnginfo=texts(compressed=False)), stored("JPEG")
END = len(PNG) - 12
"""Where the last chunk of the PNG begins."""


def test_whole_files_are_intact() -> None:
    assert is_intact(PNG)
    assert is_intact(JPEG)
    assert is_intact(stored("JPEG", progressive=True))
    assert is_intact(PNG + b"anything behind the end"), "no decoder reads it"


@given(st.data())
def test_files_that_are_cut_off_are_not_intact(data: st.DataObject) -> None:
    content = data.draw(st.sampled_from([PNG, JPEG]))
    assert not is_intact(content[: data.draw(st.integers(0, len(content) - 1))])


@given(st.integers(0, len(PNG) - 1), st.integers(1, 255))
def test_a_png_with_a_changed_byte_is_not_intact(place: int, change: int) -> None:
    changed = bytearray(PNG)
    changed[place] ^= change
    assert not is_intact(bytes(changed))


@pytest.mark.parametrize("content", [stored("WEBP"), stored("BMP"), b"", b"a text", PNG[:8] + chunk(b"IEND")])
def test_other_files_are_not_intact(content: bytes) -> None:
    assert not is_intact(content)


@pytest.mark.parametrize("kind", [b"eXIf", b"iTXt", b"tRNS", b"acTL", b"zTXt", b"iCCP"])
def test_a_png_with_more_than_pixels_is_decoded(kind: bytes) -> None:
    head = 8 + 25  # the signature and the first chunk
    assert is_intact(PNG[:head] + chunk(b"pHYs", bytes(9)) + PNG[head:])
    assert not is_intact(PNG[:head] + chunk(kind, b"x") + PNG[head:])
    assert not is_intact(stored("PNG", pnginfo=texts(compressed=True)))


def test_a_png_with_something_behind_its_pixels_is_decoded() -> None:
    assert is_intact(PNG[:END] + chunk(b"IDAT", b"x") + PNG[END:])
    assert not is_intact(PNG[:END] + chunk(b"tEXt", b"x") + PNG[END:])
