"""FILE arguments that name a data set of another format, as FORMAT:PATH, and what becomes of its malformed rows.

`streams` reads files of records. It asks `find` for data sets, which come from plug-ins.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any
from urllib.parse import parse_qsl

from . import plugins, progress
from .contracts import Format, RecordKind
from .errors import RecordFailed, UserError
from .images.folders import Folders
from .records import Image, Judgement, Pair, Prompt, Rating, listing
from .streams import places
from .streams.names import rename
from .streams.reading import checked

TYPES: dict[RecordKind, Any] = {
    "prompt": Prompt,
    "image": Image,
    "judgement": Judgement,
    "pair": Pair,
    "rating": Rating,
}
"""The record type of each kind."""
MAX_REPORTED = 5
"""Number of malformed rows of a data set that are reported one by one."""
_NAMES = {"image": "picture"}
"""What messages call a kind of records, where it is not the name of the kind."""


class _LeftOut:
    """The malformed rows of one command."""

    def __init__(self) -> None:
        self.rows = 0
        """Number of rows that were left out. A row counts once, however often the command reads the data set."""
        self._known: dict[tuple[str, str], int] = {}

    def add(self, source: str, kind: str, number: int, reason: str) -> None:
        """Report the malformed row that is the `number`th of its data set, unless an earlier pass has reported it."""
        if number > self._known.get((source, kind), 0):
            self._known[source, kind] = number
            self.rows += 1
            progress.warn_each(f"rows of {source} are left out", f"{reason}; it is left out", most=MAX_REPORTED)


_left_out = _LeftOut()
_columns: dict[str, str] = {}
"""The settings that --prompt-column and --file-column name, for every data set that has them."""
_used: set[str] = set()
"""Those of them that a data set has."""


def begin(*, prompt: str = "", file: str = "") -> None:
    """Forget the malformed rows of an earlier command. `prompt` and `file` are columns of all data sets with columns.

    If no data set of the command has columns, a warning says so at its end.
    """
    global _left_out
    _left_out = _LeftOut()
    _columns.clear()
    _used.clear()
    _columns.update({name: column for name, column in (("prompt", prompt), ("file", file)) if column})
    if _columns:
        progress.warn_at_end(_unused)


def _unused() -> str:
    """A warning about columns that no data set has used; empty if there are none."""
    unused = listing(f"--{name}-column" for name in _columns if name not in _used) if _columns.keys() - _used else ""
    return f"{unused}: not used; no FILE is a csv:, parquet: or imagefolder: data set" if unused else ""


def some_left_out() -> bool:
    """Whether the command has left out rows of a data set, because they are malformed."""
    return _left_out.rows > 0


class NamedDataSet:
    """The data set of a spec. It is opened when its records are asked for."""

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self._format, argument = plugins.split(spec)
        self.path = with_settings(argument)[0]
        """The PATH, without settings."""

    @property
    def folder(self) -> str:
        """The folder that file names in its records are relative to: the folder of the file, or the PATH itself."""
        if places.is_stream(self.path):
            return os.getcwd()
        path = os.path.abspath(self.path)
        return path if os.path.isdir(path) else os.path.dirname(path)

    @property
    def identity(self) -> str:
        """The FORMAT, and the absolute PATH with its settings."""
        argument = plugins.split(self.spec)[1]
        return f"{self._format}:{os.path.abspath(self.path)}{argument[len(self.path) :]}"

    def located(self, kind: Any, misfit: Callable[[Any], str]) -> Iterator[tuple[str, Any]]:
        """The valid records of this type, each with its place. Malformed ones are reported and left out.

        Raises `UserError` if the data set has no such records, if every row is malformed, or at the first record for
        which `misfit` returns a reason. A prompt for which it does is left out: it is too long.
        """
        name = next(name for name, one in TYPES.items() if one is kind)
        opened = self._opened()
        if name not in opened.gives:
            has = listing(_NAMES.get(one, one) + "s" for one in opened.gives)
            raise UserError(f"{self.spec}: has {has}, and no {_NAMES.get(name, name)}s, which this command reads")
        with plugins.blamed("format", self.spec):
            rows = opened(name)
        return self._records(rows, name, misfit)

    def first_of(self, kinds: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        """The valid records of the first of these types that it has, each with its place. See `located`."""
        gives = self._opened().gives
        of_name = {one: name for name, one in TYPES.items()}
        return self.located(next((kind for kind in kinds if of_name[kind] in gives), kinds[0]), lambda _: "")

    def count(self) -> int | None:
        """The number of rows, if the format knows it without reading them all."""
        return self._opened().count()

    def taken(self, kinds: Iterable[RecordKind]) -> RecordKind:
        """The first of `kinds` that this format usually holds. Raises `UserError` if it can hold none of them."""
        kinds, takes = [*kinds], self._opened().takes
        if found := [kind for kind in takes if kind in kinds]:
            return found[0]
        if not takes:
            raise UserError(f"{self.spec}: the format {self._format} can only be read")
        wanted = listing(f"{_NAMES.get(kind, kind)}s" for kind in takes)
        raise UserError(f"{self.spec}: the format {self._format} holds {wanted}; ask for them, or name another format")

    def check_old(self) -> None:
        """Raise `UserError` if there is a file at the PATH that is no data set of this format: it may be of use."""
        if not os.path.isfile(self.path) or not os.path.getsize(self.path):
            return
        opened = self._opened()
        try:
            _, first = next(iter(opened(opened.gives[0])), ("", {}))
        except UserError as error:
            first = RecordFailed(str(error))
        if isinstance(first, RecordFailed):
            raise UserError(f"{self.spec}: {self.path} holds something else; name another path")

    def write(self, records: Iterable[Mapping[str, Any]], folders: Iterable[str]) -> int:
        """Write the records, whose file names are absolute, and return their number. An old data set is replaced.

        Raises `UserError` if pictures would be copied that are outside of `folders`, or do not exist.
        """
        opened = self._opened()
        if opened.copies_pictures:
            records = _with_readable_pictures(records, Folders(folders))
        with plugins.blamed("format", self.spec):
            return opened.write(records)

    @property
    def publishes(self) -> bool:
        """Whether `publish` writes this data set, and not `write`."""
        return self._opened().publishes

    def publish(self, prompts: Iterable[Mapping[str, Any]], summary: Any, folders: Iterable[str]) -> int:
        """Write whole prompts, as `Format.publish` takes them, and return their number.

        Raises `UserError` if pictures would be copied that are outside of `folders`, or do not exist.
        """
        opened, allowed = self._opened(), Folders(folders)

        def with_readable_pictures() -> Iterator[Mapping[str, Any]]:
            for prompt in prompts:
                allowed.check(one["file_name"] for one in prompt["pictures"] if "://" not in one["file_name"])
                yield prompt

        with plugins.blamed("format", self.spec):
            return opened.publish(with_readable_pictures(), summary)

    def _opened(self) -> Format:
        if not self.path:
            raise UserError(f"{self.spec}: add the path of the data set: {self._format}:PATH")
        opened: Format = plugins.load("format", self.spec)
        return opened

    def _records(
        self, rows: Iterable[tuple[str, Any]], kind: RecordKind, misfit: Callable[[Any], str]
    ) -> Iterator[tuple[str, Any]]:
        contract = plugins.CALLS["format"]
        good, number = 0, 0
        early: list[tuple[int, str]] = []  # faults before the first valid record; if there is none, they are one error
        folder = self.folder
        with plugins.blamed("format", self.spec), closing(_as_generator(rows)) as each:
            for number, row in enumerate(each, 1):
                if not (isinstance(row, tuple) and len(row) == 2 and isinstance(row[0], str)):
                    raise plugins.contract_error("format", self.spec, row, contract=contract)
                where = os.path.join(self.path, row[0]) if os.path.isdir(self.path) else f"{self.path}:{row[0]}"
                try:
                    if isinstance(row[1], RecordFailed):
                        raise UserError(f"{where}: {row[1]}")
                    record = checked(row[1], TYPES[kind], where, folder)
                    if kind == "prompt" and (reason := misfit(record)):
                        raise UserError(f"{where}: {reason}")
                except UserError as fault:
                    if good:
                        _left_out.add(self.spec, kind, number, str(fault))
                    else:
                        early.append((number, str(fault) if len(early) < MAX_REPORTED else ""))
                    continue
                if kind != "prompt" and (reason := misfit(record)):
                    raise UserError(f"{where}: {reason}")
                for place, reason in early:
                    _left_out.add(self.spec, kind, place, reason)
                early.clear()
                good += 1
                yield where, record
        if early:
            many = f"none of its {number} rows can be used; the first: " if number > 1 else ""
            raise UserError(f"{self.spec}: {many}{early[0][1]}")


def _with_readable_pictures(records: Iterable[Mapping[str, Any]], folders: Folders) -> Iterator[Mapping[str, Any]]:
    """The records. Raises `UserError` at one whose pictures may not be read."""
    for record in records:
        names: list[str] = []

        def noted(name: str, names: list[str] = names) -> str:
            names.append(name)
            return name

        rename({**record}, noted)
        folders.check(names)
        yield record


def _as_generator(rows: Iterable[tuple[str, Any]]) -> Any:
    """The rows as a generator, which can be closed early."""
    yield from rows


def find(target: str, *, is_read: bool = False) -> NamedDataSet | None:
    """The data set that a name on the command line means: FORMAT:PATH or MYFORMAT.py:PATH. A file of this name wins.

    None if the name means no data set. If it `is_read`, raises `UserError` for a misspelt FORMAT.
    """
    name, colon, _ = target.partition(":")
    if not colon or os.path.lexists(target):
        return None
    if plugins.is_packaged("format", name) or (name.endswith(".py") and os.path.isfile(name)):
        return NamedDataSet(target)
    if is_read and not os.path.dirname(name):
        from difflib import get_close_matches

        if near := get_close_matches(name, plugins.catalog("format"), n=1):
            rest = target.partition(":")[2]
            raise UserError(
                f"{target}: there is no such file, and no format {name!r}; did you mean {near[0]}:{rest}? known: "
                f"{', '.join(plugins.catalog('format'))}"
            )
    return None


def completions(incomplete: str) -> list[tuple[str, str]]:
    """What a FILE that begins with `incomplete` can be: formats with their help, or data sets behind a FORMAT.

    Empty if no format begins so: the shell then completes names of files. Nothing is imported.
    """
    name, colon, typed = incomplete.partition(":")
    known = plugins.catalog("format")
    if colon:
        return [(f"{name}:{path}", "") for path in _paths(typed)] if name in known else []
    formats = [(f"{one}:", about) for one, about in known.items() if name and one.startswith(name)]
    return [*formats, *((path, "") for path in _paths(name))] if formats else []


def _paths(typed: str) -> list[str]:
    """Files and folders whose paths begin with `typed`. Folders end in a slash; hidden ones need a typed dot."""
    parent, start = os.path.split(typed)
    try:
        with os.scandir(parent or ".") as entries:
            names = sorted(os.path.join(one.name, "") if one.is_dir() else one.name for one in entries)
    except OSError:
        return []
    shown = (name for name in names if name.startswith(start) and (start or not name.startswith(".")))
    return [os.path.join(parent, name) for name in shown]


def with_settings(argument: str) -> tuple[str, dict[str, str]]:
    """Split the ARGUMENT of a format into the path and the settings behind it, as in ``a.csv?prompt=title&file=path``.

    Raises `UserError` if the settings cannot be read. A file whose name has a question mark wins.
    """
    if "?" not in argument or os.path.lexists(argument):
        return argument, {}
    path, _, query = argument.rpartition("?")
    try:
        return path, dict(parse_qsl(query, strict_parsing=True))
    except ValueError:
        raise UserError(f"{argument}: behind the ? stand settings such as prompt=COLUMN&file=COLUMN") from None


def known_settings(argument: str, known: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """As `with_settings`, with the columns that options name. `known` says what each setting means.

    Raises `UserError` for a setting that is not known.
    """
    path, settings = with_settings(argument)
    _used.update(known)
    settings = {name: column for name, column in _columns.items() if name in known} | settings
    if wrong := [name for name in settings if name not in known]:
        means = "; ".join(f"{name}: {meaning}" for name, meaning in known.items()) or "this format has none"
        raise UserError(f"{argument}: there is no setting {wrong[0]!r}; {means}")
    return path, settings


places.data_set = find
