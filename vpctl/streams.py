"""Reading and writing files of records: the one place where they are opened.

In memory the name of a picture's file is an absolute path. In a file of records it is relative to the folder that file
lies in, on a pipe to the working directory; `read` and the outputs translate.
"""

import codecs
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import lru_cache, partial
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar, cast

import orjson

from . import jsonlines
from .errors import Interrupted, OutputClosed, OutputLocked, UserError
from .records import Prompt, check, of_another_kind

R = TypeVar("R", bound=Mapping[str, object])
Lines = Generator[tuple[str, bytes], None, None]

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_kept = _STDOUT
"""The descriptor of standard output; see `own_stdout`."""
_FILE, _FILES = re.compile(r"(.*_)?file_name"), re.compile(r"(.*_)?file_names")
"""Keys whose values are files, as Hugging Face's imagefolder knows them; any other key's value passes through."""
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
_SYNC_SECONDS = 0.5
"""Records are in the system's hands at once, and on the disk at most this much later while more are written."""


def read(source: str, kind: type[R], misfit: Callable[[R], str] = lambda _: "") -> Iterator[R]:
    """The records of a JSON Lines file, or of standard input for ``-``. The file is opened at once.

    Raises `UserError` with file and line at the first line that is no such record, or of which `misfit` says why it
    will not do; whatever came before it has been yielded by then.
    """
    return (record for _, record in located(source, kind, misfit))


def located(source: str, kind: type[R], misfit: Callable[[R], str] = lambda _: "") -> Iterator[tuple[str, R]]:
    """Like `read`, every record with its place: ``FILE:LINE``."""
    return _records(_lines(source), kind, folder_of(source), misfit)


def _records(lines: Lines, kind: type[R], base: str, misfit: Callable[[R], str]) -> Iterator[tuple[str, R]]:
    with closing(lines):
        for where, line in lines:
            record = _parse(line, kind, where, base)
            if reason := misfit(record):
                raise UserError(f"{where}: {reason}")
            yield where, record


def read_prompts(source: str, misfit: Callable[[Prompt], str] = lambda _: "") -> Iterator[Prompt]:
    """Prompts from JSON Lines or from plain text, one prompt a line.

    A file whose name ends in ``.txt`` is plain text; a pipe is, unless its first line begins with a brace. Raises
    `UserError` for JSON, CSV and TSV in the place of plain text: no line of these is a prompt. It does so, too, for the
    first prompt that `misfit` gives a reason against.
    """
    return _prompts(_lines(source), source, misfit)


def _prompts(lines: Lines, source: str, misfit: Callable[[Prompt], str]) -> Iterator[Prompt]:
    plain = source.lower().endswith(".txt")
    with closing(lines):
        for number, (where, line) in enumerate(lines):
            if number == 0 and is_stream(source):
                plain = not line.lstrip().startswith(b"{")
            prompt = _plain(line, where, source, first=number == 0) if plain else _record_of(line, where, source)
            if reason := misfit(prompt):
                raise UserError(f"{where}: {reason}")
            yield prompt


def _plain(line: bytes, where: str, source: str, *, first: bool) -> Prompt:
    if reason := jsonlines.not_prompts(line, "FILE" if is_stream(source) else source, first=first):
        raise UserError(f"{where}: {reason}")
    try:
        return {"prompt": line.decode().strip()}
    except UnicodeDecodeError:
        raise UserError(f"{where}: {jsonlines.NOT_UTF_8}") from None


def _record_of(line: bytes, where: str, source: str) -> Prompt:
    try:
        return _parse(line, Prompt, where, folder_of(source))
    except UserError as error:
        if line.lstrip().startswith((b"{", b"[")) or source.endswith((".jsonl", ".json")):
            raise
        raise UserError(f"{error}; plain text is read from a .txt file or from a pipe") from None


def count(source: str) -> int | None:
    """How many lines a file has, for a progress bar; None for standard input and what else cannot be read twice."""
    if is_stream(source) or not os.path.isfile(source):
        return None
    with open(source, "rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def folder_of(target: str) -> str:
    """The folder that file names in `target` are relative to: its own, or the working directory for a stream."""
    return os.getcwd() if is_stream(target) else os.path.dirname(os.path.abspath(target))


def place_of(source: str) -> str:
    """Where a file lies, however it was named; ``-`` for a stream, whose name in the shell may be another each time."""
    return "-" if is_stream(source) else os.path.abspath(source)


def beside(target: str, label: str) -> str:
    """The file beside `target` that is named for it: prompts.dropped.jsonl beside prompts.jsonl.

    Empty where `target` is standard output or another stream, which has nothing beside it.
    """
    stem, suffix = os.path.splitext(target)
    return "" if is_stream(target) else f"{stem}.{label}{suffix}"


def hidden_beside(target: str, label: str) -> str:
    """The hidden file beside `target` for what only vpctl has a use for: .judgements.jsonl.contents; empty likewise."""
    folder, file = os.path.split(os.path.abspath(target))
    return "" if is_stream(target) else os.path.join(folder, f".{file}.{label}")


def short_labels(folders: Mapping[str, str]) -> dict[str, str]:
    """For every key what tells its folder from the others', without the folders that all begin with.

    Where that leaves nothing of one or the same of two, every key is its own label.
    """
    parts = {key: Path(folder).parts for key, folder in folders.items()}
    levels = zip(*parts.values(), strict=False)
    shared = len(list(takewhile(lambda level: len(set(level)) == 1, levels)))
    labels = {key: os.path.join("", *own[shared:]) for key, own in parts.items()}
    told_apart = all(labels.values()) and len(set(labels.values())) == len(labels)
    return labels if told_apart else {key: key for key in folders}


def _lines(source: str) -> Lines:
    """Every line that is not blank, with where it stands. The file is opened at once and read as it is needed."""
    return _numbered(_opened(source), _name(source))


def _numbered(opened: BinaryIO, name: str) -> Lines:
    with opened as file:
        try:
            for number, line in enumerate(iter(lambda: file.readline(jsonlines.LONGEST_LINE), b""), 1):
                text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if number == 1 and (reason := jsonlines.foreign(name, line)):
                    raise UserError(f"{name}: {reason}")
                if len(line) == jsonlines.LONGEST_LINE:
                    most = jsonlines.LONGEST_LINE >> 20
                    raise UserError(f"{name}:{number}: is longer than {most} MiB; is this a file of lines?")
                if text and not text.isspace():
                    yield f"{name}:{number}", text
        except OSError as error:
            raise UserError(f"{name}: {_reason(error)}") from None


def _opened(source: str) -> BinaryIO:
    number = _descriptor(source, _STDIN)
    if number == _STDIN and os.isatty(_STDIN):
        raise UserError("no input: name a FILE, or pipe records into this command; see --help")
    try:
        return Path(source).open("rb") if number is None else os.fdopen(os.dup(number), "rb")
    except OSError as error:
        raise UserError(f"{_name(source)}: {_reason(error)}") from None


def _name(source: str) -> str:
    return "stdin" if source == "-" else source


def _parse(line: bytes, kind: type[R], where: str, base: str) -> R:
    known = check(jsonlines.parse(line, where), kind, where)
    _rename(known, lambda name: os.path.normpath(os.path.join(base, name)))
    return cast(R, known)


def _rename(record: dict[str, Any], rename: Callable[[str], str]) -> None:
    for key, value in record.items():
        kind = _names(key)
        if kind is _FILES and isinstance(value, list):
            record[key] = [rename(name) if _is_local(name) else name for name in value]
        elif kind is _FILE and _is_local(value):
            record[key] = rename(value)


@lru_cache(1024)
def _names(key: str) -> re.Pattern[str] | None:
    """Which of the patterns a key is of; records have the same few keys over and over."""
    return next((pattern for pattern in (_FILES, _FILE) if pattern.fullmatch(key)), None)


def _is_local(name: object) -> bool:
    return isinstance(name, str) and name != "" and "://" not in name


def relative(record: Mapping[str, object], base: str) -> dict[str, object]:
    """A copy in which the names of files are relative to `base`."""
    copy = dict(record)
    _rename(copy, lambda name: os.path.relpath(name, base))
    return copy


def absolute(record: Mapping[str, object], base: str) -> dict[str, object]:
    """A copy in which names of files that are relative to `base` are absolute."""
    copy = dict(record)
    _rename(copy, lambda name: os.path.normpath(os.path.join(base, name)))
    return copy


def _to_line(record: Mapping[str, object], base: str) -> bytes:
    return jsonlines.dump(relative(record, base))


class Out:
    """Where a stage's records go, one line each and at once: a file that resumes, or standard output for ``-``.

    A file is locked while it is open and a torn last line is cut off, once all others have been found to be records.
    What it holds stays as it is: the stage asks `claim` before it does a record and leaves out those that are there.
    Records that have the empty `key` are there and may be done again. `resumed` counts the others. An `optional` file
    is taken away again if nothing came of it.
    """

    def __init__(self, target: str, kind: type[R], key: Callable[[R], str], *, optional: bool = False) -> None:
        self.target = target
        self._optional = optional
        self._claimed: set[str] = set()
        self._base = folder_of(target)
        self._synced = time.monotonic()
        self.resumed = 0
        self._regular = not is_stream(target)
        _check_suffix(target)
        if not self._regular:
            self._file = _stream(target)
            return
        self._new = not os.path.exists(target)
        self._file = _locked(target, os.O_RDWR | os.O_CREAT | os.O_APPEND, target)
        whole = ((where, line) for where, line in _lines(target) if line.endswith(b"\n"))
        self._claimed = {key(record) for _, record in _records(whole, kind, self._base, partial(of_another_kind, kind))}
        if last := _mended(self._file, kind, target):
            self._claimed.add(key(last))
        self._claimed.discard("")
        self.resumed = len(self._claimed)

    def claim(self, key: str) -> bool:
        """Whether a record is still to be done; from now on it is not."""
        new = key not in self._claimed
        self._claimed.add(key)
        return new

    def write(self, *records: Mapping[str, object]) -> None:
        """Append records, all in one go. Raises `OutputClosed` when the reader of a pipe has gone."""
        goes_on = "; the records before are kept, and the same command goes on" if self._regular else ""
        _write_all(self._file, b"".join(_to_line(record, self._base) for record in records), self.target, goes_on)
        if self._regular and time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Wait until all that was written to the file is on the disk."""
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
            raise Interrupted(f"interrupted; {kept if self._regular else 'the records written so far are whole'}")


class Replacement:
    """Like `Out` for a stage that needs all its input before it knows its first record.

    The file appears whole at the end or, if the run does not get there, not at all: what stood there stays. It may be
    none of the `sources`, which would be lost.
    """

    def __init__(self, target: str, sources: Iterable[str] = ()) -> None:
        self.target = target
        self._base = folder_of(target)
        self._part = ""
        _check_suffix(target)
        if is_stream(target):
            self._file = _stream(target)
            return
        self._place = os.path.realpath(target)
        if self._place in map(os.path.realpath, sources):
            raise UserError(f"{target}: is read by this command; name another file with --out")
        if os.path.isdir(self._place):
            raise UserError(_is_a_folder(target))
        if _is_precious(self._place):
            raise UserError(f"{target}: holds something else than records; name another file with --out")
        self._part = os.path.join(os.path.dirname(self._place), f".{os.path.basename(self._place)}.part")
        self._file = _locked(self._part, os.O_WRONLY | os.O_CREAT, target)
        os.ftruncate(self._file, 0)

    def write(self, record: Mapping[str, object]) -> None:
        """Add one record."""
        _write_all(self._file, _to_line(record, self._base), self.target, "")

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


def _is_precious(path: str) -> bool:
    """Whether a file is there that does not begin as JSON Lines do: nobody wants it replaced by records."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(1 << 10).lstrip()
    except OSError:
        return False
    return bool(beginning) and not beginning.startswith(b"{")


def _check_suffix(target: str) -> None:
    if jsonlines.foreign(target, b""):
        raise UserError(f"{target}: vpctl writes JSON Lines; name a .jsonl file")


def is_stream(target: str) -> bool:
    """Whether it is no file that could be read again, replaced or locked.

    These are ``-``, a pipe, a device, and whatever the shell has opened: ``/dev/stdout``, also where that is redirected
    to a file, and ``<(…)`` and ``>(…)``, which the shell writes as ``/dev/fd/63``.
    """
    if _descriptor(target, _STDIN) is not None:
        return True
    try:
        mode = os.stat(target).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _descriptor(target: str, standard: int) -> int | None:
    """The open descriptor that a name stands for; `standard` is that of ``-``. None for the name of a file."""
    if target == "-":
        return standard
    if target in _STANDARD:
        return _STANDARD[target]
    found = _DESCRIPTOR.fullmatch(target)
    return int(found[1]) if found else None


@contextmanager
def own_stdout() -> Iterator[None]:
    """Within, nothing but records reaches standard output. What a library prints, also one in C, goes to stderr."""
    global _kept
    try:
        _kept = fcntl.fcntl(_STDOUT, fcntl.F_DUPFD_CLOEXEC, 3)  # the first three may be closed, and are not for us
    except OSError:  # closed: there is nothing to keep apart
        yield
        return
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), _STDOUT)
        with suppress(OSError):  # it is closed as well
            os.dup2(_STDERR, _STDOUT)
        yield
    finally:
        os.dup2(_kept, _STDOUT)
        os.close(_kept)
        _kept = _STDOUT


def goes_to_a_pipe() -> bool:
    """Whether another command reads what this one writes to standard output."""
    try:
        return stat.S_ISFIFO(os.fstat(_kept).st_mode)
    except OSError:
        return False


def _stream(target: str) -> int:
    number = _descriptor(target, _STDOUT)
    number = _kept if number == _STDOUT else number
    try:
        return os.open(target, os.O_WRONLY) if number is None else os.dup(number)
    except OSError as error:
        raise UserError(f"{_output_name(target)}: {_reason(error)}") from None


def _locked(path: str, flags: int, target: str) -> int:
    """An open descriptor of `path` that holds its lock; folders on the way are made. Messages speak of `target`."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        file = os.open(path, flags, 0o666)
    except IsADirectoryError:
        raise UserError(_is_a_folder(target)) from None
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{target}: {os.path.dirname(target)} is a file and no folder") from None
    except OSError as error:
        raise UserError(f"{target}: {_reason(error)}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise OutputLocked(f"{target}: another run is writing it; wait for it to end or name another file") from None
    if _is_at(file, path):
        return file
    os.close(file)  # the run that held it until now has moved it to its place, or taken it away again
    return _locked(path, flags, target)


def _is_at(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _is_a_folder(target: str) -> str:
    return f"{target}: is a folder; name a file in it, such as {os.path.join(target, 'out.jsonl')}"


def _mended(file: int, kind: type[R], target: str) -> R | None:
    """The record behind the last newline, which is now ended; or None, and what a killed run began there is cut off.

    Raises `UserError`, and the file stays as it is, if it is neither.
    """
    start, end = _last_line(file)
    tail = os.pread(file, end - start, start)
    if not tail.strip(b"\0"):  # a system that went down may leave zeros where a line was to come
        os.ftruncate(file, start)
        return None
    try:
        orjson.loads(tail)
    except orjson.JSONDecodeError:
        if not tail.startswith(b"{"):
            raise UserError(f"{target}: does not end in a record; name another file with --out") from None
        os.ftruncate(file, start)
        return None
    record = _parse(tail, kind, f"{target}, last line", folder_of(target))
    _write_all(file, b"\n", target, "")
    return record


def _last_line(file: int) -> tuple[int, int]:
    """Where what stands behind the last newline begins and ends."""
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


def _write_all(file: int, line: bytes, target: str, way_out: str) -> None:
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
    except BrokenPipeError:
        raise OutputClosed from None
    except OSError as error:
        raise UserError(f"{_output_name(target)}: {_reason(error)}{way_out}") from None


def _sync(file: int, target: str) -> None:
    """Wait until all that was written is on the disk; some file systems only now say that it is full."""
    try:
        os.fsync(file)
    except OSError as error:
        raise UserError(f"{target}: {_reason(error)}") from None


def _output_name(target: str) -> str:
    return "stdout" if target == "-" else target


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
