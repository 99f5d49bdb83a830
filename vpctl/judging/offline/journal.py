"""Which batches there are, in a journal that is on the disk before anything is begun that could be paid for.

A line says something of a batch, or of all: what a later line says counts. A batch has a line before its file is
uploaded, with a name of our own that the server is told too, one when it is, and one when it is begun; a run that finds
the last one missing asks the server for that name. So nothing is begun twice, whenever a run is killed.
"""

import os
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

from ...errors import UserError, os_reason

REQUESTS, STUBS, ANSWERS, ERRORS = "requests", "stubs", "answers", "errors"
"""The files that a batch may have beside the journal."""
_NAME = "journal.jsonl"


@dataclass(frozen=True)
class PendingBatch:
    """A batch as far as the journal knows it.

    - annotator, server: who was asked, and where
    - reserved: dollars that it may cost at most
    - again: whether some of its requests were in a batch before that the server would not begin
    - dialect: how the server was asked or, once that is done, how it is to be asked after what it said
    - file, id: what the server calls its file, and the batch
    - state: empty while it is under way; `why` it failed
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
    """The journal in a folder. `most` is how many requests the server takes at once, as far as it has said."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.jobs: dict[str, PendingBatch] = {}
        self.most: int | None = None
        path = os.path.join(folder, _NAME)
        try:
            os.makedirs(folder, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise UserError(f"{path}: {os_reason(error)}") from None
        with open(self._file, "rb", closefd=False) as file:
            content = file.read()
        whole = content.rfind(b"\n") + 1
        os.ftruncate(self._file, whole)  # a killed run may have begun a line
        try:
            for line in content[:whole].splitlines():
                self._learn(orjson.loads(line))
        except (orjson.JSONDecodeError, TypeError, KeyError):
            raise UserError(f"{path}: is not a journal of batches; move it away to start again") from None

    def add(self, requests: int, tag: str, **what: Any) -> PendingBatch:
        """Write down a new batch."""
        return self.note(tag, requests=requests, time=time.time(), **what)

    def note(self, tag: str, **what: Any) -> PendingBatch:
        """Write down more of a batch."""
        self._write({"batch": tag, **what})
        return self.jobs[tag]

    def limit(self, most: int) -> None:
        """Write down how many requests the server takes at once."""
        self._write({"most": most})

    def _write(self, line: dict[str, Any]) -> None:
        try:
            os.write(self._file, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            os.fsync(self._file)
        except OSError as error:
            raise UserError(f"{self.folder}: {os_reason(error)}") from None
        self._learn(line)

    def _learn(self, line: dict[str, Any]) -> None:
        if "most" in line:
            self.most = line["most"]
            return
        tag = line["batch"]
        what: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in line.items() if key != "batch"
        }
        self.jobs[tag] = replace(self.jobs[tag], **what) if tag in self.jobs else PendingBatch(tag, **what)

    def path(self, tag: str, kind: str) -> str:
        """A batch's file."""
        return os.path.join(self.folder, f"{tag}.{kind}.jsonl")

    def tidy(self) -> None:
        """Take away the files that nothing needs any more, and those that a killed run had begun."""
        needed = {_NAME}
        for job in self.jobs.values():
            if job.state != "done":
                needed.add(os.path.basename(self.path(job.tag, STUBS)))
            if not job.state:
                kinds = [ANSWERS, ERRORS] if job.id else [REQUESTS]
                needed.update(os.path.basename(self.path(job.tag, kind)) for kind in kinds)
        for name in os.listdir(self.folder):
            if name not in needed:
                os.unlink(os.path.join(self.folder, name))

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)


def new_tag() -> str:
    """A name that no other batch has, on this server or another."""
    return secrets.token_hex(12)
