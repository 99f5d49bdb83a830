"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def whole(path: str, part: str = "", *, synced: bool = False) -> Iterator[str]:
    """The name of a file to be written within, which takes the place of `path` at the end.

    It is `part`, or `path` with ``.part`` behind it. After an error it is removed, and `path` stays as it was. A
    `synced` file is on the disk before it takes its place, so that not even a crash of the system leaves half of it.
    """
    part = part or f"{path}.part"
    try:
        yield part
        if synced:
            sync(part)
        os.replace(part, path)
    finally:
        with suppress(OSError):  # which would hide why it failed
            os.unlink(part)


def sync(path: str) -> None:
    """Wait until a file, or the names in a folder, are on the disk; some network file systems sync no folder."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError:
        if not os.path.isdir(path):
            raise
    finally:
        os.close(opened)
