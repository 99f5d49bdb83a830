"""The one place where pictures are opened, checked and saved."""

import glob
import os
from collections.abc import Iterable

from PIL import Image, UnidentifiedImageError

from ..errors import RecordFailed, UserError, os_reason
from ..streams.whole import whole
from .folders import Folders

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is opened; Pillow would hand a PostScript file to Ghostscript."""
LARGEST = 1 << 26
"""Pixels; a picture of more is refused before it is decoded, and before Pillow warns of it in its own words."""
STRIP = 1 << 22
"""Pixels that are converted at once."""
Image.MAX_IMAGE_PIXELS = None


class Pictures:
    """Opens pictures below the folders that are allowed, and no others; see `folders`."""

    def __init__(self, folders: Iterable[str]) -> None:
        self.find = Folders(folders).find
        """Where a picture really lies. Raises `RecordFailed`."""

    def size(self, path: str) -> tuple[int, int]:
        """Width and height in pixels, as the file says them. Raises `RecordFailed` with the reason."""
        try:
            with Image.open(self.find(path), formats=FORMATS) as opened:
                return opened.size
        except (OSError, ValueError):
            raise RecordFailed(f"{path}: not a picture") from None

    def open(self, path: str) -> Image.Image:
        """The picture as RGB, upright; transparency lies on white. Raises `RecordFailed` with the reason."""
        real = self.find(path)
        try:
            with Image.open(real, formats=FORMATS) as opened:
                if opened.width * opened.height > LARGEST:
                    raise RecordFailed(
                        f"{path}: {opened.width} × {opened.height} pixels is too large; the maximum is {LARGEST} "
                        "in total"
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
    """The picture as RGB, upright, on white. At most two full copies exist at once: it is converted in strips."""
    turned = picture
    if picture.getexif().get(0x0112, 1) != 1:
        from PIL import ImageOps

        turned = ImageOps.exif_transpose(picture)
    if turned.mode == "RGB" and "transparency" not in turned.info:
        return turned
    rows = max(1, STRIP // turned.width)
    if turned.height <= rows:
        return _flat(turned)
    whole = Image.new("RGB", turned.size)
    for top in range(0, turned.height, rows):
        whole.paste(_flat(turned.crop((0, top, turned.width, min(top + rows, turned.height)))), (0, top))
    return whole


def _flat(picture: Image.Image) -> Image.Image:
    """A picture, or a strip of one, as RGB; every pixel depends on itself alone."""
    if picture.mode.startswith("I"):  # 16 bits; Pillow's own conversion makes white of all but the darkest 256 shades
        picture = picture.convert("I").point(lambda shade: shade * (1 / 256)).convert("L")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


def save(picture: Image.Image, path: str) -> None:
    """Write a PNG whole or not at all; folders on the way are made. Raises `UserError` where that cannot be done."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with whole(path, f"{path}.{os.getpid()}.part") as part:
            picture.save(part, format="PNG")
        for other in glob.glob(f"{glob.escape(path)}.*.part"):
            if not _runs(other.split(".")[-2]):  # a run that was killed while it wrote
                os.unlink(other)
    except OSError as error:
        raise UserError(f"{path}: {os_reason(error)}") from None


def _runs(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
