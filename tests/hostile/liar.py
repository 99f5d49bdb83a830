"""A server that tells lies: it answers as `tests.servers.Server` does, and some of its answers are damaged."""

import copy
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import orjson
from aiohttp import web

from tests.hostile.damage import Damage
from tests.polishers.test_openai import good
from tests.servers import JSON, Entry, Reply, Server, schema_of


class Lie(NamedTuple):
    """What is wrong with an answer.

    - reply: the number of the answer in the run, from 0; None for every answer
    - inside: whether the damage is in the text of the model, not in the server's JSON around it
    - status: the HTTP status in place of the true one; 0 for the true one
    """

    reply: int | None
    inside: bool
    status: int
    damages: tuple[Damage, ...]


class Memory(NamedTuple):
    """What a server knows: its files and batches, and the contents of its files."""

    kept: dict[str, dict[str, JSON]]
    contents: dict[str, bytes]


class Liar(Server):
    """The server. It tells the truth, except within `lying`, and knows nothing, except what it is given there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.told: list[tuple[str, int, bytes]] = []
        """The answers since `lying` began: path, status, and body."""
        self._lies: tuple[Lie, ...] = ()
        self.answer = self._text

    @contextmanager
    def lying(self, lies: tuple[Lie, ...], memory: Memory | None = None) -> Iterator[None]:
        """Answer with these lies. Requests of the run may change what the server knows, but not `memory`."""
        self._kept, self._contents = copy.deepcopy(memory or Memory({"files": {}, "batches": {}}, {}))
        self._asked.clear()
        self.log.clear()
        self.told = []
        self._lies = lies
        try:
            yield
        finally:
            self._lies = ()

    def memory(self) -> Memory:
        """What the server knows now."""
        return copy.deepcopy(Memory(self._kept, self._contents))

    def result(self, line: bytes) -> bytes:
        """The result of a request of a batch file, as a line."""
        asked = orjson.loads(line)
        sent = self._reply(asked["url"], asked["body"])
        response = {"status_code": sent.status, "request_id": "r", "body": orjson.loads(sent.body)}
        record = {"id": "r", "custom_id": asked["custom_id"], "response": response, "error": None}
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)

    def _text(self, body: JSON) -> str:
        """The text of the model: a judgement at random, or the prompts as a good model polishes them."""
        schema = schema_of(body)
        content = good(body) if schema and "prompts" in schema["properties"] else self._default(body)
        text = content if isinstance(content, str) else orjson.dumps(content).decode()
        for damage in (one for lie in self._told_now() if lie.inside for one in lie.damages):
            text = damage(text.encode()).decode("utf-8", "replace")
        return text

    def _told_now(self) -> Iterator[Lie]:
        return (lie for lie in self._lies if lie.reply in (None, len(self.told)))

    def _handled(
        self, handler: Callable[[web.Request, Entry], Awaitable[Reply]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def lied(request: web.Request, entry: Entry) -> Reply:
            sent = await handler(request, entry)
            for lie in self._told_now():
                sent = sent._replace(status=lie.status or sent.status)
                if not lie.inside:
                    for damage in lie.damages:
                        sent = sent._replace(body=damage(sent.body))
            self.told.append((request.path, sent.status, sent.body))
            return sent

        return super()._handled(lied)
