"""Writes records: to a file that resumes, to a file that appears complete at the end, or to standard output."""

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import orjson

from ..errors import Interrupted, OutputClosed, OutputLocked, UserError, os_reason
from ..records import of_another_kind
from . import jsonlines, places
from .names import relative
from .places import folder_of, is_stream, output_name, output_stream
from .reading import numbered_lines, parse_record, records_of
from .whole import is_at

R = TypeVar("R", bound=Mapping[str, object])

_SYNC_SECONDS = 0.5
"""Interval of flushes to disk while records are written. Every record is handed to the operating system at once."""


def to_line(record: Mapping[str, object], base: str) -> bytes:
    """The record as a line of JSON, with file names relative to `base`."""
    return jsonlines.dump(relative(record, base))


def complete_records(path: str, kind: type[R]) -> Iterator[R]:
    """Yield the records of a file, but for a last line that a killed run left torn, or that is being written now.

    Raises `UserError` for a line that is not a valid record of this kind.
    """
    ended = ((where, line) for where, line in numbered_lines(path) if line.endswith(b"\n"))
    return (record for _, record in records_of(ended, kind, folder_of(path), partial(of_another_kind, kind)))


class Out:
    """The output of a stage, one line per record: a file that can be resumed, or standard output for ``-``.

    An existing file is resumed. It is locked while it is open. All its complete lines must be valid records, and a torn
    last line is cut off. The stage calls `claim` before it works on a record and skips records that are in the file.
    `resumed` is the number of distinct keys found there. A record with an empty `key` is not counted, and may be
    written again. At the end an empty file is removed if it is `optional`, or if it is new and the run failed.

    Raises `OutputLocked` if another run holds the file, and `UserError` if it cannot be opened or holds something else.
    """

    def __init__(self, target: str, kind: type[R], key: Callable[[R], str], *, optional: bool = False) -> None:
        self.target = target
        self._optional = optional
        self._claimed: set[str] = set()
        self._base = folder_of(target)
        self._synced = time.monotonic()
        self.resumed = 0
        self._regular = not is_stream(target)
        self._at_terminal = False
        _check_suffix(target)
        if not self._regular:
            self._file = output_stream(target)
            self._at_terminal = os.isatty(self._file)
            return
        self._new = not os.path.exists(target)
        self._file = _locked(target, os.O_RDWR | os.O_CREAT | os.O_APPEND, target)
        self._claimed = {key(record) for record in complete_records(target, kind)}
        if last := _repair_tail(self._file, kind, target):
            self._claimed.add(key(last))
        self._claimed.discard("")
        self.resumed = len(self._claimed)

    def claim(self, key: str) -> bool:
        """Whether the record with this key still has to be done. The key is then marked as done."""
        new = key not in self._claimed
        self._claimed.add(key)
        return new

    def write(self, *records: Mapping[str, object]) -> None:
        """Append records in one write. Raises `OutputClosed` if the reader of a pipe has gone."""
        goes_on = "; earlier records are kept; run the same command again to resume" if self._regular else ""
        lines = b"".join(to_line(record, self._base) for record in records)
        _write_all(self._file, lines, self.target, goes_on, at_terminal=self._at_terminal)
        if self._regular and time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Flush everything written to the file to disk."""
        _sync(self._file, self.target)
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._regular:
            unused = self._optional or (self._new and error)
            if unused and not os.fstat(self._file).st_size:
                os.unlink(self.target)
            _sync(self._file, self.target)
        os.close(self._file)
        if type(error) is KeyboardInterrupt and not self._optional:
            kept = f"{self.target} holds what is finished; run the same command again to continue"
            raise Interrupted(f"interrupted; {kept if self._regular else 'the records written so far are complete'}")


class Replacement:
    """Like `Out`, for a stage that must read all its input before it can write its first record.

    The file appears complete at the end. If the run does not reach its end, an existing file stays unchanged. Raises
    `UserError` if the file is one of the `sources`, which would be lost, or holds something other than records.
    """

    def __init__(self, target: str, sources: Iterable[str] = ()) -> None:
        self.target = target
        self._base = folder_of(target)
        self._part = ""
        self._at_terminal = False
        _check_suffix(target)
        if is_stream(target):
            self._file = output_stream(target)
            self._at_terminal = os.isatty(self._file)
            return
        self._place = os.path.realpath(target)
        if self._place in map(places.real_path, sources):
            raise UserError(f"{target}: is read by this command; name another file with --out")
        if os.path.isdir(self._place):
            raise UserError(_is_a_folder(target))
        if _is_not_records(self._place):
            raise UserError(f"{target}: holds something other than records; name another file with --out")
        self._part = os.path.join(os.path.dirname(self._place), f".{os.path.basename(self._place)}.part")
        self._file = _locked(self._part, os.O_WRONLY | os.O_CREAT, target)
        os.ftruncate(self._file, 0)

    def write(self, record: Mapping[str, object]) -> None:
        """Add one record."""
        self.write_lines(to_line(record, self._base))

    def write_lines(self, lines: bytes) -> None:
        """Add records that `to_line` has made into lines."""
        _write_all(self._file, lines, self.target, "", at_terminal=self._at_terminal)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = self._part
        try:
            if self._part and kind is None:
                _sync(self._file, self.target)
                os.replace(self._part, self._place)
                left = ""
        finally:
            if left:
                os.unlink(left)
            os.close(self._file)
        if self._part and type(error) is KeyboardInterrupt:
            raise Interrupted(f"interrupted; {self.target} is written at the end only, so nothing was written")


def _is_not_records(path: str) -> bool:
    """Whether a file exists that does not begin like JSON Lines: it must not be replaced by records."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(1 << 10).lstrip()
    except OSError:
        return False
    return bool(beginning) and not beginning.startswith(b"{")


def _check_suffix(target: str) -> None:
    if jsonlines.foreign_format(target, b"") or places.data_set(target):
        raise UserError(f"{target}: vpctl writes JSON Lines; name a .jsonl file")


def _locked(path: str, flags: int, target: str) -> int:
    """Open `path`, lock it, and return its descriptor. Creates missing folders. Messages name `target`."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        file = os.open(path, flags, 0o666)
    except IsADirectoryError:
        raise UserError(_is_a_folder(target)) from None
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{target}: {os.path.dirname(target)} is a file, not a folder") from None
    except OSError as error:
        raise UserError(f"{target}: {os_reason(error)}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise OutputLocked(f"{target}: another run is writing it; wait for it to end or name another file") from None
    if is_at(file, path):
        return file
    os.close(file)  # the run that held the lock has since moved the file to its final name, or removed it
    return _locked(path, flags, target)


def _is_a_folder(target: str) -> str:
    return f"{target}: is a folder; name a file in it, such as {os.path.join(target, 'out.jsonl')}"


def _repair_tail(file: int, kind: type[R], target: str) -> R | None:
    """Repair the end of a file, and return the record of an unfinished last line if it is complete.

    A complete record without a newline gets one. A torn record, as a killed run leaves it, is cut off, and None is
    returned. Raises `UserError`, and leaves the file unchanged, if the last line is neither.
    """
    start, end = _last_line(file)
    tail = os.pread(file, end - start, start)
    if not tail.strip(b"\0"):  # a system crash may leave zeros in place of a line
        os.ftruncate(file, start)
        return None
    try:
        orjson.loads(tail)
    except orjson.JSONDecodeError:
        if not tail.startswith(b"{"):
            raise UserError(f"{target}: does not end with a record; name another file with --out") from None
        os.ftruncate(file, start)
        return None
    record = parse_record(tail, kind, f"{target}, last line", folder_of(target))
    _write_all(file, b"\n", target, "")
    return record


def _last_line(file: int) -> tuple[int, int]:
    """Start and end, in bytes, of the text after the last newline."""
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
    return start, end


def _write_all(file: int, line: bytes, target: str, way_out: str, *, at_terminal: bool = False) -> None:
    rest = memoryview(line)
    try:
        with places.above_bar() if at_terminal else nullcontext():
            while rest:
                rest = rest[os.write(file, rest) :]
    except BrokenPipeError:
        raise OutputClosed from None
    except OSError as error:
        raise UserError(f"{output_name(target)}: {os_reason(error)}{way_out}") from None


def _sync(file: int, target: str) -> None:
    """Flush everything written to disk. Some file systems report only now that they are full."""
    try:
        os.fsync(file)
    except OSError as error:
        raise UserError(f"{target}: {os_reason(error)}") from None
