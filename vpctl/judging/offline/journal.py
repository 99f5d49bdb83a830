"""The journal of batches. It is on disk before anything is started that could cost money.

Each line is about one batch, or about the limit of the server. Later lines override earlier ones. A batch gets a line
before its file is uploaded, one when it is uploaded, and one when it is created. The first has a tag of our own, which
the server also gets. If a run finds that the last line is missing, it asks the server whether it has a batch with this
tag. So no batch is created twice, whenever a run is killed. Each line has a checksum of itself and of all earlier
lines, because a lost or changed line could cost money or answers.
"""

import os
import secrets
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

from ...errors import UserError, os_reason

REQUESTS, STUBS, ANSWERS, ERRORS = "requests", "stubs", "answers", "errors"
"""Kinds of files that a batch may have beside the journal."""
_NAME = "journal.jsonl"
_CRC = b',"crc":'
"""Begins the checksum, the last value of a line: the CRC-32 of the line up to here, started from the CRC-32 of the
previous line.
"""


@dataclass(frozen=True)
class PendingBatch:
    """A batch as the journal knows it.

    - annotator, server: who was asked, and where
    - reserved: maximum cost in dollars
    - again: whether some of its requests were in an earlier batch that failed
    - dialect: how the server was asked; once the batch is done, how to ask it from then on, as its answers showed
    - file, id: the server's ids of the file and of the batch
    - state: empty while the batch is pending
    - why: the reason, if it failed
    """

    tag: str
    annotator: str
    server: str
    requests: int
    reserved: float
    again: bool = False
    dialect: tuple[Any, ...] = ()
    time: float = field(default_factory=time.time)
    file: str = ""
    id: str = ""
    state: Literal["", "done", "failed"] = ""
    why: str = ""


class Journal:
    """The journal in a folder. `most` is how many requests the server accepts at a time; None if that is unknown.

    Raises `UserError` if the journal cannot be opened or is damaged.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.jobs: dict[str, PendingBatch] = {}
        self.most: int | None = None
        self._crc = 0
        path = os.path.join(folder, _NAME)
        try:
            os.makedirs(folder, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise UserError(f"{path}: {os_reason(error)}") from None
        with open(self._file, "rb", closefd=False) as file:
            *lines, last = file.read().split(b"\n")
        right = all(map(self._read, lines))
        complete = right and self._read(last)
        if not right or self._lacks_a_batch():
            os.close(self._file)
            raise UserError(
                f"{path}: this journal of batches is damaged; restore it, or remove {folder} to start again without "
                "the answers of its batches"
            )
        if last:  # a killed run may have left an incomplete line
            self._repair(lines, complete)

    def _read(self, text: bytes) -> bool:
        """Learn a line of the file. False if it is damaged."""
        sealed, crc = self._sealed(text.rpartition(_CRC)[0])
        if text != sealed:
            return False
        self._learn(orjson.loads(text), crc)
        return True

    def _lacks_a_batch(self) -> bool:
        """Whether there are stubs of a batch that is not in the journal.

        A run that is killed before it records a batch leaves its requests, too.
        """
        stubs = f".{STUBS}.jsonl"
        tags = {name.removesuffix(stubs) for name in os.listdir(self.folder) if name.endswith(stubs)}
        requests = (self.path(tag, REQUESTS) for tag in tags - self.jobs.keys())
        return any(not os.path.exists(path) and not os.path.exists(f"{path}.part") for path in requests)

    def _repair(self, lines: list[bytes], complete: bool) -> None:
        """End the last line if it is `complete`; otherwise cut it off."""
        try:
            if complete:
                os.write(self._file, b"\n")
            else:
                os.ftruncate(self._file, sum(len(line) + 1 for line in lines))
        except OSError as error:
            raise UserError(f"{self.folder}: {os_reason(error)}") from None

    def add(self, requests: int, tag: str, **what: Any) -> PendingBatch:
        """Record a new batch."""
        return self.update(tag, requests=requests, time=time.time(), **what)

    def update(self, tag: str, **what: Any) -> PendingBatch:
        """Record new facts about a batch, and return it."""
        self._write({"batch": tag, **what})
        return self.jobs[tag]

    def limit(self, most: int) -> None:
        """Record how many requests the server accepts at a time."""
        self._write({"most": most})

    def _write(self, line: dict[str, Any]) -> None:
        sealed, crc = self._sealed(orjson.dumps(line)[:-1])
        text = memoryview(sealed + b"\n")
        size = os.fstat(self._file).st_size
        try:
            while text:  # a disk that becomes full takes the beginning of the line, without an error
                text = text[os.write(self._file, text) :]
            os.fsync(self._file)
        except OSError as error:
            with suppress(OSError):  # otherwise the next run does it
                os.ftruncate(self._file, size)
            raise UserError(f"{self.folder}: {os_reason(error)}") from None
        self._learn(line, crc)

    def _sealed(self, head: bytes) -> tuple[bytes, int]:
        """The next line, which begins with `head` and ends with its checksum; and the checksum."""
        crc = zlib.crc32(head, self._crc)
        return head + _CRC + b"%d}" % crc, crc

    def _learn(self, line: dict[str, Any], crc: int) -> None:
        self._crc = crc
        if "most" in line:
            self.most = line["most"]
            return
        tag = line["batch"]
        what: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in line.items()
            if key not in ("batch", "crc")
        }
        self.jobs[tag] = replace(self.jobs[tag], **what) if tag in self.jobs else PendingBatch(tag, **what)

    def path(self, tag: str, kind: str) -> str:
        """The path of one of a batch's files. `kind` is one of `REQUESTS`, `STUBS`, `ANSWERS` and `ERRORS`."""
        return os.path.join(self.folder, f"{tag}.{kind}.jsonl")

    def remove_stale_files(self) -> None:
        """Remove the files that are no longer needed, and unfinished files of killed runs.

        Stubs go first: stubs without requests and without a line in the journal would mean that the line is lost.
        """
        needed = {_NAME}
        for job in self.jobs.values():
            if job.state != "done":
                needed.add(os.path.basename(self.path(job.tag, STUBS)))
            if not job.state:
                kinds = [ANSWERS, ERRORS] if job.id else [REQUESTS]
                needed.update(os.path.basename(self.path(job.tag, kind)) for kind in kinds)
        for name in sorted(os.listdir(self.folder), key=lambda name: not name.endswith(f".{STUBS}.jsonl")):
            if name not in needed:
                os.unlink(os.path.join(self.folder, name))

    def close(self) -> None:
        """Close the journal's file."""
        os.close(self._file)


def new_tag() -> str:
    """A random tag that is unique on every server."""
    return secrets.token_hex(12)
