"""What is asked in a batch, on disk: the requests as the server gets them, and what their answers will fill in.

Beside a file of requests stands one of stubs, a line for each request: the judgements without their scores, as they
were asked for, whatever becomes of the input meanwhile. Kinds of questions, which many share, have lines of their own.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, cast

import orjson

from ...api.budget import Estimate
from ...api.chat import Dialect, Request
from ...api.jobs import PATH
from ...contracts import Aspect, Kind
from ...errors import UserError, os_reason
from ...records import Judgement, digest
from ...streams.names import absolute, relative
from ..plan import Call

_NEWLINE = orjson.OPT_APPEND_NEWLINE
PART = ".part"
MOST_REQUESTS = 50_000
"""In a file, as OpenAI has it."""
MOST_BYTES = 190_000_000
"""In a file; OpenAI says 200 MB. The rest is for what wraps it on its way."""


class Stub(NamedTuple):
    """A request: the call that it makes, what it was expected to take, and a hash of what it says."""

    call: Call
    estimate: Estimate
    asked: str

    @property
    def id(self) -> str:
        """The request's name in its batch: the judgement's key or, where it is about several, one made of theirs."""
        return named(self.call)

    @property
    def prompt(self) -> str:
        """What the pictures were drawn from."""
        return self.call.judgements[0]["prompt"]

    @property
    def shown(self) -> list[str]:
        """The pictures' files, in the order in which they are shown."""
        judgement = self.call.judgements[0]
        return [judgement["file_names"][place] for place in judgement["order"]]


def named(call: Call) -> str:
    """The name of a call's request, the same for the same call in every run."""
    keys = [judgement["key"] for judgement in call.judgements]
    return keys[0] if len(keys) == 1 else digest(keys)


def line_of(name: str, body: bytes) -> bytes:
    """A request as a line of a batch's file."""
    head = orjson.dumps({"custom_id": name, "method": "POST", "url": PATH})
    return head[:-1] + b',"body":' + body + b"}\n"


def name_in(line: bytes) -> str:
    """The name in a line as `line_of` makes it."""
    return line[:100].split(b'"')[3].decode()


def said(request: Request) -> str:
    """A hash of all that a request says, however the server wants it said."""
    parts = [request.system.encode(), *request.parts, orjson.dumps(request.schema)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


class Packer:
    """Writes a file of requests and one of stubs, which are there when they are sealed.

    `at` is how long the output was, in bytes: earlier records are not answers to these requests.
    `dialect` is how the server is asked. Both stand in front of the stubs.
    """

    def __init__(self, requests: str, stubs: str, *, at: int, dialect: Dialect) -> None:
        self.requests, self.stubs = requests, stubs
        self.count = self.bytes = 0
        self._base = os.path.dirname(os.path.abspath(stubs))
        self._kinds: dict[Kind, int] = {}
        self._lines = _open(requests + PART)
        self._stubs = _open(stubs + PART)
        self._put({"at": at, "dialect": list(dialect)})

    def add(self, line: bytes, stub: Stub) -> None:
        """One more request."""
        call = stub.call
        if call.kind not in self._kinds:
            self._kinds[call.kind] = len(self._kinds)
            self._put({"kind": [[list(one) for one in call.kind.aspects], *call.kind[1:]]})
        record = {
            "id": stub.id,
            "of": self._kinds[call.kind],
            "judgements": [relative(judgement, self._base) for judgement in call.judgements],
            "fresh": sorted(call.fresh),
            "estimate": list(stub.estimate),
            "asked": stub.asked,
        }
        self._put(record)
        self._write(self._lines, line)
        self.count += 1
        self.bytes += len(line)

    def fits(self, line: bytes) -> bool:
        """Whether a server would take one more request in this file."""
        return self.count < MOST_REQUESTS and self.bytes + len(line) <= MOST_BYTES

    def seal(self) -> None:
        """Have both files in their places, and on the disk; the last of the stubs' lines says how long the other is."""
        self._put({"bytes": self.bytes})
        for file, path in ((self._stubs, self.stubs), (self._lines, self.requests)):
            try:
                file.flush()
                os.fsync(file.fileno())
                file.close()
                os.replace(path + PART, path)
            except OSError as error:
                raise _failed(path, error) from None

    def discard(self) -> None:
        """Leave nothing behind."""
        for file, path in ((self._stubs, self.stubs), (self._lines, self.requests)):
            file.close()
            with suppress(FileNotFoundError):
                os.unlink(path + PART)

    def _put(self, record: dict[str, Any]) -> None:
        self._write(self._stubs, orjson.dumps(record, option=_NEWLINE))

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


class Stubs:
    """A file of stubs that holds one stub at a time in memory; without a path it is empty.

    `at` and `dialect` are what the `Packer` was told, and `bytes` is how long the file of requests is.
    """

    def __init__(self, path: str) -> None:
        self._base = os.path.dirname(os.path.abspath(path))
        self._kinds: list[Kind] = []
        self._places: dict[str, int] = {}
        self._path = path
        self.at = self.bytes = 0
        self.dialect = Dialect()
        place = 0
        for line in _lines(path):
            record = orjson.loads(line)
            if "id" in record:
                self._places[record["id"]] = place
            elif "kind" in record:
                aspects, mode, pictures = record["kind"]
                self._kinds.append(Kind(tuple(map(_aspect, aspects)), mode, pictures))
            elif "at" in record:
                self.at, self.dialect = record["at"], Dialect(*record["dialect"])
            else:
                self.bytes = record["bytes"]
            place += len(line)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def names(self) -> list[str]:
        """The names of those that are left."""
        return list(self._places)

    def __iter__(self) -> Iterator[Stub]:
        """Those that are left; they may be dropped meanwhile."""
        for line in _lines(self._path):
            record = orjson.loads(line)
            if record.get("id") in self._places:
                yield self._stub(record)

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
        """Have some left out from now on."""
        for name in names:
            del self._places[name]


def _aspect(fields: list[Any]) -> Aspect:
    name, title, rubric, levels = fields
    return Aspect(name, title, rubric, tuple(levels))


def _lines(path: str) -> Iterator[bytes]:
    if path:
        with open(path, "rb") as file:
            yield from file
