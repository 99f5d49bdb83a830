"""Which folders pictures may be read from, and which `--root` option to suggest for a picture elsewhere.

Records come from other people, so a file name in a record must not lead to an arbitrary file of this machine. Allowed
are the folders of the record files, the working directory, and every `--root`. These folders may be symbolic links. A
link inside them that leads to a folder outside is not followed, because it may have come with the data.

Pictures drawn by `vpctl generate` are read wherever they are, so that the next command in a pipe finds the pictures of
`--folder`. generate puts the file `MARKER` into that folder, which a record cannot do. Below that folder, only files
with the names that generate gives are read.
"""

import os
import re
import stat
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .. import progress
from ..errors import RecordFailed, UserError, os_reason

MARKER = ".vpctl"
"""Name of a file that marks a folder of pictures written by generate."""
_SAYS = "The pictures here are drawn by vpctl generate; every vpctl command reads them.\n"
_DRAWN = re.compile(r"(.*)/([0-9a-f]{2})/\2[0-9a-f]{14}\.(?:png|jpg|webp)", re.DOTALL)
"""Matches the path of a picture that generate wrote; the first group is the folder that generate was given."""
_SYSTEM = ("bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "proc", "run", "sbin", "sys", "usr", "var")
"""Top-level folders that hold no pictures of a user."""
_SHARED = ("home", "media", "mnt", "opt", "private", "root", "srv", "tmp", "Users", "Volumes")
"""Top-level folders that hold the files of many users or projects."""


OF_A_PICTURE = "restore this picture, or leave out the records that name it"
"""The way out if a picture of a pair or of a rating cannot be opened."""
_REMEMBERED = 1.0
"""Seconds for which the real path of a folder is remembered. A link may have taken its place since."""
_MOST_REMEMBERED = 1024
"""Number of folders that are remembered. generate puts its pictures into 256."""
_ON_A_PIPE = "file names on a pipe are relative to the working directory; name the file instead of -"


class PictureFile(NamedTuple):
    """A picture that may be read: the path of its file without links, and what the file system says about the file."""

    path: str
    status: os.stat_result

    @property
    def state(self) -> str:
        """Size, times and inode of the file. It changes if the file does."""
        now = self.status
        return f"{now.st_size} {now.st_mtime_ns} {now.st_ctime_ns} {now.st_ino}"


class Folders:
    """The folders from which pictures may be read: the `named` ones and the working directory.

    `piped` is whether the records come through a pipe. Then the message about a first picture that does not exist says
    what its name is relative to.
    """

    def __init__(self, named: Iterable[str], *, piped: bool = False) -> None:
        self._allowed = tuple({os.path.join(os.path.realpath(folder), "") for folder in (*named, os.getcwd())})
        self._refused = 0
        self._parent = ""
        self._hint = f"; {_ON_A_PIPE}" if piped else ""
        self._lock = threading.Lock()
        self._real_folders: dict[str, tuple[str, float]] = {}

    def find(self, path: str) -> PictureFile:
        """Find the file of a picture. Raises `RecordFailed` if it may not be read or does not exist.

        When the command ends, one warning names the `--root` that would allow all refused pictures. Thread-safe.
        """
        if found := self._plain_file(path):
            self._hint = ""
            return found
        with self._lock:
            before = self._refused
            real, reason, hint = *self._checked(path), self._first_hint(path)
            if self._refused > before == 0:
                progress.warn_at_end(self._way_out_for_all)
        if reason:
            raise RecordFailed(f"{path}: {reason}{hint}")
        try:
            return PictureFile(real, os.stat(real))
        except OSError as error:
            raise RecordFailed(f"{path}: {os_reason(error)}") from None

    def _plain_file(self, path: str) -> PictureFile | None:
        """The picture, if its file is no link and lies in an allowed folder; None for every other path.

        Nearly every picture is like this. The file system is asked once, as long as the path of the folder is
        remembered.
        """
        folder, name = os.path.split(path)
        if "\0" in path or name in ("", ".", ".."):
            return None
        known, until = self._real_folders.get(folder, ("", 0.0))
        if time.monotonic() > until:
            if len(self._real_folders) >= _MOST_REMEMBERED:
                self._real_folders = {}
            known = os.path.realpath(folder)
            self._real_folders[folder] = known, time.monotonic() + _REMEMBERED
        real = os.path.join(known, name)
        try:
            status = os.lstat(real)
        except OSError:
            return None
        return PictureFile(real, status) if stat.S_ISREG(status.st_mode) and real.startswith(self._allowed) else None

    def check(self, paths: Iterable[str]) -> None:
        """Raise `UserError` if any of these pictures may not be read or does not exist.

        The message names the first one and counts the others.
        """
        faults = [(path, reason) for path in dict.fromkeys(paths) if (reason := self._checked(path)[1])]
        if faults:
            path, reason = faults[0]
            others = f", and {len(faults) - 1} more cannot be read" if len(faults) > 1 else ""
            way_out = self._way_out() if self._refused else OF_A_PICTURE
            raise UserError(f"{path}: {reason}{others}; {way_out}{self._first_hint(path)}")

    def _first_hint(self, path: str) -> str:
        """What the names on a pipe are relative to, if the first picture does not exist; empty for later pictures."""
        hint, self._hint = self._hint, ""
        return "" if not hint or os.path.isfile(path) else hint

    def _checked(self, path: str) -> tuple[str, str]:
        """The real path of a picture, and why it may not be read; empty if it may."""
        real = os.path.realpath(path) if "\0" not in path else ""
        if real and not real.startswith(self._allowed) and not _is_drawn(real):
            folder = os.path.dirname(real)
            self._parent = os.path.commonpath([self._parent, folder]) if self._refused else folder
            self._refused += 1
            return real, "is outside the allowed folders"
        if os.path.isfile(real):
            return real, ""
        return real, "is not a file" if os.path.exists(real) else "there is no such picture"

    def _way_out_for_all(self) -> str:
        are = "picture is" if self._refused == 1 else "pictures are"
        return f"{self._refused} {are} outside the allowed folders; {self._way_out()}"

    def _way_out(self) -> str:
        if not os.path.isdir(self._parent):
            return f"there is no folder {self._parent}; correct the file names in the records"
        if may_be_root(self._parent):
            return f"add --root {self._parent}"
        return "move the pictures below the folder of the records, or allow their folder with --root"


def may_be_root(folder: str) -> bool:
    """Whether messages may suggest `--root` for this folder.

    Not for a system folder, a hidden folder, a whole home folder, or a folder of many users or projects.
    """
    _, *parts = Path(folder).parts
    if not parts or parts[0] in _SYSTEM or any(part.startswith(".") for part in parts):
        return False
    if folder == os.path.realpath(os.path.expanduser("~")):
        return False
    whole = 2 if parts[0] in ("home", "Users") else 1 if parts[0] in _SHARED else 0
    return len(parts) > whole


def _is_drawn(real: str) -> bool:
    """Whether a file is a picture that generate drew. `real` is its path without links."""
    found = _DRAWN.fullmatch(real)
    return found is not None and os.path.isfile(os.path.join(found[1], MARKER))


def mark(folder: str) -> None:
    """Mark `folder`, so that every command may read the pictures that generate writes there. Creates the folder.

    An existing marker is not overwritten: it may be a link to a file of the user. Raises `UserError` if the folder or
    the marker cannot be written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with Path(folder, MARKER).open("x", encoding="utf-8") as marker:
            marker.write(_SAYS)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise UserError(f"{folder}: is a file, not a folder; name another one") from None
    except OSError as error:
        raise UserError(f"{folder}: {os_reason(error)}") from None
