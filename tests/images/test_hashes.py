"""Hashes of picture files, and their cache."""

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event, RLock, current_thread, main_thread
from typing import Any

import pytest
from PIL import Image

from tests.conftest import PATIENCE
from vpctl.errors import RecordFailed
from vpctl.images.hashes import ContentHasher
from vpctl.images.pictures import Pictures


def hashed(file: Path, cache: str = "", max_side: int = 0) -> str:
    hasher = ContentHasher(Pictures([str(file.parent)]), cache, max_side=max_side)
    try:
        return hasher(str(file))
    finally:
        hasher.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A file of 30 × 20 pixels."""
    file = tmp_path / "a.png"
    Image.effect_noise((30, 20), 90).convert("RGB").save(file)
    return file


def test_only_a_picture_that_is_shrunk_has_another_hash(picture: Path) -> None:
    whole = hashed(picture)
    assert len(whole) == 16
    assert hashed(picture, max_side=30) == hashed(picture, max_side=1024) == whole
    assert hashed(picture, max_side=29) == f"{whole}@29"
    turned = picture.with_name("b.png")
    Image.open(picture).rotate(90, expand=True).save(turned)
    assert hashed(turned, max_side=29) == f"{hashed(turned)}@29", "the longer side counts"


def test_the_cache_answers_without_reading_whatever_it_was_asked_first(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpctl.images.hashes.MIN_CACHED_AGE", -1.0)
    cache = str(picture.with_name("cache"))
    whole = hashed(picture, cache)
    assert hashed(picture, cache, max_side=29) == f"{whole}@29", "the cache does not know the side yet"
    times = os.stat(picture)
    picture.write_bytes(bytes(times.st_size))
    os.utime(picture, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hashed(picture) != whole
    with monkeypatch.context() as frozen:  # nobody can set the time of the last change
        frozen.setattr("os.lstat", lambda *_: times)
        assert hashed(picture, cache) == whole
        assert hashed(picture, cache, max_side=29) == f"{whole}@29"
        assert hashed(picture, cache, max_side=30) == whole


@pytest.mark.parametrize(("content", "side"), [("x", "long"), (b"x", 3), (None, None), (7, 7)])
def test_a_cache_with_odd_values_is_not_believed(picture: Path, content: object, side: object) -> None:
    whole = hashed(picture)
    seen = os.stat(picture)
    cache = picture.with_name("cache")
    hashed(picture, str(cache))
    with closing(sqlite3.connect(cache)) as database, database:
        text = f"{seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns} {seen.st_ino}"
        values = (os.path.realpath(picture), text, content, side)
        database.execute("insert or replace into pictures values (?, ?, ?, ?)", values)
    assert hashed(picture, str(cache), max_side=29) == f"{whole}@29"
    assert hashed(picture, str(cache)) == whole


def test_the_cache_is_not_closed_during_a_query(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends early closes it while another thread reads. SQLite would end the process with a crash."""
    whole = hashed(picture)
    begun, at_the_lock, closed = Event(), Event(), Event()
    during: list[bool] = []

    class Watched:
        """A lock that says when the closing thread comes to it."""

        def __init__(self) -> None:
            self.lock = RLock()

        def __enter__(self) -> None:
            if current_thread() is main_thread():
                at_the_lock.set()
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    class Slow(sqlite3.Connection):
        def execute(self, question: str, values: Any = ()) -> sqlite3.Cursor:
            if question.startswith("select"):
                begun.set()
                assert at_the_lock.wait(PATIENCE)
                during.append(closed.is_set())
            return super().execute(question, values)

        def close(self) -> None:
            closed.set()
            super().close()

    connect = sqlite3.connect
    monkeypatch.setattr("sqlite3.connect", lambda path, **options: connect(path, factory=Slow, **options))
    monkeypatch.setattr("threading.RLock", Watched)
    hasher = ContentHasher(Pictures([str(picture.parent)]), str(picture.with_name("cache")))
    monkeypatch.undo()
    with ThreadPoolExecutor() as thread:
        hash_of_it = thread.submit(hasher, str(picture))
        begun.wait()
        hasher.close()
        assert hash_of_it.result() == whole
    assert during == [False]
    assert hasher(str(picture)) == whole, "without the cache"
    assert during == [False]


def test_what_is_no_picture_has_a_hash_but_no_side(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_text("no picture")
    assert hashed(file)
    with pytest.raises(RecordFailed, match=r"a\.png: not a picture"):
        hashed(file, max_side=8)


def test_hashes_are_kept_in_the_cache_some_together_and_the_rest_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpctl.images.hashes.MIN_CACHED_AGE", -1.0)
    monkeypatch.setattr("vpctl.images.hashes.TOGETHER", 2)
    cache = tmp_path / "cache"
    hasher = ContentHasher(Pictures([str(tmp_path)]), str(cache))
    kept = []
    for name in "abc":
        (tmp_path / name).write_text(name)
        hasher(str(tmp_path / name))
        kept.append(rows(cache))
    hasher.close()
    assert [*kept, rows(cache)] == [0, 2, 2, 3]


def rows(cache: Path) -> int:
    with closing(sqlite3.connect(cache)) as database:
        return int(database.execute("select count(*) from pictures").fetchone()[0])


def test_a_cache_that_another_run_holds_is_left_alone_at_the_end(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpctl.images.hashes.MIN_CACHED_AGE", -1.0)
    monkeypatch.setattr("vpctl.images.hashes.CACHE_TIMEOUT", 0.01)
    cache = picture.with_name("cache")
    hasher = ContentHasher(Pictures([str(picture.parent)]), str(cache))
    with closing(sqlite3.connect(cache, isolation_level=None)) as other:
        other.execute("begin immediate")
        assert hasher(str(picture)) == hashed(picture)
        hasher.close()
        other.execute("rollback")
    assert rows(cache) == 0


def test_a_file_is_read_once_however_often_it_is_asked_for(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpctl.images.hashes.MIN_CACHED_AGE", -1.0)
    hasher = ContentHasher(Pictures([str(picture.parent)]), str(picture.with_name("cache")))
    first = hasher(str(picture))
    with monkeypatch.context() as blind:
        blind.setattr(Pictures, "stored", None)
        assert hasher(str(picture)) == first
    picture.write_bytes(picture.read_bytes() + b"more")
    assert hasher(str(picture)) != first
    hasher.close()
