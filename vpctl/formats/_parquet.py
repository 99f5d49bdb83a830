"""Parquet files as rows, read in batches. The one place that imports pyarrow."""

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import RecordFailed, UserError, os_reason
from ..streams.jsonlines import parse
from ._pictures import PictureStore
from ._tables import check_own, is_file

BATCH = 256
"""Number of rows that are read at once, where no picture is among their columns."""
PICTURES = 16
"""Number of rows that are read at once, where pictures are."""
AS_JSON = {b"vpctl": b"json"}
"""Metadata of a column of text that holds JSON, in files that vpctl writes."""
_PICTURE = {"bytes", "path"}
"""The fields of a picture of Hugging Face's `datasets`."""


def arrow() -> Any:
    """The package pyarrow, with its module parquet. Raises `UserError` if it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet needs the package pyarrow: pip install 'vpctl[formats]'") from None
    return pyarrow


def files(path: str) -> list[str]:
    """The Parquet files that a path means, in alphabetical order: itself, or those in the folder and below it.

    Raises `UserError` if there is none, or if one is a link to another place.
    """
    if not os.path.isdir(path):
        return [is_file(path)]
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(folder, name) for name in sorted(names) if name.endswith(".parquet")]
    if not found:
        raise UserError(f"{path}: has no file that ends in .parquet")
    for one in found:
        check_own(one, path)
    return sorted(found)


class Parquet:
    """One or several Parquet files with the same columns."""

    def __init__(self, path: str) -> None:
        self._path, self._files = path, files(path)
        with opened(self._files[0]) as file:
            schema = file.schema_arrow
        self.names: list[str] = schema.names
        self._schema = schema
        pyarrow = arrow()
        kinds = pyarrow.types
        self._pictures = {
            field.name
            for field in schema
            if _holds_bytes(kinds, field.type)
            or (kinds.is_list(field.type) and _holds_bytes(kinds, field.type.value_type))
        }
        """The columns whose cells hold files: bytes, or pictures of `datasets`."""

    def count(self) -> int:
        """The number of rows."""
        total = 0
        for name in self._files:
            with opened(name) as file:
                total += file.metadata.num_rows
        return total

    def is_list(self, column: str) -> bool:
        """Whether the cells of a column hold lists."""
        kinds, kind = arrow().types, self._schema.field(column).type
        return bool(kinds.is_list(kind) or kinds.is_large_list(kind))

    def rows(
        self, columns: Iterable[str], pictures: Collection[str] = (), folder: str = ""
    ) -> Iterator[tuple[str, Any]]:
        """The place and the values of each row, or a `RecordFailed`.

        The cells of `pictures` become paths of files: bytes are written to `folder`, or else beside the Parquet file.
        """
        wanted = [name for name in columns if name in self.names]
        held = [name for name in pictures if name in self._pictures]
        wanted = [name for name in wanted if name not in self._pictures or name in held]
        for name in self._files:
            store = PictureStore(folder or f"{os.path.splitext(os.path.abspath(name))[0]}.pictures")
            inside = f"{os.path.relpath(name, self._path)}:" if os.path.isdir(self._path) else ""
            before = 0
            with opened(name) as file:
                there = [one for one in wanted if one in file.schema_arrow.names]
                as_json = [one for one in there if _is_json(file.schema_arrow.field(one))]
                for batch in file.iter_batches(PICTURES if held else BATCH, columns=there, use_threads=False):
                    for number, row in enumerate(_values(batch), before + 1):
                        try:
                            for column in held:
                                row[column] = _saved(row[column], store)
                            for column in as_json:
                                row[column] = _parsed(row[column], column)
                            yield f"{inside}row {number}", row
                        except RecordFailed as fault:
                            yield f"{inside}row {number}", fault
                    before += batch.num_rows


def _values(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a batch. A cell that Python cannot hold, such as text that is not UTF-8, becomes None."""
    try:
        yield from batch.to_pylist()
    except (UnicodeDecodeError, ValueError, OverflowError):
        for index in range(batch.num_rows):
            yield {name: _value(batch.column(place)[index]) for place, name in enumerate(batch.schema.names)}


def _value(cell: Any) -> Any:
    try:
        return cell.as_py()
    except (UnicodeDecodeError, ValueError, OverflowError):
        return None


def _is_json(field: Any) -> bool:
    return AS_JSON.items() <= (field.metadata or {}).items()


def _parsed(cell: object, column: str) -> Any:
    """The value of a cell that holds JSON, or None for a missing one. Raises `RecordFailed`."""
    if not isinstance(cell, str):
        return None
    try:
        return parse(cell.encode(), column)
    except (UserError, UnicodeEncodeError):
        raise RecordFailed(f"{column!r} is not JSON, as the file says it is") from None


def _holds_bytes(kinds: Any, kind: Any) -> bool:
    if kinds.is_binary(kind) or kinds.is_large_binary(kind):
        return True
    return kinds.is_struct(kind) and {field.name for field in kind} == _PICTURE


def _saved(cell: Any, store: PictureStore) -> Any:
    """The path of the file in a cell; a list of them for a list. Raises `RecordFailed` if it holds no picture."""
    if isinstance(cell, list):
        return [_saved(one, store) for one in cell]
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if content:
        return store.save(content)
    return cell.get("path") if isinstance(cell, dict) else None


@contextmanager
def opened(path: str) -> Iterator[Any]:
    pyarrow = arrow()
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            yield file
    except (pyarrow.ArrowException, UnicodeDecodeError, OverflowError) as error:
        raise UserError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    except OSError as error:
        reason = os_reason(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as Parquet: {reason}") from None
