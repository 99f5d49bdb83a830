"""RichHF-18K: its TFRecord files, or Parquet files with pictures and captions: richhf:PATH."""

import math
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from ..contracts import DataRow, Format, RecordKind
from ..errors import RecordFailed, UserError, os_reason
from ..judging.preferences import BEST
from ..sources import known_settings
from ._parquet import Parquet
from ._pictures import picture_id
from ._tables import check_own, is_file, plain
from ._tfrecord import examples
from ._votes import GIVES, LOST, Vote, records, text
from .hpd import located

ANNOTATOR = "human:richhf"
ASPECTS = {
    "misalignment_score": "prompt-following",
    "aesthetics_score": "aesthetic",
    "artifact_score": "fidelity",
    "overall_score": "overall",
}
"""The scores of a picture, and the aspects that they are about. Each is the mean of several people, from 0 to 1.

A higher score is better, also a higher artifact_score, which means fewer artifacts, and a higher misalignment_score."""
LABELS = "prompt_misalignment_label"
"""A text with a 0 for each word of the prompt that the picture does not show, and a 1 for the others. It is kept."""
PROMPTS = ("prompt", "caption", "text")
"""Columns in which Parquet files have the prompt."""
FOLDERS = ("", "images")
"""Where the pictures may lie, relative to the folder of the TFRecord file."""
MAX_CAPTION = 1 << 20
"""Maximum number of bytes of a text beside a picture."""


class RichHF(Format):
    """Pictures of Pick-a-Pic that people scored one by one. The maps of artifacts and misalignment are left out."""

    gives = GIVES

    def __init__(self, argument: str) -> None:
        self._path, _ = known_settings(argument, {})

    def __call__(self, kind: RecordKind) -> Iterator[DataRow]:
        """A row is a picture."""
        return records(self._votes(kind), kind)

    def count(self) -> int | None:
        """The number of rows, which Parquet files state."""
        return self._parquet.count() if self._parquet else None

    @cached_property
    def _folder(self) -> str:
        """The folder of the data set."""
        path = os.path.abspath(self._path)
        return path if os.path.isdir(path) else os.path.dirname(path)

    @cached_property
    def _parquet(self) -> Parquet | None:
        if not os.path.isdir(self._path) and not self._path.endswith(".parquet"):
            return None
        file = Parquet(self._path)
        if missing := [name for name in ("filename", *ASPECTS) if name not in file.names and name != "overall_score"]:
            raise UserError(f"{self._path}: RichHF-18K has a column {missing[0]!r}; this has {', '.join(file.names)}")
        return file

    def _votes(self, kind: RecordKind) -> Iterator[tuple[str, Vote | RecordFailed]]:
        rows: Iterator[tuple[str, Any]]
        if self._parquet:
            wanted = [name for name in ("filename", "image", *PROMPTS, *ASPECTS, LABELS) if name in self._parquet.names]
            rows = self._parquet.rows(wanted, ["image"] if kind != "prompt" else [])
        else:
            rows = self._with_captions()
        for where, row in rows:
            try:
                if isinstance(row, RecordFailed):
                    raise row
                if gone := [name for name in ASPECTS if isinstance(row.get(name), float) and math.isnan(row[name])]:
                    raise RecordFailed(f"{gone[0]!r} is not a number")
                yield where, _vote({name: plain(value, name) for name, value in row.items()}, self._folder)
            except RecordFailed as fault:
                yield where, fault

    def _with_captions(self) -> Iterator[tuple[str, Any]]:
        """The rows of a TFRecord file. It has no prompts: they are in text files beside the pictures."""
        folder = self._folder
        place = located(folder, FOLDERS)
        for where, found in examples(is_file(self._path), ("filename", *ASPECTS, LABELS)):
            try:
                if isinstance(found, RecordFailed):
                    raise found
                row = {name: _first(values) for name, values in found.items()}
                name = _inner(text(row, "filename"), "filename")
                names = [place(name), place(os.path.basename(name))]
                row["image"] = next((one for one in names if os.path.isfile(os.path.join(folder, one))), name)
                yield where, row | {"prompt": _caption(folder, names)}
            except RecordFailed as fault:
                yield where, fault


def _first(values: list[Any]) -> Any:
    """The value of a feature; None if it has none. Raises `RecordFailed` for bytes that are not text."""
    value = values[0] if len(values) == 1 else None
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise RecordFailed("a text is not UTF-8") from None


def _inner(name: str, column: str) -> str:
    """The name of a file in the data set. Raises `RecordFailed` if it leads out of that."""
    if os.path.isabs(name) or ".." in name.split("/") or "\0" in name:
        raise RecordFailed(f"the {column} {name!r} leads out of the data set")
    return name


def _caption(folder: str, pictures: list[str]) -> str:
    """The prompt in the text file beside a picture. Raises `RecordFailed` if there is none."""
    names = [f"{os.path.splitext(name)[0]}.txt" for name in pictures]
    path = next((one for name in names if os.path.isfile(one := os.path.join(folder, name))), "")
    if not path:
        raise RecordFailed(
            f"has no prompt: a TFRecord file of RichHF-18K has none; write the caption of Pick-a-Pic to {names[0]}"
        )
    try:
        check_own(path, folder)
        with open(path, "rb") as file:
            return " ".join(file.read(MAX_CAPTION).decode("utf-8-sig").split())
    except UnicodeDecodeError:
        raise RecordFailed(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise RecordFailed(f"{path}: {os_reason(error)}") from None
    except UserError as error:
        raise RecordFailed(str(error)) from None


def _vote(row: Mapping[str, Any], folder: str) -> Vote:
    """The scores of a picture, from 1 to 5. `folder` is that of the data set."""
    name = own = _inner(text(row, "filename"), "filename")
    picture = text(row, "image") if row.get("image") else name
    inner = picture.removeprefix(os.path.join(folder, ""))
    _inner(inner, "image")
    if inner != picture:  # a picture inside the Parquet file has been saved beside it
        own = picture_id(picture)
    scores = {}
    for column, aspect in ASPECTS.items():
        value = row.get(column)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise RecordFailed(f"{column!r} must be a number from 0 to 1")
        scores[aspect] = [round(LOST + (BEST - LOST) * value, 6)]  # the file has single precision
    if not scores:
        raise RecordFailed(f"has none of {', '.join(ASPECTS)}")
    prompt = next((row[column] for column in PROMPTS if row.get(column)), None)
    kept = {"mode": "point"} | ({LABELS: row[LABELS]} if row.get(LABELS) else {})
    return Vote(text({"prompt": prompt}, "prompt"), [own], [picture], scores, "", ANNOTATOR, kept)


def load(argument: str, *, device: str = "auto") -> RichHF:
    """The scores of a file, or of a folder of Parquet files."""
    return RichHF(argument)
