"""Opens, checks and saves pictures. No other module does this."""

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ..errors import RecordFailed, UserError, os_reason
from ..streams.whole import atomic_update
from . import plain
from .contents import Contents, open_regular
from .folders import Folders, PictureFile

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that are opened. Without this list, Pillow would pass PostScript files to Ghostscript."""
FILE = "file"
"""Key of `info` in a picture that is exactly as Pillow read it: the content of its file, if that is `SMALL`."""
SMALL = 1 << 17
"""Maximum number of bytes of a file whose content stays with the picture."""
SENT = ("PNG", "JPEG", "WEBP")
"""Formats in which servers send pictures."""
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
"""Formats that are saved, by the suffix of the file."""
QUALITY = 95
"""Quality of a JPEG or WebP file: a loss that a reward or a judge hardly sees, in a third of the bytes of a PNG."""
MAX_PIXELS = 1 << 26
"""Maximum number of pixels. A larger picture is refused before it is decoded and before Pillow warns about it."""
STRIP = 1 << 22
"""Number of pixels that are converted at once."""
Image.MAX_IMAGE_PIXELS = None
_ORIENTATION = ExifTags.Base.Orientation


class Pictures:
    """Opens pictures in the allowed folders only; see `folders`."""

    def __init__(self, folders: Iterable[str], *, piped: bool = False) -> None:
        self.find = Folders(folders, piped=piped).find
        """Finds the file of a picture; see `Folders.find`."""
        self._content = Contents()

    def size(self, path: str) -> tuple[int, int]:
        """Width and height in pixels, as stated in the file. Raises `RecordFailed` with the reason."""
        with _reading(path), Image.open(self.find(path).path, formats=FORMATS) as opened:
            return opened.size

    def open(self, path: str) -> Image.Image:
        """Return the picture as upright RGB, on white if it is transparent. Raises `RecordFailed` with the reason.

        See `FILE` for what its `info` holds.
        """
        with (
            _reading(path),
            self.stored(self.find(path), path) as file,
            Image.open(file, formats=FORMATS) as opened,
        ):
            if opened.width * opened.height > MAX_PIXELS:
                raise RecordFailed(
                    f"{path}: {opened.width} × {opened.height} pixels is too large; the maximum is {MAX_PIXELS} "
                    "in total"
                )
            opened.load()
            picture = as_rgb(opened)
            picture.info.pop(FILE, None)  # a file may hold a text with this key
            if picture is opened and isinstance(file, io.BytesIO) and len(content := file.getvalue()) <= SMALL:
                picture.info[FILE] = content
            return picture

    def at_hand(self, path: str, max_side: int = 0) -> Image.Image | None:
        """Return what `open` would return, as the file was when it was hashed. Does not ask the file system.

        The picture is decoded only when its pixels are used. Returns None for a file that is not kept in memory since
        it was hashed, not `SMALL`, or not plain, and if a side is longer than `max_side` pixels, unless that is 0.
        `open` it then.
        """
        content = self._content.kept(path)
        picture = plain.plain_picture(content) if content and len(content) <= SMALL else None
        if picture is None or max(picture.size) > max_side > 0:
            return None
        self._content.drop(path)
        picture.info[FILE] = content
        return picture

    def stored(self, found: PictureFile, path: str, *, for_later: bool = False) -> io.BufferedReader | io.BytesIO:
        """The file found at `path`, open for reading; a small one is in memory. `for_later` keeps it for `open`.

        Raises `OSError`.
        """
        content = self._content(found, path, for_later=for_later)
        return open(open_regular(found.path), "rb") if content is None else io.BytesIO(content)


def stated_size(file: BinaryIO, name: str) -> tuple[int, int]:
    """Width and height in pixels, as stated in an open file. Raises `RecordFailed` with the reason and the `name`."""
    file.seek(0)
    if isinstance(file, io.BytesIO) and (size := plain.stated_size(file.getvalue())):
        return size
    with _reading(name), Image.open(file, formats=FORMATS) as opened:
        return opened.size


def decoded(content: bytes, name: str) -> Image.Image:
    """The picture in the content of a file: upright RGB, or RGBA if it is transparent. `name` is for messages.

    It may come from anywhere. Raises `RecordFailed` with the reason.
    """
    with _reading(name), Image.open(io.BytesIO(content), formats=SENT) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise RecordFailed(f"{name}: {opened.width} × {opened.height} pixels is too large")
        opened.load()
        return opened.convert("RGBA") if opened.mode == "RGBA" else as_rgb(opened)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """A context in which a picture is read. Errors become `RecordFailed` with the reason."""
    try:
        yield
    except RecordFailed:
        raise
    except UnidentifiedImageError:
        raise RecordFailed(f"{path}: not a picture") from None
    except Exception as error:  # on a broken file, Pillow's decoders raise many types, even RuntimeError
        reason = getattr(error, "strerror", None) or str(error)
        raise RecordFailed(f"{path}: cannot be decoded: {reason.lower()}") from None


def as_rgb(picture: Image.Image) -> Image.Image:
    """The picture as upright RGB, on white if it is transparent.

    It is converted in strips, so that at most two full copies exist.
    """
    turned = picture
    if picture.getexif().get(_ORIENTATION, 1) != 1:
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
    """Convert a picture, or a strip of one, to RGB on white. Each pixel depends only on itself."""
    if picture.mode.startswith("I"):  # 16 bits; Pillow's own conversion turns all but the darkest 256 shades white
        picture = picture.convert("I").point(lambda shade: shade * (1 / 256)).convert("L")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


def save(picture: Image.Image, path: str, parameters: str = "", *, quality: int = QUALITY) -> None:
    """Write a file completely or not at all. Creates missing folders. Raises `UserError` if this fails.

    The suffix of `path` says the format: PNG, JPEG or WebP, the latter two with this `quality`, from 1 to 100.
    `parameters` is a text that says how the picture was drawn, stored as the AUTOMATIC1111 web UI stores it.
    """
    options: dict[str, Any] = {"format": SUFFIXES[os.path.splitext(path)[1]]}
    if options["format"] == "PNG":
        options["pnginfo"] = about = PngInfo()
        if parameters:
            about.add_text("parameters", parameters)
    else:
        picture = as_rgb(picture)
        options |= {"quality": quality, "exif": _comment(parameters)}
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with atomic_update(path, synced=False) as part:
            picture.save(part, **options)
    except OSError as error:
        raise UserError(f"{path}: {os_reason(error)}") from None


def saved_parameters(path: str) -> tuple[tuple[int, int], str]:
    """Width and height of a picture that `save` has written, and its text. Raises `UserError` if it is damaged."""
    try:
        with Image.open(path, formats=SENT) as opened:
            text = opened.info.get("parameters", "")
            if opened.format != "PNG":
                comment = opened.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
                text = comment.removeprefix(b"UNICODE\0").decode("utf-16-be", "replace")
            return opened.size, str(text)
    except Exception as error:
        raise UserError(f"{path}: cannot be read: {error}; remove it, and it is drawn again") from None


def _comment(text: str) -> Image.Exif:
    """Exif data with the text as the comment of the user."""
    data = Image.Exif()
    if text:
        data.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + text.encode("utf-16-be")
    return data
