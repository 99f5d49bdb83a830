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
        self._kept: dict[str, tuple[str, bytes]] = {}
        self._size = 0
        self._lock = threading.Lock()

    def __call__(self, found: PictureFile, *, for_later: bool = False) -> bytes | None:
        """The content of a file; None if it is larger than `AT_ONCE`. Thread-safe. Raises `OSError`.

        As in make and git, a file with the same size, times and inode is taken as unchanged.
        """
        if found.status.st_size > AT_ONCE:
            return None
        with self._lock:
            state, content = self._kept.pop(found.path, ("", b""))
            self._size -= len(content)
        if state != found.state:
            read = _read(found)
            if read is None:
                return None
            content = read
        if for_later:
            self._keep(found, content)
        return content

    def kept(self, found: PictureFile) -> bytes | None:
        """The content of a file if it is kept and the file has not changed. It stays kept. Reads nothing."""
        with self._lock:
            state, content = self._kept.get(found.path, ("", b""))
        return content if state == found.state else None

    def drop(self, found: PictureFile) -> None:
        """Forget the content of a file, unless a newer one is kept."""
        with self._lock:
            if self._kept.get(found.path, ("", b""))[0] == found.state:
                self._size -= len(self._kept.pop(found.path)[1])

    def _keep(self, found: PictureFile, content: bytes) -> None:
        with self._lock:
            _, before = self._kept.pop(found.path, ("", b""))
            self._kept[found.path] = found.state, content
            self._size += len(content) - len(before)
            while self._size > KEPT:
                oldest = next(iter(self._kept))
                self._size -= len(self._kept.pop(oldest)[1])


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
