"""Sends requests to one server.

The calls of models go over aiohttp. The client of openai would take several times as long for each: it makes its URL,
its headers and its models of the answer anew (`benchmarks/engine.py`). The batches, which are few, go over that client.
It is imported only for them, because that alone takes half a second.
"""

import ipaddress
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import certifi
from multidict import CIMultiDict

from .. import __version__
from .dialects import is_private
from .faults import ServerError, read_error
from .wire import BadStatus, NoAnswer, Response

if TYPE_CHECKING:
    import openai

LARGEST = 64 * 1024 * 1024
"""Bytes. No answer of a model is larger."""
CONNECTED = 30.0
"""Seconds until a connection must be made."""
_CHUNK = 1 << 16
_FILES = ("image/", "application/octet-stream", "binary/octet-stream")
"""Beginnings of the types of a file that may be a picture."""


class Transport:
    """The connections to one server."""

    def __init__(self, base_url: str, key: str, headers: Mapping[str, str]) -> None:
        """`headers` are sent with each request, also in place of our own."""
        self._base_url, self._key, self._headers = base_url, key, headers
        parts = urlsplit(base_url)
        user, _, host = parts.netloc.rpartition("@")
        self._address = parts._replace(netloc=host, path=parts.path.rstrip("/"))
        sent = {"Authorization": f"Bearer {key}", "User-Agent": f"vpctl/{__version__}"}
        if user:  # for a proxy in front of the server, in place of the key
            name, _, password = user.partition(":")
            sent["Authorization"] = aiohttp.encode_basic_auth(unquote(name), unquote(password))
        self._own = CIMultiDict(sent)
        self._own.update(headers)
        proxy, self._for_proxy = _proxy(self._address)
        # No headers for the whole session: aiohttp would send them to the proxy, too, and the key among them.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=_certificates() if parts.scheme == "https" else True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECTED),  # the engine has one for answers
            proxy=proxy,  # trust_env would look for it, and read ~/.netrc, at each call
        )
        self._urls: dict[str, str] = {}
        self._inside = is_private(base_url)

    async def post(self, path: str, content: bytes, headers: Mapping[str, str]) -> Response:
        """Send one request and return the answer. Raises `BadStatus` and `NoAnswer`."""
        try:
            sent = CIMultiDict(self._own)
            sent.update(headers)
            address, for_proxy = self._url(path), self._for_proxy
            posted = self._session.post(
                address, data=content, headers=sent, allow_redirects=False, proxy_headers=for_proxy
            )
            async with posted as response:
                return await _received(response)
        except (aiohttp.ClientError, OSError) as error:
            if type(error) is TimeoutError:  # the engine's own
                raise
            raise _no_answer(error) from None

    async def get(self, url: str) -> bytes:
        """The file of a URL that an answer names. Raises `BadStatus` and `NoAnswer`.

        The URL comes from elsewhere. Only the server itself gets the key, no redirect is followed, and unless the
        server is in a private network, the file must not come from one.
        """
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isprintable()
        except ValueError:
            valid = False
        if not valid:
            raise NoAnswer("its URL is not valid", reached=False, final=True)
        if not self._inside and is_private(url):
            raise NoAnswer("its URL is in a private network", reached=False, final=True)
        own = (parts.scheme, parts.hostname, parts.port) == (
            self._address.scheme,
            self._address.hostname,
            self._address.port,
        )
        proxy, for_proxy = _proxy(parts)
        # A proxy finds the address itself, and is often in a private network.
        resolver = aiohttp.ThreadedResolver() if self._inside or proxy else _PublicResolver()
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=_certificates(), resolver=resolver),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECTED),
        )
        headers = self._own if own else {"User-Agent": self._own["User-Agent"]}
        try:
            fetched = session.get(url, headers=headers, allow_redirects=False, proxy=proxy, proxy_headers=for_proxy)
            async with session, fetched as response:
                kind = response.headers.get("Content-Type", "") or _FILES[0]
                if response.status < 300 and not kind.lower().startswith(_FILES):
                    raise NoAnswer(f"it is of the type {kind[:80]!a}", reached=True, final=True)
                return (await _received(response)).content
        except (aiohttp.ClientError, OSError) as error:
            if type(error) is TimeoutError:  # the engine's own
                raise
            raise _no_answer(error) from None

    def _url(self, path: str) -> str:
        """The URL of a path. It stands before the query that the address of the server may have."""
        if path not in self._urls:
            self._urls[path] = urlunsplit(self._address._replace(path=self._address.path + path))
        return self._urls[path]

    @cached_property
    def client(self) -> "openai.AsyncOpenAI":
        """The openai client of the server, for its batches. Its own retries are off: the engine does them."""
        import openai

        return openai.AsyncOpenAI(
            base_url=self._base_url,
            api_key=self._key,
            max_retries=0,
            timeout=None,  # the client reports a refused connection as a timeout
            default_headers=self._headers,
            http_client=openai.DefaultAioHttpClient(base_url=self._base_url),
        )

    @staticmethod
    @contextmanager
    def translated() -> Iterator[None]:
        """A context that turns the client's errors into `BadStatus` and `NoAnswer`. Our own `TimeoutError` passes."""
        import httpx2
        import openai

        try:
            yield
        except TimeoutError:
            raise
        except openai.APIStatusError as error:
            response = error.response
            raise BadStatus(_told(error.status_code, response.headers, response.text, response.reason_phrase)) from None
        except (openai.APIError, httpx2.HTTPError, OSError) as error:
            raise _no_answer(error) from None

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        if "client" in self.__dict__:
            await self.client.close()


class _Private(OSError):
    """A host is in a private network."""


class _PublicResolver(aiohttp.ThreadedResolver):
    """Finds the addresses of a host. A host in a private network counts as unknown, whatever its name is."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        found = await super().resolve(host, port, family)
        if not all(ipaddress.ip_address(one["host"]).is_global for one in found):
            raise _Private("its host is in a private network")
        return found


async def _received(response: aiohttp.ClientResponse) -> Response:
    """The whole answer. Raises `BadStatus` for one that is not a success, and `NoAnswer` for an endless one."""
    headers = response.headers
    as_stated = "Content-Encoding" not in headers and "Transfer-Encoding" not in headers
    known = as_stated and (response.content_length or LARGEST) < LARGEST
    said = await response.read() if known else await _not_endless(response)
    if 300 <= response.status < 400:
        said = f"moved to {headers.get('Location', 'another address')}".encode()
    if response.status >= 300:
        raise BadStatus(_told(response.status, headers, said, response.reason or ""))
    return Response(headers, said)


async def _not_endless(response: aiohttp.ClientResponse) -> bytes:
    """The content of an answer whose size nobody knows. Raises `NoAnswer` if it is above `LARGEST`."""
    content = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        content += chunk
        if len(content) > LARGEST:
            raise NoAnswer(f"the answer is larger than {LARGEST} bytes", reached=True, final=True)
    return bytes(content)


def _told(status: int, headers: Mapping[str, str], content: bytes | str, reason: str) -> ServerError:
    """The error in an answer. `reason` is its message if the content has none."""
    error = read_error(status, headers, content)
    return error if error.message else error._replace(message=reason, about=f"{error.about} {reason}".casefold())


def _proxy(server: SplitResult) -> tuple[str | None, dict[str, str] | None]:
    """The proxy to `server` that HTTP_PROXY or HTTPS_PROXY names, without its password, and the header with that.

    None if there is none, or if NO_PROXY has the server.
    """
    url = getproxies().get(server.scheme)
    if not url or any(map(proxy_bypass, (server.netloc, server.hostname or ""))):
        return None, None
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    header = {"Proxy-Authorization": aiohttp.encode_basic_auth(unquote(name), unquote(password))} if user else None
    return urlunsplit(parts._replace(netloc=host)), header


def _certificates() -> ssl.SSLContext:
    """The certificates that are trusted: those of SSL_CERT_FILE, or of Mozilla."""
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())


def _no_answer(error: Exception) -> NoAnswer:
    chain = _chain(error)
    reached = not any(isinstance(one, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError) for one in chain)
    if isinstance(chain[-1], _Private):
        return NoAnswer(str(chain[-1]), reached=False, final=True)
    return NoAnswer(f"{type(chain[-1]).__name__}: {chain[-1]}".rstrip(": "), reached=reached)


def _chain(error: BaseException) -> list[BaseException]:
    """An error and its causes; the root cause is last."""
    return [error, *(_chain(error.__cause__) if error.__cause__ else [])]
