"""The calls that `engine` and `annotate` measure, and a bare loop of aiohttp that makes them.

As a script it is a loop, with the server in OPENAI_BASE_URL: python -m benchmarks.calls NUMBER. With a second word,
``making``, it is the loop that makes its bodies.
"""

import asyncio
import base64
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import cycle, islice
from random import Random
from typing import Any, NamedTuple

import aiohttp
import orjson

IN_FLIGHT = 100
KEY = "any"


class Load(NamedTuple):
    """Questions of one kind, asked over and over, what each is answered, and the goals."""

    name: str
    questions: list[dict[str, Any]]
    answer: dict[str, Any]
    goal: float
    most_cpu: float | None


class Call(NamedTuple):
    """What is asked, as the arguments of the openai client, and as the body of the request."""

    question: dict[str, Any]
    body: bytes


def question(parts: list[dict[str, Any]], schema: dict[str, Any]) -> dict[str, Any]:
    """The arguments of one call."""
    return {
        "model": "judge",
        "messages": [{"role": "user", "content": parts}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}},
    }


def exactly(properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that has these properties and no others."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def texts() -> Load:
    """Bodies of 1.4 KB."""
    chance = Random(0)
    schema = exactly({"prompt": {"type": "string"}})
    rest = len(orjson.dumps(question([{"type": "text", "text": ""}], schema)))
    questions = [question([{"type": "text", "text": chance.randbytes(700).hex()[rest:]}], schema) for _ in range(8)]
    return Load("text of 1.4 KB", questions, {"prompt": "a red circle left of a blue square"}, 0.9, None)


def pictures() -> Load:
    """Bodies of 320 KB; random bytes stand for a JPEG, which nobody opens."""
    chance = Random(0)
    levels = ["1 Bad", "2 Poor", "3 Fair", "4 Good", "5 Excellent"]
    verdict = exactly({"rationale": {"type": "string"}, "level": {"type": "string", "enum": levels}})
    schema = exactly(dict.fromkeys("ABCD", verdict))
    questions = []
    for _ in range(8):
        encoded = [base64.b64encode(chance.randbytes(60_000)).decode() for _ in range(4)]
        urls = [{"url": f"data:image/jpeg;base64,{one}"} for one in encoded]
        questions.append(question([{"type": "image_url", "image_url": url} for url in urls], schema))
    judged = {"rationale": "The circle is red and stands where it should.", "level": "4 Good"}
    answer: dict[str, Any] = dict.fromkeys("ABCD", judged)
    return Load("four pictures of 60 KB", questions, answer, 0.8, 1.5)


Ask = Callable[[Call], Awaitable[object]]


async def in_flight(ask: Ask, calls: Iterator[Call]) -> None:
    """Ask all, `IN_FLIGHT` at a time."""

    async def one_after_another() -> None:
        for call in calls:
            await ask(call)

    await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))


@asynccontextmanager
async def bare(url: str) -> AsyncIterator[Ask]:
    """The least that a call can cost: its body was there before, and nobody looks at the answer."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as session:

        async def ask(call: Call) -> None:
            async with session.post(f"{url}/chat/completions", data=call.body, headers=headers) as response:
                assert response.status == 200
                await response.read()

        yield ask


@asynccontextmanager
async def making(url: str) -> AsyncIterator[Ask]:
    """A loop as aiohttp's documentation has it: it makes the body of each call, and reads the answer as JSON."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as session:

        async def ask(call: Call) -> None:
            async with session.post(f"{url}/chat/completions", json=call.question, headers=headers) as response:
                response.raise_for_status()
                await response.json()

        yield ask


async def loop(url: str, calls: int, asking: Callable[[str], AbstractAsyncContextManager[Ask]]) -> None:
    """Make so many calls with four pictures."""
    bodies = cycle(Call(one, orjson.dumps(one)) for one in pictures().questions)
    async with asking(url) as ask:
        await in_flight(ask, islice(bodies, calls))


if __name__ == "__main__":
    asyncio.run(loop(os.environ["OPENAI_BASE_URL"], int(sys.argv[1]), making if sys.argv[2:] == ["making"] else bare))
