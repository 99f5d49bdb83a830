"""What goes over the wire, and through a proxy."""

import asyncio
import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.api.test_engine import Asked, echo
from tests.servers import Server

KEY, PASSWORD = "sk-0123456789", "hush-hush-hush"


@contextmanager
def proxy(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """The address of a proxy that gives every request this answer, and the list of the heads that it was sent."""
    heads: list[bytes] = []
    port = 0
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def serve() -> None:
        nonlocal port
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        ready.set()
        await ended.wait()
        server.close()

    ended = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    try:
        yield f"127.0.0.1:{port}", heads
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("vpctl.api.engine.TRIES_UNHEARD", 1)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("user", ["", f"me:{PASSWORD}@"])
def test_a_proxy_learns_no_key_and_its_own_password_is_shown_nowhere(
    user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request to connect goes over the network in clear text."""
    with proxy(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n") as (address, heads):
        monkeypatch.setenv("HTTPS_PROXY", f"http://{user}{address}")
        asked = Asked("https://judge.example/v1", header=["X-Gate-Key=open-sesame"])
    assert heads[0].startswith(b"CONNECT judge.example:443 ")
    assert KEY.encode() not in heads[0]
    assert b"sesame" not in heads[0]
    assert (b"Proxy-Authorization: Basic" in heads[0]) == bool(user)
    assert "502" in str(asked.why[0])
    assert PASSWORD not in str(asked.why[0])


def test_a_server_in_no_proxy_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    with Server(answer=echo, key=KEY) as server, proxy(answer) as (address, heads):
        monkeypatch.setenv("HTTP_PROXY", f"http://{address}")
        port = server.url.split(":")[2].partition("/")[0]
        for direct in ("127.0.0.1", f"127.0.0.1:{port}", "*"):
            monkeypatch.setenv("NO_PROXY", direct)
            assert Asked(server).kinds == {"Answer": 1}, direct
        assert not heads
        monkeypatch.setenv("NO_PROXY", "127.0.0.2")
        assert "403" in str(Asked(server).why[0])
        assert heads


MOST = 1000
BODY = b'{"choices": []}'
ANSWERS = {
    "stated": (b"Content-Length: 15\r\n\r\n" + BODY, b"Content-Length: 2000\r\n\r\n" + b" " * 2000),
    "until the end": (b"Connection: close\r\n\r\n" + BODY, b"Connection: close\r\n\r\n" + b" " * 2000),
    "chunked": (
        b"Transfer-Encoding: chunked\r\n\r\nf\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + b" " * 2000 + b"\r\n0\r\n\r\n",
    ),
    "packed": tuple(
        b"content-encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
        for packed in map(gzip.compress, (BODY, b" " * 2000))
    ),
}


@pytest.mark.parametrize("how", ANSWERS)
def test_an_answer_is_read_however_its_size_is_stated_and_never_beyond_the_limit(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpctl.api.transport.LARGEST", MOST)
    small, large = ANSWERS[how]
    with proxy(b"HTTP/1.1 200 OK\r\n" + small) as (address, _):
        assert Asked(f"http://{address}/v1").kinds == {"Inconclusive": 1}, "it has no choices"
    with proxy(b"HTTP/1.1 200 OK\r\n" + large) as (address, _):
        assert "the answer is larger than 1000 bytes" in str(Asked(f"http://{address}/v1").why[0])
