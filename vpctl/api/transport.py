"""Sends requests with the openai client over aiohttp, which takes half of the time of the client's default.

We build the bodies as bytes and parse the answers ourselves. The client's own models of both would take more time than
everything else (`benchmarks/engine.py`). The client's retries are off: the pace must see every answer.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import aiohttp
import httpx2
import openai

from .wire import BadStatus, NoAnswer, Response


class Transport:
    """The connections to one server."""

    def __init__(self, base_url: str, key: str, *, concurrency: int) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=concurrency)
        self.client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=key,
            max_retries=0,
            timeout=None,  # the engine has its own; the client reports a refused connection as a timeout
            http_client=openai.DefaultAioHttpClient(limits=limits, base_url=base_url),
        )

    async def post(self, path: str, content: bytes, headers: Mapping[str, str]) -> Response:
        """Send one request and return the answer. Raises `BadStatus` and `NoAnswer`."""
        with self.translated():
            response = await self.client.post(
                path, cast_to=httpx2.Response, content=content, options={"headers": dict(headers)}
            )
        return Response(response.headers, response.content)

    @staticmethod
    @contextmanager
    def translated() -> Iterator[None]:
        """A context that turns the client's errors into `BadStatus` and `NoAnswer`. Our own `TimeoutError` passes."""
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
    """An error and its causes; the root cause is last."""
    return [error, *(_chain(error.__cause__) if error.__cause__ else [])]
