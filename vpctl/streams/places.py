"""Which file or stream a name on the command line stands for, and what lies beside it."""

import fcntl
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from ..errors import UserError, os_reason

STDIN, STDOUT, STDERR = 0, 1, 2
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_kept = STDOUT
"""The descriptor of standard output; see `own_stdout`."""
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")


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


def is_stream(target: str) -> bool:
    """Whether it is no file that could be read again, replaced or locked.

    These are ``-``, a pipe, a device, and whatever the shell has opened: ``/dev/stdout``, also where that is redirected
    to a file, and ``<(…)`` and ``>(…)``, which the shell writes as ``/dev/fd/63``.
    """
    if descriptor(target, STDIN) is not None:
        return True
    try:
        mode = os.stat(target).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def descriptor(target: str, standard: int) -> int | None:
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
        _kept = fcntl.fcntl(STDOUT, fcntl.F_DUPFD_CLOEXEC, 3)  # the first three may be closed, and are not for us
    except OSError:  # closed: there is nothing to keep apart
        yield
        return
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), STDOUT)
        with suppress(OSError):  # it is closed as well
            os.dup2(STDERR, STDOUT)
        yield
    finally:
        os.dup2(_kept, STDOUT)
        os.close(_kept)
        _kept = STDOUT


def goes_to_a_pipe() -> bool:
    """Whether another command reads what this one writes to standard output."""
    try:
        return stat.S_ISFIFO(os.fstat(_kept).st_mode)
    except OSError:
        return False


def output_stream(target: str) -> int:
    """A new descriptor of an output that is no regular file. Raises `UserError` if it cannot be opened."""
    number = descriptor(target, STDOUT)
    number = _kept if number == STDOUT else number
    try:
        return os.open(target, os.O_WRONLY) if number is None else os.dup(number)
    except OSError as error:
        raise UserError(f"{output_name(target)}: {os_reason(error)}") from None


def output_name(target: str) -> str:
    """What messages call an output."""
    return "stdout" if target == "-" else target
