"""Records on their way into a table, whose columns are known only when all records have been seen."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

from ..errors import UserError, os_reason
from ..streams.jsonlines import dump, parse
from ..streams.names import relative
from ..streams.whole import atomic_write


class LargeInt:
    """Stands for the type of an integer of more than 64 bits."""


class Spool:
    """Keeps records in a temporary file, and replaces the file `path` when the context ends without an error.

    File names in the records become relative to the folder of `path`. Raises `UserError` if a file cannot be written.
    """

    def __init__(self, path: str, records: Iterable[Mapping[str, Any]]) -> None:
        self._path, self._records = path, records
        self._stack = ExitStack()
        self.keys: dict[str, set[type]] = {}
        """All keys, in the order in which they were first seen, with the types of their values, and `LargeInt`."""
        self.rows = 0
        """Number of records."""
        self.part = ""
        """The temporary file that the table is written to."""

    def __enter__(self) -> Self:
        folder = os.path.dirname(os.path.abspath(self._path))
        try:
            os.makedirs(folder, exist_ok=True)
            self._file = self._stack.enter_context(tempfile.TemporaryFile(dir=folder))
            for record in self._records:
                for key, value in record.items():
                    is_large = isinstance(value, int) and not -(1 << 63) <= value < 1 << 63
                    self.keys.setdefault(key, set()).add(LargeInt if is_large else type(value))
                self._file.write(dump(relative(record, folder)))
                self.rows += 1
            self.part = self._stack.enter_context(atomic_write(self._path, shared=True))
        except BaseException as error:
            with suppress(OSError):  # a full disk also fails to close the temporary file
                self._stack.close()
            if isinstance(error, OSError):
                raise UserError(f"{self._path}: {os_reason(error)}") from None
            raise
        return self

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records, from the first."""
        self._file.seek(0)
        return (parse(line, self._path) for line in self._file)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stack.__exit__(kind, error, trace)
        except OSError as fault:
            raise UserError(f"{self._path}: {os_reason(fault)}") from None
        if isinstance(error, OSError):
            raise UserError(f"{self._path}: {os_reason(error)}") from None


def cell(value: Any) -> str:
    """A value as text: lists, objects and numbers are JSON, and a missing value is empty."""
    if isinstance(value, str):
        return value
    return "" if value is None else as_json(value)


def as_json(value: Any) -> str:
    """A value as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
