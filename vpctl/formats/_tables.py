"""Rows of a table as records: which column is which key, and values of the right type."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, get_args, get_origin

import orjson

from ..contracts import RecordKind
from ..errors import RecordFailed, UserError
from ..plugins import is_text
from ..records import listing, prompt_key, schema
from ..sources import TYPES
from ..streams.jsonlines import MAX_DEPTH, depth

PROMPTS = ("prompt", "text", "caption", "prompts", "captions", "description")
"""Names of a column of prompts, the most likely first. Capitals do not matter."""
FILES = (
    "file_name",
    "image",
    "image_path",
    "file_path",
    "path",
    "filename",
    "filepath",
    "file",
    "img",
    "picture",
    "image_name",
)
"""Names of a column of pictures or their files, the most likely first."""
_OF_A_PAIR = {
    "chosen_file_name": ("chosen_file_name", "chosen", "chosen_image", "chosen_path", "img_better"),
    "rejected_file_name": ("rejected_file_name", "rejected", "rejected_image", "rejected_path", "img_worse"),
}
SETTINGS = {"prompt": "the column of prompts", "file": "the column of the pictures' files"}
"""The settings behind the PATH of a table."""
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")
_WHOLE = re.compile(r"\s*-?\d{1,20}\s*")


class Columns:
    """The columns of a table, and the keys of records that they hold.

    `prompt` and `file` are the names of two columns; if they are empty, the columns are found by their names. Raises
    `UserError`, which begins with `source`, for a column that is not there, or that is there twice.
    """

    def __init__(self, source: str, names: Sequence[str], *, prompt: str = "", file: str = "") -> None:
        self._source, self._names = source, names
        if twice := next((name for index, name in enumerate(names) if name in names[:index]), None):
            raise UserError(f"{source}: has two columns {twice!r}; rename one of them")
        for setting, name in (("prompt", prompt), ("file", file)):
            if name and name not in names:
                raise UserError(f"{source}: {setting}={name}: there is no such column; it has {self._listed()}")
        self.prompt = prompt or _first(PROMPTS, names)
        self.file = file or _first(FILES, [one for one in names if one != self.prompt])
        self._pair = {key: _first(known, names) for key, known in _OF_A_PAIR.items()}

    @property
    def gives(self) -> tuple[RecordKind, ...]:
        """The kinds of records that the rows can be. Raises `UserError` if there is no column of prompts."""
        if not self.prompt:
            raise UserError(
                f"{self._source}: has no column of prompts; it has {self._listed()}; name it with --prompt-column"
            )
        found: list[RecordKind] = ["prompt"]
        if self.file:
            found.append("image")
            if "label" in self._names:
                found.append("rating")
        if {"aspect", "annotator", "file_names", "scores"} <= {*self._names}:
            found.append("judgement")
        if all(self._pair.values()):
            found.append("pair")
        return tuple(found)

    def _listed(self) -> str:
        shown = [repr(name) if len(name) < 40 else f"{name[:37]!r}…" for name in self._names[:12]]
        more = len(self._names) - len(shown)
        columns = listing([*shown, *([f"{more} more"] if more else [])]) if shown else "none"
        return f"the column{'' if len(self._names) == 1 else 's'} {columns}"

    def pictures(self, kind: RecordKind) -> set[str]:
        """The columns whose pictures the records of this kind name."""
        if kind in ("image", "rating"):
            return {self.file}
        return {*self._pair.values()} if kind == "pair" else set()

    def record(self, row: Mapping[str, Any], kind: RecordKind) -> dict[str, Any]:
        """The record of a row. Values that do not fit their keys stay as they are. Raises `RecordFailed`."""
        keys = {self.prompt: "prompt"}
        if kind in ("image", "rating"):
            keys[self.file] = "file_name"
        elif kind == "pair":
            keys |= {column: key for key, column in self._pair.items()}
        types = schema(TYPES[kind])
        record: dict[str, Any] = {}
        for column, value in row.items():
            key = keys.get(column, column)
            if column not in keys and key in keys.values():  # "prompt" beside the column that the user named
                continue
            if kind == "prompt" and column == self.file:
                continue
            if (found := plain(value, column)) is not None and found != "":
                record[key] = _as_type(found, types[key][1]) if key in types else found
        if kind in ("judgement", "pair") and isinstance(record.get("prompt"), str):
            record["prompt_id"] = prompt_key(record)
        if kind == "judgement" and "file_names" in record:
            record.setdefault("image_ids", record["file_names"])
        if kind == "pair":
            record.setdefault("margin", 1.0)
        return record


def _first(known: Sequence[str], names: Sequence[str]) -> str:
    """The first of the `known` names that a column has; empty if there is none."""
    lower = {name.strip().lower(): name for name in reversed(names)}
    return next((lower[one] for one in known if one in lower), "")


def plain(value: Any, column: str) -> Any:
    """A value that JSON can hold, or None for a missing value: null, NaN and bytes. Raises `RecordFailed`."""
    if isinstance(value, str):
        if not is_text(value):
            raise RecordFailed(f"{column!r} is not UTF-8 text")
        return value
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise RecordFailed(f"{column!r} is infinite")
        return None if math.isnan(value) else value
    if isinstance(value, bytes | bytearray | memoryview):
        return None
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return plain(int(value) if value == value.to_integral_value() else float(value), column)
    if isinstance(value, Mapping | list | tuple) and depth(value) > MAX_DEPTH:
        raise RecordFailed(f"{column!r} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        return {str(key): plain(one, column) for key, one in value.items() if not isinstance(one, bytes)}
    if isinstance(value, list | tuple):
        return [plain(one, column) for one in value]
    return str(value)


def _as_type(value: Any, expected: Any) -> Any:
    """The value as the type of its key, if it can be read as one: tables hold text, and numbers in place of text."""
    if get_origin(expected) is list and isinstance(value, list):
        return [_as_type(one, get_args(expected)[0]) for one in value]
    if get_origin(expected) is dict and isinstance(value, dict):
        return {key: _as_type(one, get_args(expected)[1]) for key, one in value.items() if one is not None}
    if expected is str:
        return _text(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if expected is bool:
        word = str(value).strip().lower()
        return True if word in _YES else False if word in _NO else value
    if expected is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    if expected is int and _WHOLE.fullmatch(value):
        return int(value)
    if expected in (int, float):
        try:
            number = float(value)
        except ValueError:
            return value
        if not math.isfinite(number):
            return value
        return int(number) if expected is int and number.is_integer() else number if expected is float else value
    try:
        return _as_type(orjson.loads(value), expected) if value.lstrip()[:1] in ("[", "{") else value
    except orjson.JSONDecodeError:
        return value


def _text(number: float) -> str:
    """A number as text: 17.0 is 17, because a column of numbers with missing values holds floats."""
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


def is_file(path: str) -> str:
    """Return `path`. Raises `UserError` if it is no file that can be read twice."""
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder; name the file")
    if not os.path.exists(path):
        raise UserError(f"{path}: there is no such file")
    if not os.path.isfile(path):
        raise UserError(f"{path}: is not a regular file; save the data set to a file first")
    return path


def check_own(path: str, folder: str) -> None:
    """Raise `UserError` if a file in a folder is a link to another place: what is in it may be sent to a server."""
    if not is_own(path, folder):
        raise UserError(f"{path}: is a link to a file outside of {folder}; name that file, or copy it")


def is_own(path: str, folder: str) -> bool:
    """Whether a path leads to a file in this folder.

    The cache of huggingface_hub has links from its snapshots to blobs of the same repository. They are in the folder.
    """
    there, home = os.path.realpath(path), os.path.realpath(folder)
    blobs = os.path.join(home.partition("/snapshots/")[0], "blobs") if "/snapshots/" in home else home
    return there.startswith((os.path.join(home, ""), os.path.join(blobs, "")))
