"""Metrics and previews for TensorBoard.

torch's own SummaryWriter writes in a thread: on a full disk it raises an error at a later call, or waits forever at the
end. This class writes at once.
"""

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any, BinaryIO

import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from .. import progress
from ..errors import os_reason


class Board:
    """An event file. If a write fails, there is one warning, and nothing more is written; the training continues."""

    def __init__(self, folder: Path, *, first: int) -> None:
        """Open the file. TensorBoard ignores what earlier event files hold for step `first` and later steps."""
        self._file: BinaryIO | None = None
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        try:
            folder.mkdir(exist_ok=True)
            self._file = self._path.open("xb")
        except OSError as error:
            self._give_up(error)
        self._write(step=first, file_version="brain.Event:2")
        self._write(step=first, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add one number."""
        self._write(step=step, summary=summary.scalar(name, value))

    def picture(self, name: str, pixels: torch.Tensor, step: int) -> None:
        """Add one picture: bytes (H, W, 3)."""
        self._write(step=step, summary=summary.image(name, pixels, dataformats="HWC"))

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def _write(self, **event: Any) -> None:
        if self._file is None:
            return
        try:
            RecordWriter(self._file).write(Event(wall_time=time.time(), **event).SerializeToString())
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        file, self._file = self._file, None
        if file:
            with contextlib.suppress(OSError):  # it tries to write once more
                file.close()
        progress.warn(f"{self._path}: {os_reason(error)}; the run continues without TensorBoard")
