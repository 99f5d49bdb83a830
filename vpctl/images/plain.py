"""Looks at PNG files without a decoder: how large they are, and whether they are plain.

A plain one is upright RGB, all of it is there, and no decoder has to convert it.
"""

import io
import struct
import zlib
from typing import Any

from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS = 64
_LARGEST = 1 << 20
"""Bytes of pixels. More would take milliseconds, in which an event loop does nothing else."""
_HEADER = struct.Struct(">IIBBBBB")
_BEGINS = struct.pack(">I4s", _HEADER.size, b"IHDR")
_8_BIT_RGB = (8, 2, 0, 0, 0)
"""Bits, type of colour, compression, filters, and no interlacing."""
_SIZES = {b"IHDR": _HEADER.size, b"sRGB": 1, b"pHYs": 9, b"tIME": 7}
"""Chunks that change no pixel in any decoder, with their sizes."""
_TEXTS = (
    b"parameters",
    b"prompt",
    b"workflow",
    b"Software",
    b"Comment",
    b"Description",
    b"Title",
    b"Author",
    b"Source",
)
"""Keywords of texts. Others may turn the picture (XMP), or change how Pillow reads it."""
_FILTERS = 5
_SMALLEST_WINDOW, _LARGEST_WINDOW = 1 << 8, 1 << 15
"""Bytes back to which compressed data may refer."""


class PlainPicture(Image.Image):
    """The picture in a plain file, which is decoded when its pixels are first used."""

    format = "PNG"

    def __init__(self, content: bytes, size: tuple[int, int]) -> None:
        super().__init__()
        self._content, self._mode, self._size = content, "RGB", size

    def load(self) -> Any:
        """Decode the file if this has not been done. Pillow calls it before it uses pixels."""
        if self._im is None:
            with Image.open(io.BytesIO(self._content), formats=("PNG",)) as opened:
                opened.load()
                self.im = opened.im
        return super().load()


def plain_picture(content: bytes) -> PlainPicture | None:
    """The picture in a file of which every decoder shows the same pixels, without an error or a conversion.

    None for any other file. It may still be a fine picture, such as one with transparency, one in another format, or a
    large one: decode it.
    """
    chunks = _chunks(content)
    if not chunks or chunks[0][0] != b"IHDR":
        return None
    kinds = [kind for kind, _ in chunks]
    first, count = kinds.index(b"IDAT") if b"IDAT" in kinds else len(kinds), kinds.count(b"IDAT")
    if kinds.count(b"IHDR") != 1 or first + count != len(kinds):  # a text may also stand behind the pixels
        return None
    if not all(_is_harmless(kind, data) for kind, data in chunks[:first]):
        return None
    width, height, *how = _HEADER.unpack(chunks[0][1])
    if tuple(how) != _8_BIT_RGB or not _is_whole([data for _, data in chunks[first:]], width, height):
        return None
    return PlainPicture(content, (width, height))


def stated_size(content: bytes) -> tuple[int, int] | None:
    """Width and height in pixels in the only header of a PNG. None if it does not begin with an intact one.

    Pillow says the same, and takes twenty times as long.
    """
    start = len(_SIGNATURE)
    end = start + 8 + _HEADER.size
    if not content.startswith(_SIGNATURE) or content[start : start + 8] != _BEGINS or len(content) < end + 4:
        return None
    if content.count(b"IHDR") > 1:  # perhaps a second header, which Pillow would use
        return None
    if zlib.crc32(content[start + 4 : end]) != int.from_bytes(content[end : end + 4]):
        return None
    width, height = _HEADER.unpack_from(content, start + 8)[:2]
    return (width, height) if width and height else None


def _chunks(content: bytes) -> list[tuple[bytes, memoryview]]:
    """The chunks of a PNG before its end. Empty if it has no end, a wrong checksum, or very many chunks."""
    if not content.startswith(_SIGNATURE):
        return []
    found: list[tuple[bytes, memoryview]] = []
    view, start = memoryview(content), len(_SIGNATURE)
    try:
        while len(found) <= _MOST_CHUNKS:
            length, kind = struct.unpack_from(">I4s", content, start)
            end = start + 8 + length
            if zlib.crc32(view[start + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
                return []
            if kind == b"IEND":
                return [] if length else found
            found.append((kind, view[start + 8 : end]))
            start = end + 4
    except struct.error:  # it ends too early
        pass
    return []


def _is_harmless(kind: bytes, data: memoryview) -> bool:
    if kind == b"tEXt":
        return bytes(data).partition(b"\0")[0] in _TEXTS
    return _SIZES.get(kind) == len(data)


def _is_whole(parts: list[memoryview], width: int, height: int) -> bool:
    """Whether the compressed `parts` hold all rows of a picture, and nothing else."""
    row = 1 + 3 * width
    size = row * height
    if not width or not height or size > _LARGEST:
        return False
    data, inflating = b"".join(parts), zlib.decompressobj()
    # libpng believes the window that the data state. Pillow always takes the largest one.
    if not data or _SMALLEST_WINDOW << (data[0] >> 4) < min(size, _LARGEST_WINDOW):
        return False
    try:
        pixels = inflating.decompress(data, size + 1)
    except zlib.error:
        return False
    return inflating.eof and len(pixels) == size and not inflating.unused_data and max(pixels[::row]) < _FILTERS
