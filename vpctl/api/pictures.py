"""Encodes pictures for a server. Each is scaled and encoded once, however many questions are about it."""

import io
import os
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image

from ..configs import PictureConfig
from ..errors import RecordFailed
from ..images.pictures import FILE, SMALL
from .chat import data_part, picture_part

MAX_UNCHANGED_BYTES = SMALL
"""Maximum size in bytes of a file that is sent unchanged, if its format is common and its sides are not too long."""
QUALITY = 92
"""Quality of the JPEG made of all other pictures: its artefacts are far below the faults that a judge looks for."""
_KINDS = {"JPEG": "jpeg", "PNG": "png"}
"""Formats that all servers read. llama.cpp drops a WebP without a word."""


class Encoded(NamedTuple):
    """A picture as a part of a message, and its size in pixels as the server gets it."""

    part: bytes
    width: int
    height: int


class Encoder:
    """Encodes pictures. With `config.image_url` it makes URLs instead, of that and the paths relative to `folder`."""

    def __init__(self, config: PictureConfig, folder: str) -> None:
        self._config, self._folder = config, folder
        self.detail = config.detail

    @property
    def identity(self) -> dict[str, object]:
        """Everything that changes what a judge sees of every picture; `max_side` changes only some."""
        config = self._config
        if config.image_url:
            return {"detail": config.detail, "by": "url"}
        return {"detail": config.detail, "as_it_is": MAX_UNCHANGED_BYTES, "quality": QUALITY}

    @property
    def max_side(self) -> int:
        """Length of a side in pixels to which longer ones are shrunk; 0 if none is."""
        return 0 if self._config.image_url else self._config.max_side

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size in pixels in which the server gets a picture of this size."""
        scale = min(1.0, (self.max_side or max(size)) / max(size))
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    def __call__(self, picture: Image.Image, path: str) -> Encoded:
        """The picture, opened from `path`, as JPEG or as the unchanged file. Thread-safe.

        This is the most expensive step of judging with a server. Raises `RecordFailed` if the picture is too large for
        JPEG, or if it has no URL.
        """
        config = self._config
        if config.image_url:
            relative = os.path.relpath(path, self._folder or ".")
            if relative.startswith(os.pardir + os.sep):
                raise RecordFailed(f"{path}: is outside the folder of the records, so it has no URL below --image-url")
            part = picture_part(config.image_url + quote(relative.replace(os.sep, "/")), config.detail)
            return Encoded(part, picture.width, picture.height)
        fits = not config.max_side or max(picture.size) <= config.max_side
        if not fits:
            picture = picture.resize(self.size(picture.size), Image.Resampling.LANCZOS)
        kind, content = (fits and _as_it_is(picture)) or ("jpeg", _as_jpeg(picture))
        return Encoded(data_part(kind, content, config.detail), picture.width, picture.height)


def _as_it_is(picture: Image.Image) -> tuple[str, bytes] | None:
    """Format and content of the file if it shows exactly this picture; None if the picture must be encoded.

    `picture` is that of `Pictures.open`. It has a format only if it is as Pillow read it, and was not converted.
    """
    content = picture.info.get(FILE)
    if picture.format not in _KINDS or not isinstance(content, bytes) or getattr(picture, "n_frames", 1) != 1:
        return None
    return _KINDS[picture.format], content


def _as_jpeg(picture: Image.Image) -> bytes:
    """The picture as JPEG. Raises `RecordFailed` if a side is longer than JPEG allows."""
    encoded = io.BytesIO()
    try:
        picture.save(encoded, format="JPEG", quality=QUALITY, subsampling=0)
    except (OSError, SystemError):
        size = f"{picture.width} × {picture.height}"
        raise RecordFailed(f"a picture of {size} pixels is too large for JPEG; shrink it with --max-side") from None
    return encoded.getvalue()
