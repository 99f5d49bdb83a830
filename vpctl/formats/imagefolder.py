"""A folder of pictures with metadata.jsonl, .csv or .parquet, or a .txt beside each picture: imagefolder:DIR."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from ..contracts import DataRow, Format, RecordKind
from ..errors import RecordFailed, UserError, os_reason
from ..plugins import is_text
from ..sources import known_settings
from ..streams.jsonlines import dump, parse
from ..streams.names import rename
from ..streams.reading import numbered_lines
from ..streams.whole import atomic_folder
from ._parquet import Parquet
from ._pictures import name_of_file
from ._tables import SETTINGS, Columns, is_own
from .csv import header, table

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
"""Suffixes of pictures."""
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Files that describe pictures in their folder and below it, as in Hugging Face's imagefolder. The first one counts."""
CAPTIONS = (".txt", ".caption")
"""Suffixes of a file that holds the prompt of the picture beside it."""
MAX_CAPTION = 1 << 20
"""Maximum length of a caption file in bytes."""
_EXPECTED = "for cat.png write its prompt to cat.txt, or to a metadata.csv with the columns file_name and prompt"


class ImageFolder(Format):
    """The pictures in a folder and below it, in alphabetical order of the folders."""

    gives = ("image", "prompt")
    takes = ("image", "rating", "pair", "judgement")
    copies_pictures = True

    def __init__(self, argument: str) -> None:
        self._path, self._settings = known_settings(argument, SETTINGS)

    def __call__(self, kind: RecordKind) -> Iterator[DataRow]:
        """In each folder the pictures that its metadata describe, then the others."""
        if not os.path.isdir(self._path):
            reason = "is a file; name its folder" if os.path.exists(self._path) else "there is no such folder"
            raise UserError(f"{self._path}: {reason}")
        return self._rows(kind)

    def _rows(self, kind: RecordKind) -> Iterator[DataRow]:
        described: set[str] = set()
        found = False
        for folder, folders, names in os.walk(self._path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inside = os.path.relpath(folder, self._path)
            for where, row in self._described(folder, names):
                found = True
                if isinstance(row, dict) and isinstance(name := row.pop("file_name", None), str):
                    path = os.path.normpath(os.path.join(inside, name))
                    described.add(path)
                    row |= {} if kind == "prompt" else {"file_name": path}
                yield os.path.normpath(os.path.join(inside, where)), row
            for name in sorted(names):
                path = os.path.normpath(os.path.join(inside, name))
                if name.lower().endswith(PICTURES) and not name.startswith(".") and path not in described:
                    found = True
                    yield path, self._captioned(path, kind)
        if not found:
            raise UserError(f"{self._path}: there is no picture in this folder or below it; {_EXPECTED}")

    def _described(self, folder: str, names: list[str]) -> Iterator[DataRow]:
        """The rows of the metadata in this folder. Their file names are relative to it."""
        metadata = next((name for name in METADATA if name in names), "")
        path = os.path.join(folder, metadata)
        if metadata and not self._is_own(path):
            raise UserError(f"{path}: is not a file in the data set")
        if metadata.endswith(".jsonl"):
            rows, columns = _lines(path), None
        elif metadata.endswith(".csv"):
            rows, columns = ((str(line), row) for line, row in table(path)), self._columns(path, header(path))
        elif metadata:
            file = Parquet(path)
            rows, columns = file.rows(file.names), self._columns(path, file.names)
        else:
            return
        for where, row in rows:
            try:
                if isinstance(row, RecordFailed):
                    raise row
                own = columns or Columns(
                    path, [*row], **{key: one for key, one in self._settings.items() if one in row}
                )
                yield f"{metadata}:{where}", own.record(row, "image")
            except RecordFailed as fault:
                yield f"{metadata}:{where}", fault

    def _is_own(self, path: str) -> bool:
        """Whether a path is a file in the folder, and no link to another place: its text may be sent to a server."""
        return os.path.isfile(path) and is_own(path, self._path)

    def _columns(self, path: str, names: list[str]) -> Columns:
        columns = Columns(path, names, **self._settings)
        if "image" not in columns.gives:
            raise UserError(f"{path}: has no column file_name, which names the picture of each row")
        return columns

    def _captioned(self, path: str, kind: RecordKind) -> dict[str, Any] | RecordFailed:
        """The record of a picture that has its prompt in a file beside it. `path` is relative to the data set."""
        if not is_text(path):
            return RecordFailed("its name is not UTF-8; rename the file or folder, e.g. with convmv")
        stem = os.path.splitext(os.path.join(self._path, path))[0]
        for caption in (f"{stem}{suffix}" for suffix in CAPTIONS):
            if os.path.exists(caption) and not self._is_own(caption):
                return RecordFailed(f"{os.path.basename(caption)} is not a file in the data set")
            try:
                with open(caption, "rb") as file:
                    text = file.read(MAX_CAPTION)
            except FileNotFoundError:
                continue
            except OSError as error:
                return RecordFailed(f"{os.path.basename(caption)}: {os_reason(error)}")
            try:
                prompt = " ".join(text.decode("utf-8-sig").split())
            except UnicodeDecodeError:
                return RecordFailed(f"{os.path.basename(caption)} is not UTF-8 text")
            if prompt:
                return {"prompt": prompt} if kind == "prompt" else {"prompt": prompt, "file_name": path}
            return RecordFailed(f"{os.path.basename(caption)} is empty; it must hold the prompt")
        name = os.path.basename(stem)
        return RecordFailed(
            f"has no prompt; write it to {name}.txt, or to a metadata.csv with the columns file_name and prompt"
        )

    def write(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Write metadata.jsonl and, beside it, the pictures by the hashes of their content, for any records.

        The folder must be new or empty: it may hold pictures of the user. Raises `UserError` for a file that is not a
        picture, which must not be published.
        """
        if os.path.lexists(self._path) and not (os.path.isdir(self._path) and not os.listdir(self._path)):
            raise UserError(f"imagefolder:{self._path}: there is something already; name a new folder")
        rows = 0
        try:
            with atomic_folder(self._path) as folder, open(os.path.join(folder, METADATA[0]), "wb") as file:

                @lru_cache(4096)  # neighbouring records name the same pictures
                def placed(source: str) -> str:
                    """The name of a picture in the folder."""
                    try:
                        name = name_of_file(source)
                    except RecordFailed as error:
                        raise UserError(f"{source}: {error}; leave its record out") from None
                    _link(source, os.path.join(folder, name))
                    return name

                for record in records:
                    row = dict(record)
                    rename(row, placed)
                    file.write(dump(row))
                    rows += 1
        except OSError as error:
            raise UserError(f"{error.filename or self._path}: {os_reason(error)}") from None
        return rows


def _lines(path: str) -> Iterator[tuple[str, Any]]:
    """The objects of a JSON Lines file, each with its line. A line that is no object is a `RecordFailed`."""
    for where, line in numbered_lines(path):
        number = where.rpartition(":")[2]
        try:
            row = parse(line, where)
        except UserError as error:
            yield number, RecordFailed(str(error).removeprefix(f"{where}: "))
            continue
        yield number, row if isinstance(row, dict) else RecordFailed("is not a JSON object")


def _link(source: str, target: str) -> None:
    """Make `target` the same file as `source`, or a copy of it where no link is possible."""
    if os.path.exists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=True)
    except OSError:
        shutil.copyfile(source, target)


def load(argument: str, *, device: str = "auto") -> ImageFolder:
    """The pictures below a folder."""
    return ImageFolder(argument)
