"""Hashes of pictures' files, with a cache on disk for those that have not changed."""

import hashlib
import os
import sqlite3
import time

from ..errors import RecordFailed, os_reason
from .pictures import Pictures

BUSY = 1.0
"""Seconds in which another run may be writing to the cache before it is done without."""
SETTLED = 2.0
"""Seconds after which a file's times tell whether it has changed since."""


class Contents:
    """Hashes of pictures' content. With a `cache`, what was hashed by an earlier run and has not changed is not read.

    As make and git do it, a file that has the size, the times and the inode it had is taken to be the same.
    """

    def __init__(self, pictures: Pictures, cache: str = "") -> None:
        self._pictures = pictures
        self._cache = cache
        self._database = _opened(cache) if cache else None

    def __call__(self, path: str) -> str:
        """Sixteen hex digits. Raises `RecordFailed` if the picture may not, or cannot, be read."""
        real = self._pictures.find(path)
        try:
            now = os.stat(real)
            seen = f"{now.st_size} {now.st_mtime_ns} {now.st_ctime_ns} {now.st_ino}"
            if found := self._ask("select content from contents where path = ? and seen = ?", real, seen):
                return str(found[0])
            with open(real, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        except OSError as error:
            raise RecordFailed(f"{path}: {os_reason(error)}") from None
        # A file that was only just written may be written once more within one tick of its clock.
        if time.time() - now.st_ctime > SETTLED:
            self._ask("insert or replace into contents values (?, ?, ?)", real, seen, content)
        return content

    def _ask(self, question: str, *values: str) -> tuple[str, ...] | None:
        """The row that the cache has. If it does not answer, as where another run writes, it is done without."""
        try:
            return self._database.execute(question, values).fetchone() if self._database else None
        except sqlite3.Error:
            self.close()
            return None

    def close(self) -> None:
        """Use the cache no more; what was hashed is kept."""
        if self._database:
            self._database.close()
        self._database = None


def _opened(path: str) -> sqlite3.Connection | None:
    """The cache; a broken one is begun anew, and where none can be, there is none."""
    for _ in range(2):
        try:
            database = sqlite3.connect(path, timeout=BUSY, check_same_thread=False, isolation_level=None)
            database.execute("pragma journal_mode = wal")
            database.execute("pragma synchronous = off")
            database.execute("create table if not exists contents (path text primary key, seen text, content text)")
            return database
        except sqlite3.OperationalError:
            return None
        except sqlite3.DatabaseError:
            os.unlink(path)
    return None
