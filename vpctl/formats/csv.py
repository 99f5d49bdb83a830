"""A CSV or TSV table with a column of prompts, and perhaps one of files: csv:PATH?prompt=COLUMN&file=COLUMN."""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TextIO

from ..contracts import DataRow, Format, RecordKind
from ..errors import RecordFailed, UserError, os_reason
from ..plugins import is_text
from ..sources import known_settings
from ..streams.jsonlines import MAX_LINE_BYTES, NOT_UTF_8, foreign_format
from ._spool import Spool, cell
from ._tables import SETTINGS, Columns, is_file

_DELIMITERS = ",;\t|"


class CSV(Format):
    """A table in a text file. The first row names the columns."""

    takes = ("pair", "rating", "judgement", "image", "prompt")

    def __init__(self, argument: str) -> None:
        self._path, self._settings = known_settings(argument, SETTINGS)

    @cached_property
    def _columns(self) -> Columns:
        with _opened(is_file(self._path)) as rows:
            return Columns(self._path, next(rows)[1], **self._settings)

    @property
    def gives(self) -> tuple[RecordKind, ...]:  # type: ignore[override]
        """What the columns allow."""
        return self._columns.gives

    def __call__(self, kind: RecordKind) -> Iterator[DataRow]:
        """The rows. A place is the number of the line on which the row begins."""
        for line, row in table(self._path):
            try:
                yield str(line), row if isinstance(row, RecordFailed) else self._columns.record(row, kind)
            except RecordFailed as fault:
                yield str(line), fault

    def write(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Write a table with a column for every key. Lists and objects are JSON.

        A cell is text, so the values of keys that vpctl does not know come back as text: 7 as "7", "007" as "007".
        """
        with Spool(self._path, records) as spool, open(spool.part, "w", encoding="utf-8", newline="") as file:
            written = csv.writer(file, delimiter="\t" if _is_tsv(self._path) else ",", lineterminator="\n")
            written.writerow(spool.keys)
            for record in spool:
                written.writerow([cell(record.get(key)) for key in spool.keys])
        return spool.rows


def table(path: str, *, quoted: bool = True) -> Iterator[tuple[int, dict[str, str] | RecordFailed]]:
    """Each row of a table, by the names of its columns, with the number of its first line. Empty rows are left out.

    If cells are not `quoted`, a quotation mark is a character like any other, and every line is a row. Raises
    `UserError` if the file cannot be read.
    """
    with _opened(path, quoted=quoted) as rows:
        _, names = next(rows)
        for line, row in rows:
            if isinstance(row, RecordFailed):
                yield line, row
            elif len(row) > len(names):
                yield line, RecordFailed(f"has {len(row)} cells, and the header has {len(names)}")
            elif any(row):
                yield line, dict(zip(names, row, strict=False))


def header(path: str) -> list[str]:
    """The names of the columns of a table."""
    with _opened(path) as rows:
        return [*next(rows)[1]]


@contextmanager
def _opened(path: str, *, quoted: bool = True) -> Iterator[Iterator[tuple[int, Any]]]:
    """The rows of a file, the header first, each with its line."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(1 << 16)
        if reason := foreign_format("FILE", beginning):
            raise UserError(f"{path}: {reason}")
        if not beginning.strip():
            raise UserError(f"{path}: is empty; its first row must name the columns")
        first = beginning.decode("utf-8-sig", "replace").lstrip().splitlines()[0]
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            yield _rows(text, path, "\t" if _is_tsv(path) else _delimiter(first), quoted=quoted)
    except OSError as error:
        raise UserError(f"{path}: {os_reason(error)}") from None


def _rows(text: TextIO, path: str, delimiter: str, *, quoted: bool) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(MAX_LINE_BYTES)
    last = ""

    def lines() -> Iterator[str]:
        nonlocal last
        while last := text.readline(MAX_LINE_BYTES):
            if len(last) == MAX_LINE_BYTES:
                most = MAX_LINE_BYTES >> 20
                raise UserError(f"{path}:{reader.line_num + 1}: is longer than {most} MiB; is this a table of text?")
            yield last

    reader = (
        csv.reader(lines(), delimiter=delimiter, strict=True)
        if quoted
        else csv.reader(lines(), delimiter=delimiter, quoting=csv.QUOTE_NONE)
    )
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if not header:
                raise UserError(f"{path}:{line}: {error}") from None
            if delimiter == "\t" and line == reader.line_num and "expected after" in str(error):
                row = last.rstrip("\r\n").split(delimiter)  # most programs write TSV without quotation marks
            else:
                yield line, RecordFailed(_reason(error))
                continue
        if header:
            yield line, row
        elif any(row):
            header = [cell.strip() for cell in row]
            if not is_text("".join(header)):
                raise UserError(f"{path}:{line}: {NOT_UTF_8}")
            yield line, header


def _reason(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "a quotation mark is not closed, so the rest of the file belongs to this row"
    if "field larger" in str(error):
        return f"a cell has more than {MAX_LINE_BYTES >> 20} MiB; perhaps a quotation mark is not closed"
    return f"{error}"


def _delimiter(header: str) -> str:
    """The character between the columns: the most frequent one in the header outside quotation marks."""
    outside = "".join(header.split('"')[::2])
    return max(_DELIMITERS, key=outside.count)


def _is_tsv(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in (".tsv", ".tab")


def load(argument: str, *, device: str = "auto") -> CSV:
    """The table at a path, with settings behind it."""
    return CSV(argument)
