"""The one place where pictures are opened, checked and saved."""

import os
from collections.abc import Iterable

from PIL import Image, UnidentifiedImageError

from .errors import RecordFailed

LARGEST_SIDE = 16384
"""Pixels; a picture with a longer side is refused before it is decoded."""


class Pictures:
    """Opens pictures below the folders that are allowed, and no others.

    A record is data from elsewhere: its file name may not lead to any file of this machine. Allowed are the folders
    of the records' own files, the working directory, and what the user adds.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self._folders = tuple({os.path.join(os.path.realpath(folder), "") for folder in (*folders, os.getcwd())})

    def open(self, path: str) -> Image.Image:
        """The picture as RGB, upright; transparency lies on white. Raises `RecordFailed` with the reason."""
        real = os.path.realpath(path)
        if not real.startswith(self._folders):
            raise RecordFailed(f"{path}: lies outside the folders allowed; add --root {os.path.dirname(real)}")
        try:
            with Image.open(real) as opened:
                if max(opened.size) > LARGEST_SIDE:
                    raise RecordFailed(f"{path}: {opened.width} × {opened.height} pixels is too large")
                opened.load()
                return _as_rgb(opened)
        except FileNotFoundError:
            raise RecordFailed(f"{path}: there is no such picture") from None
        except UnidentifiedImageError:
            raise RecordFailed(f"{path}: not a picture") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise RecordFailed(f"{path}: cannot be decoded: {str(error).lower()}") from None


def _as_rgb(picture: Image.Image) -> Image.Image:
    turned = picture
    if picture.getexif().get(0x0112, 1) != 1:
        from PIL import ImageOps

        turned = ImageOps.exif_transpose(picture)
    if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
        layer = turned.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return turned.convert("RGB")


def save(picture: Image.Image, path: str) -> None:
    """Write a PNG whole or not at all; folders on the way are made."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = f"{path}.{os.getpid()}.part"
    try:
        picture.save(part, format="PNG")
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise
