"""The questions of a batch on disk: the requests as the server gets them, and what their answers will fill in.

Beside each file of requests there is a file of stubs. A stub is one line for one request. It has the request's
judgements without scores, so that the answer can be read even if the input has changed since then. Kinds of questions
are shared by many requests and have lines of their own.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, cast

import orjson

from ...api.budget import Estimate
from ...api.chat import ChatModel, Request
from ...api.dialects import Dialect
from ...api.jobs import PATH
from ...contracts import Aspect, Kind, OfflineAnnotator
from ...errors import UserError, os_reason
from ...records import Judgement, digest
from ...streams.names import absolute, relative
from ..plan import Call

_HEAD = re.compile(rb'\{"custom_id":"(\w+)",')
_NEWLINE = orjson.OPT_APPEND_NEWLINE
PART = ".part"
MOST_REQUESTS = 50_000
"""Maximum number of requests in a file, the limit of OpenAI."""
MOST_BYTES = 190_000_000
"""Maximum size of a file in bytes. OpenAI's limit is 200 MB; the difference is for the encoding of the upload."""


def model_of(annotator: OfflineAnnotator) -> ChatModel:
    """The model of an offline annotator. The contract cannot name its type, because it knows no client of servers."""
    return cast(ChatModel, annotator.model)


class Stub(NamedTuple):
    """What is kept of a request: its call, its estimated usage, and a hash of its content, `asked`."""

    call: Call
    estimate: Estimate
    asked: str

    @property
    def id(self) -> str:
        """The name of the request in its batch. See `request_name`."""
        return request_name(self.call)

    @property
    def prompt(self) -> str:
        """The prompt of the pictures."""
        return self.call.judgements[0]["prompt"]

    @property
    def shown(self) -> list[str]:
        """The files of the pictures, in the order in which they are shown."""
        judgement = self.call.judgements[0]
        return [judgement["file_names"][place] for place in judgement["order"]]


def request_name(call: Call) -> str:
    """The name of a call's request: the judgement's key, or a digest of the keys if there are several judgements.

    The same call has the same name in every run.
    """
    keys = [judgement["key"] for judgement in call.judgements]
    return keys[0] if len(keys) == 1 else digest(keys)


def request_line(name: str, body: bytes) -> bytes:
    """A request as a line of a batch file. `name` becomes the ``custom_id``."""
    head = orjson.dumps({"custom_id": name, "method": "POST", "url": PATH})
    return head[:-1] + b',"body":' + body + b"}\n"


def parse_name(line: bytes) -> str:
    """The name in a line of requests, which the user may have reformatted. Empty if the line is not a request."""
    if (head := _HEAD.match(line)) and line.endswith(b"}\n"):
        return head[1].decode()
    try:
        name = orjson.loads(line)["custom_id"]
    except (ValueError, TypeError, KeyError):
        return ""
    return name if isinstance(name, str) else ""


def request_hash(request: Request) -> str:
    """A hash of the content of a request. It does not depend on the dialect of the server."""
    parts = [request.system.encode(), *request.parts, orjson.dumps(request.schema)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


class BatchFileWriter:
    """Writes a file of requests and a file of stubs. `commit` puts both in place; until then they have temporary names.

    `at` is the length of the output in bytes: records before it are not answers to these requests. `dialect` is the
    dialect of the requests. Both are in the first line of the stubs.
    """

    def __init__(self, requests: str, stubs: str, *, at: int, dialect: Dialect) -> None:
        self.requests, self.stubs = requests, stubs
        self.count = self.bytes = 0
        self._base = os.path.dirname(os.path.abspath(stubs))
        self._kinds: dict[Kind, int] = {}
        self._lines = _open(requests + PART)
        self._stubs = _open(stubs + PART)
        self._sha256 = hashlib.sha256()
        self._put({"at": at, "dialect": list(dialect)})

    def add(self, line: bytes, stub: Stub) -> None:
        """Add one request. Raises `UserError` if it cannot be written."""
        self._add(stub)
        self._write(self._lines, line)
        self.count += 1
        self.bytes += len(line)

    def keep(self, stub: Stub) -> None:
        """Add the stub of a request that is missing in the file of requests. Its result can still be read."""
        self._add(stub, missing=True)

    def _add(self, stub: Stub, **more: bool) -> None:
        call = stub.call
        if call.kind not in self._kinds:
            self._kinds[call.kind] = len(self._kinds)
            self._put({"kind": [[list(one) for one in call.kind.aspects], *call.kind[1:]]})
        record = {
            "id": stub.id,
            "of": self._kinds[call.kind],
            "judgements": [relative(judgement, self._base) for judgement in call.judgements],
            "fresh": sorted(call.pending_keys),
            "estimate": list(stub.estimate),
            "asked": stub.asked,
            **more,
        }
        self._put(record)

    def fits(self, line: bytes) -> bool:
        """Whether the file with one more request is within the limits of the server."""
        return self.count < MOST_REQUESTS and self.bytes + len(line) <= MOST_BYTES

    def commit(self) -> None:
        """Sync both files to the disk and give them their names.

        The stubs end with the length of the file of requests, and with a line that has the SHA-256 of all lines before
        it. Raises `UserError` if a file cannot be written.
        """
        self._put({"bytes": self.bytes})
        self._write(self._stubs, _checksum(self._sha256))
        for file, path in ((self._stubs, self.stubs), (self._lines, self.requests)):
            try:
                file.flush()
                os.fsync(file.fileno())
                file.close()
                os.replace(path + PART, path)
            except OSError as error:
                raise _failed(path, error) from None

    def discard(self) -> None:
        """Remove both temporary files."""
        for file, path in ((self._stubs, self.stubs), (self._lines, self.requests)):
            file.close()
            with suppress(FileNotFoundError):
                os.unlink(path + PART)

    def _put(self, record: dict[str, Any]) -> None:
        line = orjson.dumps(record, option=_NEWLINE)
        self._sha256.update(line)
        self._write(self._stubs, line)

    @staticmethod
    def _write(file: BinaryIO, line: bytes) -> None:
        try:
            file.write(line)
        except OSError as error:
            raise _failed(file.name, error) from None


def _open(path: str) -> BinaryIO:
    try:
        return open(path, "wb")
    except OSError as error:
        raise _failed(path, error) from None


def _failed(path: str, error: OSError) -> UserError:
    return UserError(f"{path}: {os_reason(error)}; run the same command again to resume")


class StubFile:
    """The stubs in a file, read from disk one at a time. Without a path there are none.

    `at` and `dialect` are those that the `BatchFileWriter` was given. `bytes` is the length of the file of requests.
    `missing` has the names of stubs whose requests are not in it.
    Raises `UserError`, with `way_out` at its end, if the file cannot be read or is damaged.
    """

    def __init__(self, path: str, way_out: str = "") -> None:
        self._base = os.path.dirname(os.path.abspath(path))
        self._kinds: list[Kind] = []
        self._places: dict[str, int] = {}
        self._path = path
        self.at = self.bytes = 0
        self.dialect = Dialect()
        self.missing: set[str] = set()
        try:
            _check(path)
        except OSError as error:
            raise UserError(f"{path}: {os_reason(error)}{way_out}") from None
        except ValueError:
            raise UserError(f"{path}: this file of vpctl is damaged{way_out}") from None
        place = 0
        for line in _lines(path):
            record = orjson.loads(line)
            if "id" in record:
                self._places[record["id"]] = place
                self.missing.discard(record["id"])
                if record.get("missing"):
                    self.missing.add(record["id"])
            elif "kind" in record:
                aspects, mode, pictures = record["kind"]
                self._kinds.append(Kind(tuple(map(_aspect, aspects)), mode, pictures))
            elif "at" in record:
                self.at, self.dialect = record["at"], Dialect(*record["dialect"])
            elif "bytes" in record:
                self.bytes = record["bytes"]
            place += len(line)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def names(self) -> list[str]:
        """The names of the stubs that have not been dropped."""
        return list(self._places)

    def __iter__(self) -> Iterator[Stub]:
        """The stubs that have not been dropped. Stubs may be dropped during the iteration."""
        place = 0
        for line in _lines(self._path):
            record = orjson.loads(line)
            if self._places.get(record.get("id")) == place:  # a stub that was written again counts once
                yield self._stub(record)
            place += len(line)

    def __getitem__(self, name: str) -> Stub:
        with open(self._path, "rb") as file:
            file.seek(self._places[name])
            return self._stub(orjson.loads(file.readline()))

    def _stub(self, record: dict[str, Any]) -> Stub:
        judgements = [cast(Judgement, absolute(one, self._base)) for one in record["judgements"]]
        shown = tuple(judgements[0]["order"])
        call = Call(self._kinds[record["of"]], shown, judgements, frozenset(record["fresh"]))
        return Stub(call, Estimate(*record["estimate"]), record["asked"])

    def drop(self, *names: str) -> None:
        """Remove the stubs with these names. The file does not change."""
        for name in names:
            del self._places[name]
            self.missing.discard(name)


def _check(path: str) -> None:
    """Raise `ValueError` if the lines are not those that were written."""
    sha256 = hashlib.sha256()
    last = b""
    for line in _lines(path):
        sha256.update(last)
        last = line
    if path and last != _checksum(sha256):
        raise ValueError


def _checksum(sha256: "hashlib._Hash") -> bytes:
    """The last line of the stubs, which has the hash of all lines before it."""
    return orjson.dumps({"sha256": sha256.hexdigest()}, option=_NEWLINE)


def _aspect(fields: list[Any]) -> Aspect:
    name, title, rubric, levels, *more = fields  # earlier versions wrote nothing more
    return Aspect(name, title, rubric, tuple(levels), *more)


def _lines(path: str) -> Iterator[bytes]:
    if path:
        with open(path, "rb") as file:
            yield from file
