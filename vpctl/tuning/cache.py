"""What the frozen layers make of each picture, on disk: later epochs compute only the layers that are trained.

ImageReward's code loads every picture again for each of its pairs and computes all layers for it. Here the frozen ones
run once for a picture, in the first epoch. Their output is always rounded to float16, also where it is not stored. So a
lack of space or an interrupt does not change a training in float32.
"""

import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import progress
from ..errors import UserError, os_reason

FOLDER = "cache"
"""Folder of the features in the folder of a training."""
_SHARE_OF_DISK = 0.9
"""Maximum share of the free space that features may take."""
_CHECKSUM = 4
"""Bytes of a checksum."""


class FrozenFeatures:
    """Arrays (*shape) of float16 by number, computed once for each of `names`.

    The file has a checksum for each array, which also depends on the name. So an array that is half written, or of
    another picture, is computed again. If `folder` is None, nothing is stored.
    """

    def __init__(self, folder: Path | None, names: Sequence[str], shape: tuple[int, ...]) -> None:
        """`names` identify the contents of the pictures and the layers that were computed."""
        self._shape = shape
        self._size = 2 * int(np.prod(shape))
        self._seeds = [zlib.crc32(name.encode()) for name in names]
        self._file = self._sums = -1
        self._folder = folder
        if folder is not None:
            self._open(folder)

    def _open(self, folder: Path) -> None:
        needed = len(self._seeds) * self._size
        try:
            folder.mkdir(exist_ok=True)
            there = sum(one.stat().st_blocks * 512 for one in folder.iterdir())
            if needed - there > _SHARE_OF_DISK * shutil.disk_usage(folder).free:
                progress.note(
                    f"too little space for a cache of {needed / 1e9:.1f} GB in {folder}: the frozen layers are "
                    "computed in every epoch"
                )
                return
            self._file = os.open(folder / "features", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            self._sums = os.open(folder / "checksums", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except OSError as error:
            progress.warn(f"{folder}: {os_reason(error)}: the frozen layers are computed in every epoch")

    def load(self, numbers: Sequence[int], compute: Callable[[list[int]], Tensor]) -> Tensor:
        """The arrays (B, *shape) of these numbers. `compute` makes those that are not stored.

        Raises `UserError` if a value is too large for float16.
        """
        found = {number: self._read(number) for number in dict.fromkeys(numbers)}
        if missing := [number for number, one in found.items() if one is None]:
            for number, made in zip(missing, compute(missing).half(), strict=True):
                if not made.isfinite().all():
                    raise UserError("the output of the frozen layers is too large for float16; train with --freeze 0")
                found[number] = made
                self._write(number, made)
        return torch.stack([one for number in numbers if (one := found[number]) is not None])

    def _read(self, number: int) -> Tensor | None:
        if self._file < 0:
            return None
        data = os.pread(self._file, self._size, number * self._size)
        known = os.pread(self._sums, _CHECKSUM, number * _CHECKSUM)
        if len(data) < self._size or known != self._checksum(number, data):
            return None
        return torch.from_numpy(np.frombuffer(data, np.float16).reshape(self._shape).copy())

    def _write(self, number: int, array: Tensor) -> None:
        if self._file < 0:
            return
        data = array.cpu().numpy().tobytes()
        try:
            written = os.pwrite(self._file, data, number * self._size)
            if written == len(data):
                os.pwrite(self._sums, self._checksum(number, data), number * _CHECKSUM)
        except OSError as error:
            progress.warn(f"{self._folder}: {os_reason(error)}: the frozen layers are computed in every epoch")
            os.close(self._file)
            self._file = -1

    def _checksum(self, number: int, data: bytes) -> bytes:
        """Four bytes, not all of them zero: a part of a file that was never written is zeros."""
        return max(1, zlib.crc32(data, self._seeds[number])).to_bytes(_CHECKSUM, "little")

    def remove(self) -> None:
        """Delete the file. A training that has ended needs it no more."""
        for opened in (self._file, self._sums):
            if opened >= 0:
                os.close(opened)
        self._file = self._sums = -1
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
