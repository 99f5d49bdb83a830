"""Reading and writing files of records: the one place where they are opened.

In memory the name of a picture's file is an absolute path. In a file of records it is relative to the folder that file
lies in, on a pipe to the working directory; `read` and the outputs translate.
"""

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar, cast

import orjson

from .errors import OutputClosed, OutputLocked, UserError
from .records import Prompt, check

R = TypeVar("R", bound=Mapping[str, object])

_STDIN, _STDOUT = 0, 1
_SYNC_SECONDS = 0.5
"""Records are in the system's hands at once, and on the disk at most this much later while more are written."""


def read(source: str, kind: type[R]) -> Iterator[R]:
    """The records of a JSON Lines file, or of standard input for ``-``.

    Raises `UserError` with file and line at the first line that is no such record; whatever came before it has been
    yielded by then.
    """
    for where, line in _lines(source):
        yield _parse(line, kind, where, folder_of(source))


def read_prompts(source: str) -> Iterator[Prompt]:
    """Prompts from JSON Lines or from plain text, one prompt a line.

    A file whose name ends in ``.txt`` is plain text; standard input is, unless its first line begins with a brace.
    """
    plain = source.endswith(".txt")
    for number, (where, line) in enumerate(_lines(source)):
        if source == "-" and number == 0:
            plain = not line.lstrip().startswith(b"{")
        if plain:
            try:
                yield {"prompt": line.decode().strip()}
            except UnicodeDecodeError:
                raise UserError(f"{where}: not UTF-8 text; convert the file first, e.g. with iconv") from None
        else:
            yield _parse(line, Prompt, where, folder_of(source))


def count(source: str) -> int | None:
    """How many lines a file has, for a progress bar; None for standard input and what else cannot be read twice."""
    if not os.path.isfile(source):
        return None
    with open(source, "rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def folder_of(target: str) -> str:
    """The folder that file names in `target` are relative to: its own, or the working directory for ``-``."""
    return os.getcwd() if target == "-" else os.path.dirname(os.path.abspath(target))


def _lines(source: str) -> Iterator[tuple[str, bytes]]:
    """Every line that is not blank, with where it stands."""
    name = _name(source)
    with _opened(source) as file:
        try:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield f"{name}:{number}", line
        except OSError as error:
            raise UserError(f"{name}: {_reason(error)}") from None


def _opened(source: str) -> BinaryIO:
    if source == "-" and os.isatty(_STDIN):
        raise UserError("no input: name a FILE, or pipe records into this command; see --help")
    try:
        return os.fdopen(os.dup(_STDIN), "rb") if source == "-" else Path(source).open("rb")
    except OSError as error:
        raise UserError(f"{_name(source)}: {_reason(error)}") from None


def _name(source: str) -> str:
    return "stdin" if source == "-" else source


def _parse(line: bytes, kind: type[R], where: str, base: str) -> R:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        cut_off = "" if line.endswith(b"\n") else "; the line does not end, so the file may have been cut off here"
        raise UserError(f"{where}: not JSON: {error.msg.split(': line')[0]}, column {error.colno}{cut_off}") from None
    known = check(record, kind, where)
    _rename(known, lambda name: os.path.normpath(os.path.join(base, name)))
    return cast(R, known)


def _rename(record: dict[str, Any], rename: Callable[[str], str]) -> None:
    for key, value in record.items():
        if key.endswith("file_name") and isinstance(value, str):
            record[key] = rename(value)
        elif key.endswith("file_names") and isinstance(value, list):
            record[key] = [rename(name) for name in value]


def _to_line(record: Mapping[str, object], base: str) -> bytes:
    relative = dict(record)
    _rename(relative, lambda name: os.path.relpath(name, base))
    return orjson.dumps(relative, option=orjson.OPT_APPEND_NEWLINE)


class Out:
    """Where a stage's records go, one line each and at once: a file that resumes, or standard output for ``-``.

    A file is locked while it is open and a torn last line is cut off. What it holds stays as it is: the stage asks
    `claim` before it does a record and leaves out those that are there. `resumed` counts the records found.
    """

    def __init__(self, target: str, kind: type[R], key: Callable[[R], str]) -> None:
        self.target = target
        self._claimed: set[str] = set()
        self._base = folder_of(target)
        self._synced = time.monotonic()
        self.resumed = 0
        if target == "-":
            self._file = os.dup(_STDOUT)
            self._regular = False
            return
        self._new = not os.path.exists(target)
        self._file = _locked(target, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._regular = stat.S_ISREG(os.fstat(self._file).st_mode)
        if self._regular:
            _cut_torn_line(self._file)
            self._claimed = {key(record) for record in read(target, kind)}
        self.resumed = len(self._claimed)

    def claim(self, key: str) -> bool:
        """Whether a record is still to be done; from now on it is not."""
        new = key not in self._claimed
        self._claimed.add(key)
        return new

    def write(self, record: Mapping[str, object]) -> None:
        """Append one record whole. Raises `OutputClosed` when the reader of a pipe has gone."""
        _write_all(self._file, _to_line(record, self._base), self.target)
        if self._regular and time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._regular:
            os.fsync(self._file)
            if self._new and error and not os.fstat(self._file).st_size:
                os.unlink(self.target)
        os.close(self._file)


class Replacement:
    """Like `Out` for a stage that needs all its input before it knows its first record.

    The file appears whole at the end or, if the run does not get there, not at all: what stood there stays.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._base = folder_of(target)
        self._part = ""
        if target == "-":
            self._file = os.dup(_STDOUT)
        elif Path(target).exists() and not Path(target).is_file():
            self._file = _locked(target, os.O_WRONLY)
        else:
            self._part = os.path.join(self._base, f".{os.path.basename(target)}.part")
            self._file = _locked(self._part, os.O_WRONLY | os.O_CREAT)
            os.ftruncate(self._file, 0)

    def write(self, record: Mapping[str, object]) -> None:
        """Add one record."""
        _write_all(self._file, _to_line(record, self._base), self.target)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._part and kind is None:
            os.fsync(self._file)
            os.replace(self._part, self.target)
        elif self._part:
            os.unlink(self._part)
        os.close(self._file)


def _locked(target: str, flags: int) -> int:
    """An open descriptor of `target` that holds its lock; folders on the way are made."""
    try:
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        file = os.open(target, flags, 0o666)
    except IsADirectoryError:
        raise UserError(
            f"{target}: is a folder; name a file in it, such as {os.path.join(target, 'out.jsonl')}"
        ) from None
    except OSError as error:
        raise UserError(f"{target}: {_reason(error)}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise OutputLocked(f"{target}: another run is writing it; wait for it to end or name another file") from None
    return file


def _cut_torn_line(file: int) -> None:
    """Drop what stands behind the last newline: a record that a killed run began and did not end."""
    end = os.fstat(file).st_size
    start = end
    while start > 0:
        step = min(start, 1 << 16)
        chunk = os.pread(file, step, start - step)
        newline = chunk.rfind(b"\n")
        if newline >= 0:
            start += newline + 1 - step
            break
        start -= step
    if start < end:
        os.ftruncate(file, start)


def _write_all(file: int, line: bytes, target: str) -> None:
    name = "stdout" if target == "-" else target
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
    except BrokenPipeError:
        raise OutputClosed from None
    except OSError as error:
        raise UserError(
            f"{name}: {_reason(error)}; the records before are kept, and the same command goes on"
        ) from None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
