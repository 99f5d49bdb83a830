"""A Parquet file, or a folder of them, with columns as for csv: parquet:PATH?prompt=COLUMN&file=COLUMN."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, get_args, get_origin

from ..contracts import DataRow, Format, RecordKind
from ..errors import RecordFailed, UserError
from ..records import Image, Judgement, Pair, Prompt, Rating, schema
from ..sources import known_settings
from ._parquet import AS_JSON, BATCH, Parquet, arrow
from ._spool import Spool, as_json
from ._tables import SETTINGS, Columns


class ParquetTable(Format):
    """A table. Pictures in it, as `datasets` writes them, become files beside it."""

    takes = ("pair", "rating", "judgement", "image", "prompt")

    def __init__(self, argument: str) -> None:
        self._path, self._settings = known_settings(argument, SETTINGS)

    @cached_property
    def _file(self) -> Parquet:
        return Parquet(self._path)

    @cached_property
    def _columns(self) -> Columns:
        return Columns(self._path, self._file.names, **self._settings)

    @property
    def gives(self) -> tuple[RecordKind, ...]:  # type: ignore[override]
        """What the columns allow."""
        return self._columns.gives

    def __call__(self, kind: RecordKind) -> Iterator[DataRow]:
        """The rows, by their numbers from 1."""
        for where, row in self._file.rows(self._file.names, self._columns.pictures(kind)):
            try:
                yield where, row if isinstance(row, RecordFailed) else self._columns.record(row, kind)
            except RecordFailed as fault:
                yield where, fault

    def count(self) -> int:
        """The number of rows, which the file states."""
        return self._file.count()

    def write(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Write a table with a column for every key. What no type of Parquet holds is JSON, and comes back as it was.

        Only integers in a column that also has other numbers come back as such. Raises `UserError`, which names the
        record, for a value that cannot be written.
        """
        pyarrow = arrow()
        with Spool(self._path, records) as spool:
            columns = pyarrow.schema([_field(pyarrow, key, types) for key, types in spool.keys.items()])
            with pyarrow.parquet.ParquetWriter(spool.part, columns) as file:
                rows = ({field.name: _value(row.get(field.name), field) for field in columns} for row in spool)
                before = 0
                while some := [*islice(rows, BATCH)]:
                    file.write_table(self._table(some, columns, before))
                    before += len(some)
        return spool.rows

    def _table(self, rows: list[dict[str, Any]], columns: Any, before: int) -> Any:
        """The rows as an Arrow table. There are `before` others in front of them."""
        pyarrow = arrow()
        try:
            return pyarrow.Table.from_pylist(rows, columns)
        except (pyarrow.ArrowException, OverflowError):
            for number, row in enumerate(rows, before + 1):
                for field in columns:
                    try:
                        pyarrow.array([row[field.name]], field.type)
                    except (pyarrow.ArrowException, OverflowError) as error:
                        raise UserError(
                            f"{self._path}: record {number} cannot be written as Parquet: {field.name!r}: {error}"
                        ) from None
            raise


_LISTS = {
    key: get_args(expected)[0]
    for kind in (Prompt, Image, Judgement, Pair, Rating)
    for key, (_, expected, _) in schema(kind).items()
    if get_origin(expected) is list
}
"""The keys of records that hold lists, and the types of their items."""


def _field(pyarrow: Any, key: str, types: set[type]) -> Any:
    """The Arrow field of a column with values of these types: JSON, if no other type fits."""
    scalars: dict[Any, Any] = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    scalars[bool] = pyarrow.bool_()
    kinds = types - {type(None)}
    if not kinds or (len(kinds) == 1 and kinds <= scalars.keys()):
        return pyarrow.field(key, scalars[next(iter(kinds), str)])
    if kinds == {int, float}:
        return pyarrow.field(key, pyarrow.float64())
    if kinds == {list} and key in _LISTS:
        return pyarrow.field(key, pyarrow.list_(scalars[_LISTS[key]]))
    return pyarrow.field(key, pyarrow.string(), metadata=AS_JSON)


def _value(value: Any, field: Any) -> Any:
    """A value as its column holds it."""
    return value if value is None or not field.metadata else as_json(value)


def load(argument: str, *, device: str = "auto") -> ParquetTable:
    """The table at a path, with settings behind it."""
    return ParquetTable(argument)
