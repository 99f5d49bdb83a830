"""The one place where pictures are opened, checked and saved."""

import os
from collections.abc import Iterable

from PIL import Image, UnidentifiedImageError

from .errors import RecordFailed, UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is opened; Pillow would hand a PostScript file to Ghostscript."""
LARGEST = 1 << 26
"""Pixels; a picture of more is refused before it is decoded, and before Pillow warns of it in its own words."""
Image.MAX_IMAGE_PIXELS = None


class Pictures:
    """Opens pictures below the folders that are allowed, and no others.

    A record is data from elsewhere: its file name may not lead to any file of this machine. Allowed are the folders
    of the records' own files, the working directory, and what the user adds.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self._folders = tuple({os.path.join(os.path.realpath(folder), "") for folder in (*folders, os.getcwd())})

    def open(self, path: str) -> Image.Image:
        """The picture as RGB, upright; transparency lies on white. Raises `RecordFailed` with the reason."""
        real = os.path.realpath(path) if "\0" not in path else ""
        if real and not real.startswith(self._folders):
            raise RecordFailed(f"{path}: lies outside the folders allowed; add --root {os.path.dirname(real)}")
        if not os.path.isfile(real):
            raise RecordFailed(f"{path}: there is no such picture")
        try:
            with Image.open(real, formats=FORMATS) as opened:
                if opened.width * opened.height > LARGEST:
                    raise RecordFailed(
                        f"{path}: {opened.width} × {opened.height} pixels is too large; {LARGEST} in all is the most"
                    )
                opened.load()
                return _as_rgb(opened)
        except RecordFailed:
            raise
        except UnidentifiedImageError:
            raise RecordFailed(f"{path}: not a picture") from None
        except Exception as error:  # Pillow's decoders raise anything, down to RuntimeError, on a broken file
            reason = getattr(error, "strerror", None) or str(error)
            raise RecordFailed(f"{path}: cannot be decoded: {reason.lower()}") from None


def _as_rgb(picture: Image.Image) -> Image.Image:
    turned = picture
    if picture.getexif().get(0x0112, 1) != 1:
        from PIL import ImageOps

        turned = ImageOps.exif_transpose(picture)
    if turned.mode.startswith("I"):  # 16 bits; Pillow's own conversion makes white of all but the darkest 256 shades
        turned = turned.convert("I").point(lambda shade: shade * (1 / 256)).convert("L")
    if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
        layer = turned.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return turned.convert("RGB")


def save(picture: Image.Image, path: str) -> None:
    """Write a PNG whole or not at all; folders on the way are made. Raises `UserError` where that cannot be done."""
    part = f"{path}.{os.getpid()}.part"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        picture.save(part, format="PNG")
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    finally:
        if os.path.exists(part):
            os.unlink(part)
