"""Tensors on disk that a frozen part of a model computes, once for each picture or prompt.

The files hold what was computed, rounded as it is used, so that a lack of space, a damaged file or an interrupt does
not change a training. They are never trusted: what they hold for a number is used only if its checksum fits, and the
checksum depends on the content that it was computed from. A file is read in parts, and not mapped into memory. Another
program that shortens a mapped file would end the training.
"""

import errno
import math
import os
import shutil
import stat
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .. import progress
from ..errors import os_reason

_SHARE_OF_DISK = 0.9
"""Maximum share of the free space that a cache may take."""
_CHECKSUM = 4
"""Bytes of a checksum."""


class Part(NamedTuple):
    """One tensor of each number: its dtype and its shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return self.dtype.itemsize * math.prod(self.shape)


class TensorCache:
    """Some tensors by number, computed once for each of `names`.

    The file has a checksum for each number, which also depends on the name. So tensors that are half written, or of
    another picture, are computed again. Several processes may use the same files. If `folder` is None, nothing is
    stored.
    """

    def __init__(self, folder: Path | None, names: Sequence[str], parts: Sequence[Part], *, otherwise: str) -> None:
        """`names` identify the content of each picture or prompt, and the layers that compute its tensors.

        `parts` are the tensors of a number. `otherwise` says what happens if they cannot be stored.
        """
        self._parts = parts
        self._size = sum(part.size for part in parts)
        self._seeds = [zlib.crc32(name.encode("utf-8", "surrogatepass")) for name in names]
        self._file = self._sums = -1
        self._folder, self._otherwise = folder, otherwise
        if folder is not None:
            self._open(folder)

    @property
    def stores(self) -> bool:
        """Whether tensors are stored."""
        return self._file >= 0

    def _open(self, folder: Path) -> None:
        needed = len(self._seeds) * (self._size + _CHECKSUM)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            there = sum(one.stat().st_blocks * 512 for one in folder.iterdir())
            if needed - there > _SHARE_OF_DISK * shutil.disk_usage(folder).free:
                progress.note(f"too little space for a cache of {progress.size(needed)} in {folder}: {self._otherwise}")
                return
            self._sums = _opened(folder / "checksums")
            self._file = _opened(folder / "tensors")
        except OSError as error:
            progress.warn(f"{folder}: {os_reason(error)}: {self._otherwise}")
            self._close()

    def load(self, numbers: Sequence[int], compute: Callable[[list[int]], Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """The tensors (B, *shape) of these numbers, one for each part.

        `compute` makes those of numbers that are not stored, in the dtypes and shapes of the parts.
        """
        found = {number: self._read(number) for number in dict.fromkeys(numbers)}
        if missing := [number for number, one in found.items() if one is None]:
            for number, *made in zip(missing, *(one.cpu() for one in compute(missing)), strict=True):
                found[number] = made
                self._write(number, made)
        rows = [one for number in numbers if (one := found[number]) is not None]
        return tuple(map(torch.stack, zip(*rows, strict=True)))

    def _read(self, number: int) -> Sequence[Tensor] | None:
        if not self.stores:
            return None
        try:
            data = bytearray(os.pread(self._file, self._size, number * self._size))
            known = os.pread(self._sums, _CHECKSUM, number * _CHECKSUM)
        except OSError:  # a bad sector, for example
            return None
        if len(data) < self._size or known != self._checksum(number, data):
            return None
        found, start = [], 0
        for part in self._parts:
            flat = torch.frombuffer(data, dtype=torch.uint8, count=part.size, offset=start)
            found.append(flat.clone().view(part.dtype).view(part.shape))
            start += part.size
        return found

    def _write(self, number: int, tensors: Sequence[Tensor]) -> None:
        if not self.stores:
            return
        data = b"".join(one.contiguous().flatten().view(torch.uint8).numpy().tobytes() for one in tensors)
        try:
            written = os.pwrite(self._file, data, number * self._size)
            if written == len(data):
                os.pwrite(self._sums, self._checksum(number, data), number * _CHECKSUM)
        except OSError as error:
            progress.warn(f"{self._folder}: {os_reason(error)}: {self._otherwise}")
            self._close()

    def _checksum(self, number: int, data: bytes | bytearray) -> bytes:
        """Four bytes, not all of them zero: a part of a file that was never written is zeros."""
        return max(1, zlib.crc32(data, self._seeds[number])).to_bytes(_CHECKSUM, "little")

    def _close(self) -> None:
        for opened in (self._file, self._sums):
            if opened >= 0:
                os.close(opened)
        self._file = self._sums = -1


def _opened(file: Path) -> int:
    """A file to read and write. Raises `OSError` for a link, which may lead anywhere, and for what is not a file."""
    opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "not a regular file")
    return opened
