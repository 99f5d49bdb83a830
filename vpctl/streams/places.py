"""Which file or stream a name on the command line means, and which files belong beside it."""

import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from ..errors import UserError, os_reason

STDIN, STDOUT, STDERR = 0, 1, 2
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_kept = STDOUT
"""The descriptor of the real standard output; see `reserved_stdout`."""
above_bar: Callable[[], AbstractContextManager[None]] = nullcontext
"""A context in which a terminal is written to. `progress` sets it, and takes its bar off the line meanwhile."""


class DataSet(Protocol):
    """A data set of another format, which a FILE names as FORMAT:PATH."""

    @property
    def folder(self) -> str:
        """The folder that file names in its records are relative to, as an absolute path."""

    @property
    def path(self) -> str:
        """Its PATH, without settings."""

    @property
    def identity(self) -> str:
        """Its FORMAT, and the absolute PATH."""

    def located(self, kind: Any, misfit: Callable[[Any], str]) -> Iterator[tuple[str, Any]]:
        """As `reading.located`, but malformed records are reported and left out. The data set is opened at once."""

    def first_of(self, kinds: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        """As `located`, for the first of these types of records that it has, or else the first of all."""

    def count(self) -> int | None:
        """As `reading.count`."""


def _no_data_set(*_: object, **__: object) -> None:
    return None


data_set: Callable[..., DataSet | None] = _no_data_set
"""The data set that a name on the command line means, or None if it means a file of records. `sources` sets it.

If the name `is_read`, a misspelt FORMAT raises `UserError`."""
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")


def folder_of(target: str) -> str:
    """The folder that file names in `target` are relative to: its own folder, or the working directory for a stream."""
    if found := data_set(target):
        return found.folder
    return os.getcwd() if is_stream(target) else os.path.dirname(os.path.abspath(target))


def absolute_path(source: str) -> str:
    """The absolute path of a file; ``-`` for a stream, because the shell may name a stream differently each time."""
    if found := data_set(source):
        return found.identity
    return "-" if is_stream(source) else os.path.abspath(source)


def real_path(source: str) -> str:
    """The path, without links, of a file or of the PATH of a data set."""
    found = data_set(source)
    return os.path.realpath(found.path if found else source)


def beside(target: str, label: str) -> str:
    """The path of a file beside `target`, with `label` in its name: prompts.dropped.jsonl beside prompts.jsonl.

    Empty if `target` is standard output or another stream.
    """
    stem, suffix = os.path.splitext(target)
    return "" if is_stream(target) else f"{stem}.{label}{suffix}"


def hidden_beside(target: str, label: str) -> str:
    """The path of a hidden file beside `target` that only vpctl uses, such as .judgements.jsonl.contents.

    Empty if `target` is standard output or another stream.
    """
    folder, file = os.path.split(os.path.abspath(target))
    return "" if is_stream(target) else os.path.join(folder, f".{file}.{label}")


def short_labels(folders: Mapping[str, str]) -> dict[str, str]:
    """A short label for every key: its folder without the parent folders that all folders share.

    If a label would be empty, or two labels would be equal, every key is its own label.
    """
    parts = {key: Path(folder).parts for key, folder in folders.items()}
    levels = zip(*parts.values(), strict=False)
    shared = len(list(takewhile(lambda level: len(set(level)) == 1, levels)))
    labels = {key: os.path.join("", *own[shared:]) for key, own in parts.items()}
    told_apart = all(labels.values()) and len(set(labels.values())) == len(labels)
    return labels if told_apart else {key: key for key in folders}


def is_stream(target: str) -> bool:
    """Whether `target` is a stream, which cannot be read again, replaced or locked.

    Streams are ``-``, pipes, devices, and whatever the shell has opened: ``/dev/stdout``, even if it is redirected to a
    file, and ``<(…)`` and ``>(…)``, which the shell passes as ``/dev/fd/63``.
    """
    if descriptor(target, STDIN) is not None:
        return True
    try:
        mode = os.stat(target).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def descriptor(target: str, standard: int) -> int | None:
    """The open descriptor that a name means, or None for the name of a file. `standard` is the descriptor of ``-``."""
    if target == "-":
        return standard
    if target in _STANDARD:
        return _STANDARD[target]
    found = _DESCRIPTOR.fullmatch(target)
    return int(found[1]) if found else None


@contextmanager
def reserved_stdout() -> Iterator[None]:
    """Reserve standard output for records while the context is active.

    Whatever a library prints, also from C code, goes to stderr.
    """
    global _kept
    try:
        _kept = fcntl.fcntl(STDOUT, fcntl.F_DUPFD_CLOEXEC, 3)  # descriptors 0 to 2 may be closed and must not be taken
    except OSError:  # stdout is closed: there is nothing to protect
        yield
        return
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), STDOUT)
        with suppress(OSError):  # stderr may be closed too
            os.dup2(STDERR, STDOUT)
        yield
    finally:
        os.dup2(_kept, STDOUT)
        os.close(_kept)
        _kept = STDOUT


def stdout_is_pipe() -> bool:
    """Whether standard output is a pipe, so that another command reads it."""
    try:
        return stat.S_ISFIFO(os.fstat(_kept).st_mode)
    except OSError:
        return False


def output_stream(target: str) -> int:
    """A new descriptor of an output that is not a regular file. Raises `UserError` if it cannot be opened."""
    number = descriptor(target, STDOUT)
    number = _kept if number == STDOUT else number
    try:
        return os.open(target, os.O_WRONLY) if number is None else os.dup(number)
    except OSError as error:
        raise UserError(f"{output_name(target)}: {os_reason(error)}") from None


def output_name(target: str) -> str:
    """The name of an output in messages."""
    return "stdout" if target == "-" else target
