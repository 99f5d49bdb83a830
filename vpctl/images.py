"""The one place where pictures are opened, checked and saved."""

import glob
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable

from PIL import Image, UnidentifiedImageError

from .errors import RecordFailed, UserError
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
    part = f"{path}.{os.getpid()}.part"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        picture.save(part, format="PNG")
        os.replace(part, path)
        for other in glob.glob(f"{glob.escape(path)}.*.part"):
            if not _runs(other.split(".")[-2]):  # a run that was killed while it wrote
                os.unlink(other)
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    finally:
        if os.path.exists(part):
            os.unlink(part)


def _runs(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


class Contents:
    """Hashes of pictures' content. With a `cache`, what was hashed by an earlier run and has not changed is not read.

    As make and git do it, a file that has the size, the times and the inode it had is taken to be the same.
    """

    def __init__(self, pictures: Pictures, cache: str = "") -> None:
        self._pictures = pictures
        self._cache = cache
        self._database = _opened(cache) if cache else None

    def __call__(self, path: str) -> str:
        """Sixteen hex digits. Raises `RecordFailed` if the picture may not, or cannot, be read."""
        real = self._pictures.find(path)
        try:
            now = os.stat(real)
            seen = f"{now.st_size} {now.st_mtime_ns} {now.st_ctime_ns} {now.st_ino}"
            if found := self._ask("select content from contents where path = ? and seen = ?", real, seen):
                return str(found[0])
            with open(real, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        except OSError as error:
            raise RecordFailed(f"{path}: {(error.strerror or str(error)).lower()}") from None
        # A file that was only just written may be written once more within one tick of its clock.
        if time.time() - now.st_ctime > SETTLED:
            self._ask("insert or replace into contents values (?, ?, ?)", real, seen, content)
        return content

    def _ask(self, question: str, *values: str) -> tuple[str, ...] | None:
        """The row that the cache has. If it does not answer, as where another run writes, it is done without."""
        try:
            return self._database.execute(question, values).fetchone() if self._database else None
        except sqlite3.Error:
            self.close()
            return None

    def close(self) -> None:
        """Use the cache no more; what was hashed is kept."""
        if self._database:
            self._database.close()
        self._database = None


BUSY = 1.0
"""Seconds in which another run may be writing to the cache before it is done without."""
SETTLED = 2.0
"""Seconds after which a file's times tell whether it has changed since."""


def _opened(path: str) -> sqlite3.Connection | None:
    """The cache; a broken one is begun anew, and where none can be, there is none."""
    for _ in range(2):
        try:
            database = sqlite3.connect(path, timeout=BUSY, check_same_thread=False, isolation_level=None)
            database.execute("pragma journal_mode = wal")
            database.execute("pragma synchronous = off")
            database.execute("create table if not exists contents (path text primary key, seen text, content text)")
            return database
        except sqlite3.OperationalError:
            return None
        except sqlite3.DatabaseError:
            os.unlink(path)
    return None
