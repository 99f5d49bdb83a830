"""Hashes of picture files, with a cache on disk for files that have not changed."""

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import RecordFailed, os_reason
from .pictures import Pictures, stated_size

CACHE_TIMEOUT = 1.0
"""Seconds to wait while another run writes to the cache. After that, the cache is not used."""
NOTHING = ("", 0)
TOGETHER = 256
"""Number of hashes that are written to the cache at once. A killed run loses at most these."""
LENGTH = 16
"""Hex digits of a hash."""
MIN_CACHED_AGE = 2.0
"""Age in seconds from which the times of a file tell reliably whether it has changed."""


class ContentHasher:
    """Hashes the contents of pictures, as they are shown to a model.

    Pictures with a side longer than `max_side` pixels are shrunk before they are shown; 0 shows all as they are.

    With a `cache` file, unchanged files hashed by an earlier run are not read again.

    As in make and git, a file with the same size, times and inode is taken as unchanged. If the pictures are `opened`
    after they are hashed, `Pictures.open` does not read small files again.

    The cache may be closed while another thread hashes. That thread goes on without it.
    """

    def __init__(self, pictures: Pictures, cache: str = "", *, max_side: int = 0, opened: bool = False) -> None:
        self._pictures = pictures
        self._cache = cache
        self._max_side, self._opened = max_side, opened
        self._database = _opened(cache) if cache else None
        # A run that ends early closes the cache while its reader may still be in a query. SQLite would crash.
        self._lock = threading.RLock()
        self._has_earlier = self._has_rows()
        self._fresh: dict[str, tuple[str, str, int]] = {}
        """Rows that are not yet in the cache, by the real path of the file."""

    def __call__(self, path: str) -> str:
        """Return the hash of a picture file: sixteen hex digits of SHA-256.

        For a picture that is shrunk, they are followed by ``@`` and the length of its longer side then. Raises
        `RecordFailed` if the picture may not be read or cannot be read.
        """
        found = self._pictures.find(path)
        seen = found.state
        content, side = self._cached(found.path, seen)
        known = isinstance(content, str) and len(content) == LENGTH and isinstance(side, int)
        if known and (side or not self._max_side):
            return as_shown(content, side, self._max_side)
        try:
            with self._pictures.stored(found, path, for_later=self._opened) as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()[:LENGTH]
                side = max(stated_size(file, path)) if self._max_side else 0
        except OSError as error:
            raise RecordFailed(f"{path}: {os_reason(error)}") from None
        # A file that was just written may change again within one tick of the clock, and its times would not show it.
        if time.time() - found.status.st_ctime > MIN_CACHED_AGE:
            self._keep(found.path, seen, content, side)
        return as_shown(content, side, self._max_side)

    def _cached(self, real: str, seen: str) -> tuple[str, int]:
        """The hash and the longer side of a file from the cache; `NOTHING` if it is not there."""
        then, content, side = self._fresh.get(real, ("", *NOTHING))
        if then == seen:
            return content, side
        if not self._has_earlier:  # those of this run are rarely asked for again
            return NOTHING
        question = "select content, side from pictures where path = ? and seen = ?"
        with self._using() as database:
            return (database and database.execute(question, (real, seen)).fetchone()) or NOTHING
        return NOTHING  # after an error

    def _has_rows(self) -> bool:
        """Whether the cache has hashes of earlier runs."""
        with self._using() as database:
            return bool(database and database.execute("select 1 from pictures limit 1").fetchone())
        return False  # after an error

    def _keep(self, real: str, seen: str, content: str, side: int) -> None:
        """Add a hash to the cache, now or together with later ones."""
        with self._lock:
            self._fresh[real] = seen, content, side
            if len(self._fresh) >= TOGETHER:
                self._write()

    def _write(self) -> None:
        """Write all new hashes to the cache."""
        rows, self._fresh = [(real, *row) for real, row in self._fresh.items()], {}
        with self._using() as database:
            if database and rows:
                database.execute("begin immediate")
                database.executemany("insert or replace into pictures values (?, ?, ?, ?)", rows)
                database.execute("commit")

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection | None]:
        """A context in which nobody else uses the cache; it has None if there is no cache.

        After an error, such as a lock by another run, the cache is not used any more.
        """
        with self._lock:
            try:
                yield self._database
            except sqlite3.Error:
                self._forget()

    def _forget(self) -> None:
        with self._lock:
            if self._database:
                self._database.close()
            self._database = None

    def close(self) -> None:
        """Write what is new and close the cache. The stored hashes stay on disk."""
        with self._lock:
            self._write()
            self._forget()


def as_shown(content: str, side: int, max_side: int) -> str:
    """The hash of a picture as it is shown: shrunk if its longer `side` is above `max_side`, unless that is 0."""
    return f"{content}@{max_side}" if side > max_side > 0 else content


def _opened(path: str) -> sqlite3.Connection | None:
    """Open the cache. A damaged cache is deleted and created anew. Returns None if no cache can be opened."""
    for _ in range(2):
        try:
            database = sqlite3.connect(path, timeout=CACHE_TIMEOUT, check_same_thread=False, isolation_level=None)
            database.execute("pragma journal_mode = wal")
            database.execute("pragma synchronous = off")
            database.execute(
                "create table if not exists pictures (path text primary key, seen text, content text, side integer)"
            )
            return database
        except sqlite3.OperationalError:
            return None
        except sqlite3.DatabaseError:
            os.unlink(path)
    return None
