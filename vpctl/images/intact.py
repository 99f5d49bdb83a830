"""Tells, without decoding it, whether the file of a picture is intact."""

import struct
import zlib

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG, _END_OF_JPEG = b"\xff\xd8", b"\xff\xd9"
_PLAIN = frozenset([b"IHDR", b"sRGB", b"gAMA", b"cHRM", b"pHYs", b"tIME", b"tEXt", b"IDAT"])
"""Chunks of a PNG that neither turn the picture nor make it transparent. Of these, only pixels are compressed."""


def is_intact(content: bytes) -> bool:
    """Whether a PNG or JPEG file has its end, and all its checksums hold, if the format has any.

    A PNG with chunks that are rare or cost time, such as texts that are compressed, counts as not intact; so does each
    other format. Decode those.
    """
    if content.startswith(_PNG):
        return _is_intact_png(content)
    return content.startswith(_JPEG) and content.endswith(_END_OF_JPEG)


def _is_intact_png(content: bytes) -> bool:
    view, start, before = memoryview(content), len(_PNG), b""
    try:
        while True:
            length, kind = struct.unpack_from(">I4s", content, start)
            end = start + 8 + length
            if zlib.crc32(view[start + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
                return False
            if kind == b"IEND":
                return before == b"IDAT"
            if kind not in _PLAIN or (before == b"IDAT" and kind != before):  # a text may also stand behind the pixels
                return False
            start, before = end + 4, kind
    except struct.error:  # it ends too early
        return False
