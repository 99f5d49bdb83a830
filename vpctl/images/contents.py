"""The contents of picture files. A small file that is hashed and then opened is read only once."""

import errno
import os
import stat
import threading

from .folders import PictureFile

AT_ONCE = 1 << 20
"""Bytes. A file that is not larger is read at once, and not in parts as Pillow asks for them."""
KEPT = 1 << 24
"""Bytes in total that are kept of files that will be opened soon."""


class Contents:
    """Reads small files whole. What is read `for_later` is kept until it is asked for, or newer files need the room.

    Each system call may hand the interpreter to another thread, and the first one waits. So a file is read with few of
    them.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[PictureFile, bytes]] = {}
        self._size = 0
        self._lock = threading.Lock()

    def __call__(self, found: PictureFile, path: str, *, for_later: bool = False) -> bytes | None:
        """The content of the file found at `path`; None if it is larger than `AT_ONCE`. Thread-safe. Raises `OSError`.

        As in make and git, a file with the same size, times and inode is taken as unchanged.
        """
        if found.status.st_size > AT_ONCE:
            return None
        with self._lock:
            before, content = self._forget(path)
        if before is None or (before.path, before.state) != (found.path, found.state):
            read = _read(found)
            if read is None:
                return None
            content = read
        if for_later:
            self._keep(found, path, content)
        return content

    def kept(self, path: str) -> bytes | None:
        """The content of this file if it is kept, as it was when it was read. It stays kept."""
        with self._lock:
            return self._kept[path][1] if path in self._kept else None

    def drop(self, path: str) -> None:
        """Keep the content of this file no longer."""
        with self._lock:
            self._forget(path)

    def _forget(self, path: str) -> tuple[PictureFile | None, bytes]:
        """What was kept of a file, and is not any more."""
        found, content = self._kept.pop(path, (None, b""))
        self._size -= len(content)
        return found, content

    def _keep(self, found: PictureFile, path: str, content: bytes) -> None:
        with self._lock:
            self._forget(path)
            self._kept[path] = found, content
            self._size += len(content)
            while self._size > KEPT:
                self._forget(next(iter(self._kept)))


def _read(found: PictureFile) -> bytes | None:
    """The content of a file. It may have grown or shrunk since it was found; None if it is larger than `AT_ONCE` now.

    Raises `OSError` as `open_regular` does.
    """
    descriptor = open_regular(found.path)
    try:
        content = os.read(descriptor, found.status.st_size + 1)
        if len(content) != found.status.st_size:
            while len(content) <= AT_ONCE and (more := os.read(descriptor, AT_ONCE)):
                content += more
        return content if len(content) <= AT_ONCE else None
    finally:
        os.close(descriptor)


def open_regular(path: str) -> int:
    """A descriptor to read a file. Raises `OSError` if a link or a pipe has taken its place, and waits for none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor
