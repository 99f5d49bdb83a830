"""A server's files and batches: uploaded, begun, looked up and downloaded, without any of them being held in memory.

https://platform.openai.com/docs/guides/batch has the protocol.
"""

import asyncio
import errno
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import httpx2

from ..errors import UserError, os_reason
from .engine import Engine

PATH = "/v1/chat/completions"
"""Where every request of a batch goes."""
TAG = "vpctl"
"""Key of a batch's metadata that has our own name for it."""
_CLOCKS = 86_400
"""Seconds by which the server's clock may be behind ours."""
_CHUNK = 1 << 20
_SLOWEST = 1 << 16
"""Bytes a second of a connection that is worth waiting for."""
_PAGE = "100"


@contextmanager
def _written(path: str) -> Iterator[BinaryIO]:
    """A new file, on the disk at the end. What is wrong with the disk is not to be taken for the network's fault."""
    try:
        with open(path, "wb") as file:
            yield file
            os.fsync(file.fileno())
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise
        raise UserError(f"{path}: {os_reason(error)}") from None


class BatchJobs:
    """The batches of an engine's server. All methods try until they are answered, as `Engine.managed` does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def upload(self, path: str, name: str) -> str:
        """Upload a file of requests; its id."""

        async def send() -> str:
            with open(path, "rb") as file:
                response = await self._engine.transport.client.post(
                    "/files",
                    cast_to=httpx2.Response,
                    body={"purpose": "batch"},
                    files={"file": (name, file)},
                    options={"headers": {"Content-Type": "multipart/form-data"}},
                )
            return str(_object(response)["id"])

        within = self._engine.config.timeout + os.path.getsize(path) / _SLOWEST
        return await self._engine.managed(send, within=within)

    async def create(self, file_id: str, tag: str, since: float, *, begun: bool) -> str:
        """Begin the batch of an uploaded file; its id.

        If that may have `begun` before, at `since` or later, or if no answer comes to a try of now, the server is
        asked first whether it has a batch of this `tag`: one that is begun twice is paid twice.
        """

        async def send() -> str:
            nonlocal begun
            if begun and (found := await self._find(tag, since)):
                return found
            begun = True
            asked = {"input_file_id": file_id, "endpoint": PATH, "completion_window": "24h", "metadata": {TAG: tag}}
            response = await self._engine.transport.client.post("/batches", cast_to=httpx2.Response, body=asked)
            return str(_object(response)["id"])

        return await self._engine.managed(send)

    async def _find(self, tag: str, since: float) -> str:
        """The id of a batch of this tag; nothing if there is none. The newest are listed first."""
        after: dict[str, str] = {}
        while True:
            page = await self._get("/batches", {"limit": _PAGE, **after})
            listed = page.get("data") or []
            for one in listed:
                if (one.get("metadata") or {}).get(TAG) == tag:
                    return str(one["id"])
            if not listed or not page.get("has_more") or listed[-1].get("created_at", since) < since - _CLOCKS:
                return ""
            after = {"after": listed[-1]["id"]}

    async def get(self, batch_id: str, way_out: str) -> dict[str, Any]:
        """A batch as the server has it now."""
        return await self._engine.managed(lambda: self._get(f"/batches/{batch_id}"), way_out)

    async def _get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        options: Any = {"params": query} if query else {}
        return _object(await self._engine.transport.client.get(path, cast_to=httpx2.Response, options=options))

    async def download(self, file_id: str, path: str, way_out: str) -> None:
        """Have a file at `path`, whole, unless it is there already."""

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
    answer = response.json()
    if not isinstance(answer, dict):
        raise ValueError("the answer is not a JSON object")
    return answer
