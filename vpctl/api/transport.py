"""The openai client, which carries the requests over aiohttp: that takes half of the time of its default.

Bodies are bytes that we have put together, and answers are read by us, since the client's own models of both would take
more time than all the rest (`benchmarks/engine.py`). Its own retries are off: the pace has to see every answer.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import aiohttp
import httpx2
import openai

from .wire import BadStatus, NoAnswer, Response


class Transport:
    """Connections to one server."""

    def __init__(self, base_url: str, key: str, *, concurrency: int) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=concurrency)
        self.client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=key,
            max_retries=0,
            timeout=None,  # the engine has its own; the client calls a connection that is refused a timeout too
            http_client=openai.DefaultAioHttpClient(limits=limits, base_url=base_url),
        )

    async def post(self, path: str, content: bytes, headers: Mapping[str, str]) -> Response:
        """Send one request. Raises `BadStatus` and `NoAnswer`."""
        with self.translated():
            response = await self.client.post(
                path, cast_to=httpx2.Response, content=content, options={"headers": dict(headers)}
            )
        return Response(response.headers, response.content)

    @staticmethod
    @contextmanager
    def translated() -> Iterator[None]:
        """Have the client's errors raised as ours; a time-out of ours passes."""
        try:
            yield
        except TimeoutError:
            raise
        except openai.APIStatusError as error:
            response = error.response
            raise BadStatus(
                error.status_code, response.headers, error.body, response.text or response.reason_phrase
            ) from None
        except (openai.APIError, httpx2.HTTPError, OSError) as error:
            chain = _chain(error)
            reached = not any(isinstance(one, aiohttp.ClientConnectorError) for one in chain)
            raise NoAnswer(f"{type(chain[-1]).__name__}: {chain[-1]}".rstrip(": "), reached=reached) from None

    async def close(self) -> None:
        """Close all connections."""
        await self.client.close()


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what it comes from, what it comes from in the end last."""
    return [error, *(_chain(error.__cause__) if error.__cause__ else [])]
