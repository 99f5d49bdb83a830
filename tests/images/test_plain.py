"""Files that every decoder shows alike, and files that are cut off, changed, or hold more than pixels."""

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vpctl.images.plain import plain_picture, stated_size

WIDTH, HEIGHT = 40, 30
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def stored(form: str, **how: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((WIDTH, HEIGHT), 90).convert("RGB").save(file, form, **how)
    return file.getvalue()


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(width: int = 4, height: int = 4, *how: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *(how or (8, 2, 0, 0, 0))))


ROW = b"\0" + bytes(range(12))
PIXELS = zlib.compress(4 * ROW)


def png(*before: bytes, head: bytes = header(), data: tuple[bytes, ...] = (PIXELS,), end: bytes = b"") -> bytes:
    """A PNG of 4 × 4 pixels whose checksums of chunks are right, whatever is in them."""
    return SIGNATURE + head + b"".join(before) + b"".join(chunk(b"IDAT", one) for one in data) + chunk(b"IEND", end)


def text(keyword: str, content: str = "x") -> bytes:
    return chunk(b"tEXt", f"{keyword}\0{content}".encode("latin-1"))


def texts(*, compressed: bool) -> PngInfo:
    info = PngInfo()
    info.add_text("parameters", "a red circle", zip=compressed)
    return info


PNG = stored("PNG", dpi=(72, 72), pnginfo=texts(compressed=False))


@pytest.mark.parametrize(
    "content",
    [
        PNG,
        stored("PNG", compress_level=0),
        png(),
        png(data=(PIXELS[:7], PIXELS[7:], b"")),
        png(text("prompt"), text("Software", "a program")),
        png() + b"anything behind the end",
    ],
)
def test_a_plain_picture_is_opened_as_it_is(content: bytes) -> None:
    picture = plain_picture(content)
    assert picture
    with Image.open(io.BytesIO(content)) as opened:
        opened.load()
        assert opened.getexif() == {}
        assert (opened.format, opened.mode, opened.size) == (picture.format, picture.mode, picture.size)
        assert picture.copy().tobytes() == opened.tobytes()
        assert picture.resize((3, 2)).tobytes() == opened.resize((3, 2)).tobytes()


@given(st.data())
def test_files_that_are_cut_off_are_not_plain(data: st.DataObject) -> None:
    assert not plain_picture(PNG[: data.draw(st.integers(0, len(PNG) - 1))])


@given(st.integers(0, len(PNG) - 1), st.integers(1, 255))
def test_a_png_with_a_changed_byte_is_not_plain(place: int, change: int) -> None:
    changed = bytearray(PNG)
    changed[place] ^= change
    assert not plain_picture(bytes(changed))


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_what_no_decoder_opens_is_not_plain_though_its_checksums_hold(data: bytes, other: bytes) -> None:
    content = png(chunk(b"tEXt", other), data=(data,))
    assert not plain_picture(content)


BROKEN = {
    "pixels that are not compressed": png(data=(b"x" * 30,)),
    "no pixels": png(data=()),
    "empty pixels": png(data=(b"",)),
    "pixels that are cut off": png(data=(PIXELS[:10],)),
    "pixels without their checksum": png(data=(PIXELS[:-4],)),
    "pixels with a wrong checksum": png(data=(PIXELS[:-4] + b"abcd",)),
    "too few rows": png(data=(zlib.compress(3 * ROW),)),
    "an unknown filter": png(data=(zlib.compress(4 * (b"\x09" + ROW[1:])),)),
    "a height of zero": png(head=header(4, 0)),
    "a width of zero": png(head=header(0, 4)),
    "rows that are not interlaced as it says": png(head=header(4, 4, 8, 2, 0, 0, 1)),
    "an unknown compression": png(head=header(4, 4, 8, 2, 9, 0, 0)),
    "a size that its pixels do not have": png(head=header(8000, 8000)),
    "a second header": png(header(2, 2)),
    "no header": png(head=b""),
    "a header that is too short": png(head=chunk(b"IHDR", bytes(12))),
    "a text that is taken for a colour": png(text("transparency")),
    "a text that is taken for a place": png(text("bbox")),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_files_are_not_plain(content: bytes) -> None:
    assert not plain_picture(content)


XMP = '<x tiff:Orientation="6"/>'
OTHER = {
    "more rows": png(data=(zlib.compress(9 * ROW),)),
    "something behind the pixels": png(data=(PIXELS + b"x",)),
    "something in the end": png(end=b"abc"),
    "16 bits": png(head=header(4, 4, 16, 2, 0, 0, 0), data=(zlib.compress(4 * (b"\0" + bytes(24))),)),
    "grey": png(head=header(4, 4, 8, 0, 0, 0, 0), data=(zlib.compress(4 * bytes(5)),)),
    "a turn": png(text("XML:com.adobe.xmp", XMP)),
    "a turn in a profile": png(text("Raw profile type exif", "\nexif\n 3\n4d4d00")),
    "a size that only the first header has": png(header(300, 200), data=(zlib.compress(200 * bytes(901)),)),
    "a window that is too small": png(head=header(30, 20), data=(b"\x08\x1d" + zlib.compress(20 * bytes(91))[2:],)),
    "a gamma": png(chunk(b"gAMA", (45455).to_bytes(4))),
    "a short chunk": png(chunk(b"sRGB")),
    "many chunks": png(*[text("Comment")] * 99),
    "a text behind the pixels": png()[:-12] + text("Comment") + chunk(b"IEND"),
    "a compressed text": stored("PNG", pnginfo=texts(compressed=True)),
    "many pixels": png(head=header(700, 700), data=(zlib.compress(700 * bytes(2101)),)),
    **{kind.decode(): png(chunk(kind, b"x")) for kind in (b"eXIf", b"iTXt", b"tRNS", b"acTL", b"zTXt", b"iCCP")},
    **{form: stored(form) for form in ("JPEG", "WEBP", "BMP")},
}


@pytest.mark.parametrize("content", OTHER.values(), ids=OTHER)
def test_other_pictures_are_left_to_their_decoder(content: bytes) -> None:
    assert not plain_picture(content)


@pytest.mark.parametrize("content", [b"", b"a text", SIGNATURE, SIGNATURE + chunk(b"IEND")])
def test_other_files_are_not_plain(content: bytes) -> None:
    assert not plain_picture(content)


@pytest.mark.parametrize("content", [*BROKEN.values(), *OTHER.values(), PNG], ids=[*BROKEN, *OTHER, "whole"])
def test_the_size_is_what_pillow_says(content: bytes) -> None:
    found = stated_size(content)
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            size = opened.size
    except (OSError, ValueError, SyntaxError):  # it is never shown
        return
    assert found == (size if opened.format == "PNG" and content.count(b"IHDR") == 1 else None)


@given(st.integers(8, 32), st.integers(1, 255))
def test_a_header_with_a_changed_byte_has_no_size(place: int, change: int) -> None:
    changed = bytearray(PNG)
    changed[place] ^= change
    assert stated_size(bytes(changed)) is None
    assert stated_size(PNG[:place]) is None
