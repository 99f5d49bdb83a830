"""Files and batches on a server: upload, create, look up and download. Files are streamed and never held in memory.

https://platform.openai.com/docs/guides/batch has the protocol.
"""

import asyncio
import errno
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import httpx2

from ..errors import UserError, os_reason
from .answers import loads
from .engine import Engine
from .wire import Unreadable

PATH = "/v1/chat/completions"
"""The endpoint of every request in a batch."""
TAG = "vpctl"
"""The key in a batch's metadata that has our own tag."""
_CLOCKS = 86_400
"""Maximum number of seconds by which the server's clock may be behind ours."""
_CHUNK = 1 << 20
_SLOWEST = 1 << 16
"""Minimum speed of an upload in bytes per second. A slower one runs into its timeout."""
_PAGE = "100"


ENDED = ("completed", "expired", "cancelled")
"""The words for a batch that has ended and may have answers."""
_ID = re.compile(r"(?!.*(?:^|/)\.{0,2}(?:/|$))[\w.:=~+@,/-]{1,4096}", re.ASCII)
"""An id. Gateways put long base64 into it, and some servers a slash, but never an empty segment or one of dots."""


class Problem(NamedTuple):
    """Why a server rejected a batch."""

    code: str
    message: str


class BatchState(NamedTuple):
    """A batch as the server describes it.

    - status: the server's word
    - completed: number of requests that are answered
    - answers, errors: ids of the files with the answers and with the failed requests; empty if there is no such file,
      or if the batch has not ended
    - problems: why the whole batch was rejected
    """

    status: str
    completed: int
    answers: str
    errors: str
    problems: list[Problem]


@contextmanager
def _written(path: str) -> Iterator[BinaryIO]:
    """A new file, synced to the disk at the end. Disk errors become `UserError`, not to be taken for network errors."""
    try:
        with open(path, "wb") as file:
            yield file
            os.fsync(file.fileno())
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise
        raise UserError(f"{path}: {os_reason(error)}") from None


class BatchJobs:
    """The batches on an engine's server. All methods retry until they are answered, as `Engine.managed` does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def upload(self, path: str, name: str) -> str:
        """Upload a file of requests under `name`, and return its id."""

        async def send() -> str:
            with open(path, "rb") as file:
                response = await self._engine.transport.client.post(
                    "/files",
                    cast_to=httpx2.Response,
                    body={"purpose": "batch"},
                    files={"file": (name, file)},
                    options={"headers": {"Content-Type": "multipart/form-data"}},
                )
            return _id(_object(response))

        within = self._engine.config.timeout + os.path.getsize(path) / _SLOWEST
        return await self._engine.managed(send, within=within)

    async def create(self, file_id: str, tag: str, since: float, *, begun: bool) -> str:
        """Create the batch of an uploaded file, and return its id.

        A batch that is created twice is paid for twice. So the server is first searched for a batch with this `tag` if
        an earlier run may have created it (`begun`), at the time `since` or later, or if a try of this call got no
        answer.
        """

        async def send() -> str:
            nonlocal begun
            if begun and (found := await self._find(tag, since)):
                return found
            begun = True
            asked = {"input_file_id": file_id, "endpoint": PATH, "completion_window": "24h", "metadata": {TAG: tag}}
            response = await self._engine.transport.client.post("/batches", cast_to=httpx2.Response, body=asked)
            return _id(_object(response))

        return await self._engine.managed(send)

    async def _find(self, tag: str, since: float) -> str:
        """The id of a batch with this tag; empty if there is none. The server lists the newest first."""
        seen: set[str] = set()
        after: dict[str, str] = {}
        while True:
            page = await self._get("/batches", {"limit": _PAGE, **after})
            listed = _objects(page.get("data"))
            for one in listed:
                if _object_of(one.get("metadata")).get(TAG) == tag:
                    return _id(one)
            if not listed or not page.get("has_more"):
                return ""
            created, last = listed[-1].get("created_at"), _id(listed[-1])
            if isinstance(created, int | float) and created < since - _CLOCKS:
                return ""
            if last in seen:
                raise Unreadable("the server's list of batches repeats itself")
            seen.add(last)
            after = {"after": last}

    async def get(self, batch_id: str, way_out: str) -> BatchState:
        """The current state of a batch."""

        async def send() -> BatchState:
            return _state(await self._get(f"/batches/{batch_id}"))

        return await self._engine.managed(send, way_out)

    async def _get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        options: Any = {"params": query} if query else {}
        return _object(await self._engine.transport.client.get(path, cast_to=httpx2.Response, options=options))

    async def download(self, file_id: str, path: str, way_out: str) -> None:
        """Download a file to `path`, unless that exists. An incomplete file never gets this name."""

        async def send() -> None:
            now, most = asyncio.get_running_loop().time, self._engine.config.timeout
            content = self._engine.transport.client.files.with_streaming_response.content(file_id)
            async with asyncio.timeout(most) as limit, content as response:
                with _written(f"{path}.part") as file:
                    async for chunk in response.iter_bytes(_CHUNK):
                        file.write(chunk)
                        limit.reschedule(now() + most)

        if not os.path.exists(path):
            await self._engine.managed(send, way_out, within=math.inf)
            os.replace(f"{path}.part", path)


def _object(response: httpx2.Response) -> dict[str, Any]:
    """The answer. Raises `ValueError` if it is not JSON, and `Unreadable` if it is not an object."""
    answer = loads(response.content)
    if not isinstance(answer, dict):
        raise Unreadable("it is not a JSON object")
    return answer


def _state(batch: dict[str, Any]) -> BatchState:
    """The state in an answer.

    Raises `Unreadable` if what decides about answers that were paid for is not as it must be. What is only shown is
    left out instead.
    """
    status, completed = batch.get("status"), _object_of(batch.get("request_counts")).get("completed")
    if not isinstance(status, str):
        raise Unreadable("the batch has no status")
    completed = completed if isinstance(completed, int) and completed > 0 else 0
    answers = errors = ""
    if status in ENDED:
        answers, errors = (
            "" if batch.get(name) in (None, "") else _id(batch, name) for name in ("output_file_id", "error_file_id")
        )
        if completed and not answers and not errors:
            raise Unreadable(f"{completed} requests are completed, but the batch has no file of answers")
    said = batch.get("errors")
    problems = _objects(_object_of(said).get("data", said if isinstance(said, list) else [said]))
    return BatchState(
        status,
        completed,
        answers,
        errors,
        [Problem(str(one.get("code") or ""), str(one.get("message") or "")) for one in problems],
    )


def _id(record: dict[str, Any], key: str = "id") -> str:
    """An id in an answer, which becomes a part of a URL. Raises `Unreadable` if it is none."""
    found = record.get(key)
    if not isinstance(found, str) or not _ID.fullmatch(found):
        raise Unreadable(f"{key} is missing, or is not an id")
    return found


def _object_of(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
