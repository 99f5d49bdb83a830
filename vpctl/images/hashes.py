"""Hashes of picture files, with a cache on disk for files that have not changed."""

import hashlib
import os
import sqlite3
import time

from ..errors import RecordFailed, os_reason
from .pictures import Pictures

CACHE_TIMEOUT = 1.0
"""Seconds to wait while another run writes to the cache. After that, the cache is not used."""
MIN_CACHED_AGE = 2.0
"""Age in seconds from which the times of a file tell reliably whether it has changed."""


class ContentHasher:
    """Hashes the contents of pictures.

    With a `cache` file, unchanged files hashed by an earlier run are not read again.

    As in make and git, a file with the same size, times and inode is taken as unchanged.
    """

    def __init__(self, pictures: Pictures, cache: str = "") -> None:
        self._pictures = pictures
        self._cache = cache
        self._database = _opened(cache) if cache else None

    def __call__(self, path: str) -> str:
        """Return the hash of a picture file: sixteen hex digits of SHA-256.

        Raises `RecordFailed` if the picture may not be read or cannot be read.
        """
        real = self._pictures.find(path)
        try:
            now = os.stat(real)
            seen = f"{now.st_size} {now.st_mtime_ns} {now.st_ctime_ns} {now.st_ino}"
            if found := self._query("select content from contents where path = ? and seen = ?", real, seen):
                return str(found[0])
            with open(real, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        except OSError as error:
            raise RecordFailed(f"{path}: {os_reason(error)}") from None
        # A file that was just written may change again within one tick of the clock, and its times would not show it.
        if time.time() - now.st_ctime > MIN_CACHED_AGE:
            self._query("insert or replace into contents values (?, ?, ?)", real, seen, content)
        return content

    def _query(self, question: str, *values: str) -> tuple[str, ...] | None:
        """Run a query and return its first row.

        After an error, such as a lock by another run, the cache is not used any more.
        """
        try:
            return self._database.execute(question, values).fetchone() if self._database else None
        except sqlite3.Error:
            self.close()
            return None

    def close(self) -> None:
        """Close the cache. The stored hashes stay on disk."""
        if self._database:
            self._database.close()
        self._database = None


def _opened(path: str) -> sqlite3.Connection | None:
    """Open the cache. A damaged cache is deleted and created anew. Returns None if no cache can be opened."""
    for _ in range(2):
        try:
            database = sqlite3.connect(path, timeout=CACHE_TIMEOUT, check_same_thread=False, isolation_level=None)
            database.execute("pragma journal_mode = wal")
            database.execute("pragma synchronous = off")
            database.execute("create table if not exists contents (path text primary key, seen text, content text)")
            return database
        except sqlite3.OperationalError:
            return None
        except sqlite3.DatabaseError:
            os.unlink(path)
    return None
