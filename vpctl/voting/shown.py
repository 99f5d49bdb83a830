"""Pictures as the page gets them: pixels only, because files say how their picture was drawn."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO

from PIL import Image

MAX_SIDE = 2048
"""Longest side in pixels; larger pictures are shrunk."""
CACHE_BYTES = 1 << 26
CONTENT_TYPE = "image/webp"


def encoded(picture: Image.Image) -> bytes:
    """The picture as lossless WebP, without anything that its file says about it.

    It takes about 40 milliseconds for a million pixels. generate writes the model and its settings into its files, and
    a vote must not depend on them, nor on the format.
    """
    picture = picture.copy()
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    plain = Image.frombytes("RGB", picture.size, picture.tobytes())
    data = BytesIO()
    plain.save(data, "WEBP", lossless=True, quality=0, method=0)
    return data.getvalue()


class ShownPictures:
    """The encoded pictures, by their paths. The last ones stay in memory, at most `CACHE_BYTES` of them. Thread-safe.

    `open_picture` opens the file of a picture, and raises `RecordFailed` if it cannot be opened.
    """

    def __init__(self, open_picture: Callable[[str], Image.Image]) -> None:
        self._open = open_picture
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    def __call__(self, path: str) -> bytes:
        """Return the encoded picture. Raises `RecordFailed` if it cannot be opened."""
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        data = encoded(self._open(path))
        with self._lock:
            if path not in self._kept:
                self._kept[path] = data
                self._size += len(data)
            while self._size > CACHE_BYTES and len(self._kept) > 1:
                self._size -= len(self._kept.popitem(last=False)[1])
        return data
