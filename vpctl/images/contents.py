"""The contents of picture files. A small file that is hashed and then opened is read only once."""

import os
import threading

from .folders import PictureFile

AT_ONCE = 1 << 20
"""Bytes. A file that is not larger is read at once, and not in parts as Pillow asks for them."""
KEPT = 1 << 24
"""Bytes in total that are kept of files that will be opened soon."""


class Contents:
    """Reads small files whole. What is read `for_later` is kept until it is asked for, or newer files need the room.

    A file costs few system calls. At each of them another thread may take over the interpreter, and this one has to
    wait for it.
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
            content = _read(found)
        if for_later:
            self._keep(found, content)
        return content

    def _keep(self, found: PictureFile, content: bytes) -> None:
        with self._lock:
            _, before = self._kept.pop(found.path, ("", b""))
            self._kept[found.path] = found.state, content
            self._size += len(content) - len(before)
            while self._size > KEPT:
                oldest = next(iter(self._kept))
                self._size -= len(self._kept.pop(oldest)[1])


def _read(found: PictureFile) -> bytes:
    """The content of a file. It may have grown or shrunk since it was found."""
    descriptor = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, found.status.st_size + 1)
        if len(content) != found.status.st_size:
            while more := os.read(descriptor, AT_ONCE):
                content += more
        return content
    finally:
        os.close(descriptor)
