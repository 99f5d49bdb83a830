"""A local server that speaks OpenAI's protocol and can produce faults on demand.

    with Server(latency=0.01, capacity=30, faults={"500": 0.1, "drop": 0.1}) as server:
        client = openai.AsyncOpenAI(base_url=server.url, api_key="any")

To run it in its own process, use `python -m tests.servers --faults '{"500": 0.1}' --log FILE`, which prints the URL.
Every field of `Server` is an option of this command. The server is deterministic: answers and faults depend only on the
question and on how often it was asked before, so the order of the requests does not matter.
"""

import argparse
import asyncio
import json
import math
import pkgutil
import re
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Self

import orjson
from aiohttp import web
from PIL import Image

clock = time.monotonic
"""The clock of the rate limits."""

JSON = dict[str, Any]
Direct = web.StreamResponse | Callable[[web.Request], Awaitable[web.StreamResponse]]

FAULTS = {
    "drop": "the connection is closed without an answer",
    "timeout": "the answer comes `hang` seconds late",
    "cut_body": "the connection is closed in the middle of the answer",
    "cut_json": "the message stops in the middle, with finish_reason `length`",
    "wrong_count": "one picture's entry is left out",
    "out_of_range": "one picture's level is 9",
    "refusal": "the message is a refusal",
    "content_filter": "400 content_policy_violation",
    "empty": "the message is empty",
    "fenced": "the message is a sentence, then the JSON in a fence",
}
"""Possible faults. In addition, an HTTP status such as 429 or 500 is a fault with that name."""
HEADERS = ("Idempotency-Key", "X-Client-Request-Id", "X-Stainless-Retry-Count", "User-Agent")
WORDS = "bright dark round square near far red green blue clear faint whole broken many few".split()
CATEGORIES = "harassment hate illicit self-harm sexual sexual/minors violence violence/graphic".split()


@dataclass(kw_only=True)
class Entry:
    """One request in the log, or one request of a batch after it was answered.

    `billed` says that the server made a complete answer with its usage, for which a client would be billed. `heard` is
    false if the client had disconnected by then.
    """

    time: float
    path: str
    status: int = 0
    fingerprint: str = ""
    fault: str = ""
    billed: bool = False
    heard: bool = True
    tokens: int = 0
    cached: int = 0
    in_flight: int = 0
    headers: dict[str, str] = field(default_factory=dict)


def read_log(path: Path) -> list[Entry]:
    """The log so far of a server that runs in its own process."""
    return [Entry(**orjson.loads(line)) for line in path.read_bytes().splitlines()]


def billed(log: Iterable[Entry]) -> Counter[str]:
    """The number of times that each question was billed."""
    return Counter(entry.fingerprint for entry in log if entry.billed)


def multipart(kind: str, body: bytes) -> dict[str, tuple[str, bytes]]:
    """The file name and content of each field of a form. The parser of aiohttp is not used: it sometimes warns."""
    form = {}
    for part in body.split(b"--" + kind.partition("boundary=")[2].strip('"').encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        names = dict(re.findall(r'(\w+)="(.*?)"', head.decode()))
        form[names["name"]] = names.get("filename", ""), content.removesuffix(b"\r\n")
    return form


class Reply(NamedTuple):
    """A reply to send. `direct` is a response of a hook, which is sent unchanged."""

    status: int
    body: bytes
    fault: str = ""
    tokens: int = 0
    headers: Mapping[str, str] = {}
    direct: Direct | None = None


def reply(content: object) -> Reply:
    return Reply(200, orjson.dumps(content))


def error(status: int, code: str, message: str, *, param: str | None = None, fault: str = "") -> Reply:
    kind = code if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Reply(status, orjson.dumps(body), fault)


MISSING = error(404, "not_found", "No such file or batch.")


def fingerprint(body: JSON) -> str:
    """A hash of the question: equal for equal messages, whatever the model and the settings are."""
    asked = body.get("messages", body.get("input", [body.get("prompt"), body.get("seed")]))
    return sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def draw(*of: object) -> float:
    """A pseudo-random number in [0, 1) that depends only on the arguments."""
    return int.from_bytes(sha256(repr(of).encode()).digest()[:8]) / 2**64


def parts(body: JSON) -> Iterator[JSON]:
    for message in body["messages"]:
        content = message["content"]
        yield from [{"type": "text", "text": content}] if isinstance(content, str) else content or []


PICTURE_TOKENS = 255
"""Tokens that a picture counts as."""
CANNED_TOKENS = 1500
"""Tokens of a question with four pictures, in the usage of canned answers: the requests are not read."""


def prefixes_of(body: JSON) -> Iterator[tuple[str, int]]:
    """The beginnings of a question that a server could keep: a hash and the number of tokens of each, by length."""
    known, tokens = sha256(), 0
    schema = {"type": "text", "text": orjson.dumps(body.get("response_format")).decode()}
    for part in [schema, *parts(body)]:
        text = part.get("text", "") if part["type"] == "text" else part["image_url"]["url"]
        known.update(orjson.dumps(part))
        tokens += len(text) // 4 if part["type"] == "text" else PICTURE_TOKENS
        yield known.hexdigest(), tokens


def schema_of(body: JSON) -> JSON | None:
    """The schema of the answer: the one in `response_format`, otherwise the first one in the messages."""
    if (schema := body.get("response_format", {}).get("json_schema")) is not None:
        return dict(schema["schema"])
    for text in (part["text"] for part in parts(body) if part["type"] == "text"):
        for start in (at for at, letter in enumerate(text) if letter == "{"):
            try:
                found = json.JSONDecoder().raw_decode(text, start)[0]
            except json.JSONDecodeError:
                continue
            if "properties" in found:
                return dict(found)
    return None


def letters(content: JSON) -> list[str]:
    """The letters of the pictures that an answer mentions."""
    return [name for name, value in content.items() if len(name) == 1 and name.isupper() and isinstance(value, dict)]


def instance(schema: JSON, chance: Random) -> Any:
    """A random instance of a schema. A `ranking` agrees with the pictures' levels; ties are sorted by letter."""

    def made(part: JSON) -> Any:
        if "$ref" in part:
            return made(schema["$defs"][part["$ref"].rpartition("/")[2]])
        if "anyOf" in part:
            return made(chance.choice(part["anyOf"]))
        if "enum" in part:
            return chance.choice(part["enum"])
        match part.get("type"):
            case "object":
                return ranked({name: made(inner) for name, inner in part.get("properties", {}).items()})
            case "array" if "enum" in part["items"]:
                return chance.sample(part["items"]["enum"], len(part["items"]["enum"]))
            case "array":
                return [made(part["items"]) for _ in range(part.get("minItems", 2))]
            case "integer" | "number":
                return chance.randint(part.get("minimum", 0), part.get("maximum", 9))
            case "boolean":
                return chance.random() < 0.5
            case "null":
                return None
        return " ".join(chance.choices(WORDS, k=6))

    def ranked(content: JSON) -> JSON:
        levels = {letter: content[letter]["level"] for letter in letters(content) if "level" in content[letter]}
        if levels and "ranking" in content:
            content["ranking"] = sorted(sorted(levels), key=lambda letter: -int(str(levels[letter])[0]))
        return content

    return made(schema)


def spoiled(content: Any, fault: str) -> Any:
    """The answer with the fault in its entry for the last picture, also if the entries are grouped by aspect."""
    if not isinstance(content, dict):
        return content
    if not (found := letters(content)):
        return {name: spoiled(inner, fault) for name, inner in content.items()}
    rest = {name: inner for name, inner in content.items() if name != found[-1]}
    if fault == "wrong_count":
        return rest
    last = content[found[-1]]
    return {**rest, found[-1]: {**last, "level": 9 if isinstance(last.get("level"), int) else "9 Superb"}}


def png(color: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> bytes:
    """A picture of one colour."""
    file = BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def drawing(body: JSON, content: bytes | None = None, **more: object) -> JSON:
    """An answer of the Images API: a picture whose colour depends on the prompt and the seed, or this `content`."""
    mixed = sha256(repr([body["prompt"], body.get("seed")]).encode()).digest()
    content = png((mixed[0] | 128, mixed[1], mixed[2])) if content is None else content
    return {
        "created": int(time.time()),
        "data": [{"b64_json": b64encode(content).decode(), **more}],
        "usage": {
            "input_tokens": 10,
            "output_tokens": 272,
            "total_tokens": 282,
            "input_tokens_details": {"text_tokens": 10, "image_tokens": 0},
        },
    }


class Tokens(tuple[Mapping[str, float], ...]):
    """The content of a reply, token by token: the tokens in each place with their probabilities, the written one first.

    A request with `logprobs` gets the probabilities.
    """

    @property
    def text(self) -> str:
        """The text that was written."""
        return "".join(next(iter(place)) for place in self)

    def logprobs(self, top: int) -> JSON:
        """The probabilities in the form of the protocol, of the `top` most probable tokens in each place."""

        def entry(token: str, probability: float) -> JSON:
            logprob = math.log(probability) if probability else -9999.0
            return {"token": token, "logprob": logprob, "bytes": [*token.encode()]}

        content = []
        for place in self:
            likely = sorted(place.items(), key=lambda one: -one[1])[:top]
            content.append(entry(*next(iter(place.items()))) | {"top_logprobs": [entry(*one) for one in likely]})
        return {"content": content, "refusal": None}


def untimed(judgement: JSON) -> JSON:
    """The judgement without the time of its answer, which no other run has."""
    asked = dict(judgement["asked"])
    datetime.strptime(asked.pop("time"), "%Y-%m-%dT%H:%M:%SZ")
    return {**judgement, "asked": asked}


def completion(content: object, fault: str, body: JSON, *more: object) -> Reply:
    """A chat completion with `content`, which is written as JSON unless it is text. `more` are further choices."""
    choices = [choice_of(one, fault, body) | {"index": index} for index, one in enumerate((content, *more))]
    pictures = [part["image_url"]["url"] for part in parts(body) if part["type"] == "image_url"]
    asked = (len(orjson.dumps(body)) - sum(map(len, pictures))) // 4 + PICTURE_TOKENS * len(pictures)
    said = sum(len(choice["message"]["content"] or "") // 4 for choice in choices)
    whole = {
        "id": f"chatcmpl-{fingerprint(body)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.get("model"),
        "choices": choices,
        "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
    }
    return Reply(200, orjson.dumps(whole), fault, asked + said)


def choice_of(content: object, fault: str, body: JSON) -> JSON:
    """One choice of a completion, without its index."""
    logprobs = content.logprobs(body.get("top_logprobs", 0)) if isinstance(content, Tokens) else None
    content = content.text if isinstance(content, Tokens) else content
    if fault in ("wrong_count", "out_of_range"):
        content = spoiled(content, fault)
    text = content if isinstance(content, str) else orjson.dumps(content).decode()
    text = {
        "empty": "",
        "refusal": "",
        "cut_json": text[: len(text) // 2],
        "fenced": f"Here is my answer.\n\n```json\n{text}\n```",
    }.get(fault, text)
    message = {"role": "assistant", "content": text, "refusal": None}
    if fault == "refusal":
        message |= {"content": None, "refusal": "I'm sorry, I can't help with that."}
    choice = {"finish_reason": "length" if fault == "cut_json" else "stop", "message": message}
    return {**choice, "logprobs": logprobs} if body.get("logprobs") else choice


@dataclass(kw_only=True)
class Server:
    """The server and its settings. A limit of 0 means no limit.

    - answer: returns the content of the reply to a request: an object, a text, `Tokens`, or a response, which is not
      billed. It is called for each of `n` choices
    - single: give one choice whatever `n` is
    - moderate: returns the scores of categories for a request; otherwise a text is flagged for categories it names
    - canned: the content of all replies; requests are then not read, checked or logged, to measure the speed of clients
    - faults: the share of requests that each fault affects; `hang` is the delay of a "timeout" in seconds
    - capacity: the maximum number of requests in flight; one more is answered 429 at once
    - per_minute: the maximum rate, refilled steadily with room for one second's requests; or, with `window`, reset
      every `window` seconds
    - headers: sent with every answer to a question; `limit_headers` are sent with every 429. In both, `{remaining}` is
      the number of requests that would still be accepted, and `{wait}` the seconds until one more would be
    - supports: the accepted types of `response_format`
    - key: the only accepted API key, if given
    - batch_delay: seconds until a batch finishes by itself, without `finish`; then `expire_share` of its requests
      expire, and `error_share` of them fail with a server error
    - held: the number of questions that are answered at once; the others wait until `release` is called
    - caches: keep the prefix of each answered question, and report in the usage how many tokens of a question were in a
      prefix that was kept before it arrived. The schema of the answer is in front of the system prompt, as at OpenAI.
      `cache_from` is the least number of tokens of a prefix; at OpenAI it is 1024
    - files: the type and the content of files by path, such as ``/a.png``
    - log_file: a file to which the log is also written, one line as soon as a request is answered
    """

    port: int = 0
    latency: float = 0.0
    seed: int = 0
    answer: Callable[[JSON], Any] | None = None
    moderate: Callable[[JSON], Mapping[str, float]] | None = None
    canned: str = ""
    faults: Mapping[str, float] = field(default_factory=dict)
    hang: float = 5.0
    capacity: int = 0
    per_minute: int = 0
    window: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    limit_headers: Mapping[str, str] = field(default_factory=lambda: {"Retry-After": "1"})
    supports: Collection[str] = ("json_schema", "json_object", "text")
    refuses_parameters: Collection[str] = ()
    key: str = ""
    models: Collection[str] = ("judge",)
    max_file_bytes: int = 200_000_000
    max_batch_requests: int = 50_000
    batch_delay: float | None = None
    expire_share: float = 0.0
    error_share: float = 0.0
    held: int | None = None
    caches: bool = False
    cache_from: int = 0
    single: bool = False
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    log_file: Path | None = None
    url: str = field(init=False, default="")
    log: list[Entry] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if unknown := [fault for fault in self.faults if fault not in FAULTS and not fault.isdigit()]:
            raise ValueError(f"no such faults: {unknown}")
        self._asked: Counter[str] = Counter()
        self._prefixes: set[str] = set()
        self._in_flight, self._begun = 0, 0
        self._room, self._filled = 0.0, 0.0
        self._kept: dict[str, dict[str, JSON]] = {"files": {}, "batches": {}}
        self._contents: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        started: Future[int] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=[self._serve(started)], daemon=True)
        self._thread.start()
        self.port = started.result(timeout=60)
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self.release()  # held questions must be answered before the server stops
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def billed(self) -> Counter[str]:
        """The number of times that each question was billed."""
        return billed(self.log)

    @property
    def waiting(self) -> int:
        """The number of questions without an answer."""
        return self._in_flight

    def release(self) -> None:
        """Answer all held questions, and hold no more."""
        self._loop.call_soon_threadsafe(self._released.set)

    @property
    def peak(self) -> int:
        """The maximum number of requests in flight. A request that was refused for the limit counts."""
        return max((entry.in_flight for entry in self.log), default=0)

    def finish(self, batch_id: str, *, expire_share: float = 0.0, error_share: float = 0.0) -> None:
        """Answer the requests of a batch, except those that expire or fail with a server error.

        A batch that is being cancelled becomes cancelled. Its requests that would expire are then cancelled.
        """

        async def finish() -> None:
            self._finish(batch_id, expire_share, error_share)

        asyncio.run_coroutine_threadsafe(finish(), self._loop).result()

    def finish_all(self, **how: float) -> None:
        """Finish all batches that have not ended. See `finish`."""
        for batch_id, batch in self._kept["batches"].items():
            if batch["status"] in ("in_progress", "cancelling"):
                self.finish(batch_id, **how)

    async def _serve(self, started: "Future[int]") -> None:
        self._loop, self._stop, self._released = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        app = web.Application(client_max_size=2**30)
        asked = self._canned() if self.canned else self._handled(self._question)
        app.router.add_post("/v1/chat/completions", asked)
        for method, path, handler in (
            ("POST", "/v1/moderations", self._question),
            ("POST", "/v1/images/generations", self._question),
            ("GET", "/v1/models", self._models),
            ("POST", "/v1/files", self._new_file),
            ("GET", "/v1/files/{id}/content", self._content),
            ("DELETE", "/v1/files/{id}", self._delete_file),
            ("POST", "/v1/batches", self._new_batch),
            ("POST", "/v1/batches/{id}/cancel", self._cancel),
            ("GET", "/v1/{kind:files|batches}", self._list),
            ("GET", "/v1/{kind:files|batches}/{id}", self._one),
            ("GET", "/{path:.*}", self._file),
        ):
            app.router.add_route(method, path, self._handled(handler))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, read_bufsize=2**20)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, backlog=4096).start()
        started.set_result(runner.addresses[0][1])
        await self._stop.wait()
        await runner.cleanup()

    def _canned(self) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        whole = orjson.loads(completion(self.canned, "", {"messages": []}).body)
        body = orjson.dumps(whole | {"usage": whole["usage"] | {"prompt_tokens": CANNED_TOKENS}})

        async def handle(request: web.Request) -> web.Response:
            async for _ in request.content.iter_any():
                pass
            await asyncio.sleep(self.latency)
            return web.Response(body=body, content_type="application/json")

        return handle

    def _handled(
        self, handler: Callable[[web.Request, Entry], Awaitable[Reply]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            entry = Entry(time=time.time(), path=request.path)
            entry.headers = {name: request.headers[name] for name in HEADERS if name in request.headers}
            if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
                sent = error(401, "invalid_api_key", "Incorrect API key provided.")
            else:
                sent = await handler(request, entry)
            entry.heard = request.transport is not None
            self._note(entry, sent)
            return await _sent(request, sent)

        return handle

    def _note(self, entry: Entry, sent: Reply) -> None:
        entry.status, entry.fault, entry.tokens = 0 if sent.fault == "drop" else sent.status, sent.fault, sent.tokens
        entry.billed = sent.tokens > 0 and sent.fault != "cut_body"
        self.log.append(entry)
        if self.log_file:
            with self.log_file.open("ab") as file:
                file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))

    async def _question(self, request: web.Request, entry: Entry) -> Reply:
        try:
            body = orjson.loads(await request.read())
            entry.fingerprint = fingerprint(body)
        except (ValueError, AttributeError) as problem:
            return error(400, "invalid_json", f"We could not parse the JSON body of your request: {problem}")
        entry.in_flight = self._in_flight + 1
        remaining, wait = self._limits()
        limited = error(429, "rate_limit_exceeded", "Rate limit reached.")
        limited = limited._replace(headers=_filled(self.limit_headers, remaining, wait))
        if remaining < 1:
            return limited
        self._room -= 1
        self._in_flight += 1
        self._begun += 1
        prefixes = [one for one in prefixes_of(body) if one[1] >= self.cache_from] if self.caches else []
        cached = max((tokens for name, tokens in prefixes if name in self._prefixes), default=0)
        try:
            if self.held is not None and self._begun > self.held:
                await self._released.wait()
            await asyncio.sleep(self.latency)
            sent = self._reply(request.path, body)
            if sent.fault == "timeout":
                await asyncio.sleep(self.hang)
            if self.caches and sent.tokens:
                self._prefixes.update(name for name, _ in prefixes)
                answer = orjson.loads(sent.body)
                answer["usage"]["prompt_tokens_details"] = {"cached_tokens": cached}
                entry.cached = cached
                sent = sent._replace(body=orjson.dumps(answer))
        finally:
            self._in_flight -= 1
        if sent.fault == "429":
            return limited._replace(fault="429")
        return sent._replace(headers=_filled(self.headers, remaining - 1, wait))

    def _limits(self) -> tuple[int, float]:
        """The number of requests that would be accepted now, and the seconds until one more would be."""
        room, wait = 2**31, 0.0
        if self.per_minute:
            now, rate = clock(), self.per_minute / 60
            most = max(1.0, rate * (self.window or 1))
            if not self.window:
                self._filled, self._room = now, min(most, self._room + (now - self._filled) * rate)
                wait = max(0.0, (1 - self._room) / rate)
            else:
                if now >= self._filled + self.window:
                    self._filled, self._room = now, most
                wait = self._filled + self.window - now
            room = int(self._room)
        if self.capacity and self.capacity - self._in_flight < room:
            return self.capacity - self._in_flight, 1.0
        return room, wait

    def _reply(self, path: str, body: JSON) -> Reply:
        """The reply to a question, from a request or from a batch."""
        asked = body.get("response_format", {})
        kind = asked.get("type", "text") if isinstance(asked, dict) else "text"
        if kind not in self.supports:
            message = f"response_format {kind} is not supported"
            return error(400, "unsupported_parameter", message, param="response_format")
        for name in self.refuses_parameters:
            if name in body:
                return error(400, "unsupported_parameter", f"Unsupported parameter: '{name}'.", param=name)
        fault = self._fault(fingerprint(body))
        if fault.isdigit() or fault == "drop":
            return error(int(fault) if fault.isdigit() else 500, "server_error", "A fault was drawn.", fault=fault)
        if fault == "content_filter":
            return error(400, "content_policy_violation", "The safety system rejected the request.", fault=fault)
        if path.endswith("/moderations"):
            return reply(self._moderation(body))._replace(fault=fault)
        answer = self.answer or (drawing if path.endswith("/images/generations") else self._default)
        content = answer(body)
        if isinstance(content, web.StreamResponse):
            return Reply(content.status, getattr(content, "body", b""), fault, direct=content)
        if callable(content):
            return Reply(200, b"", fault, direct=content)
        if path.endswith("/images/generations"):
            return reply(content)._replace(fault=fault, tokens=PICTURE_TOKENS)
        more = [] if self.single else [answer(body) for _ in range(1, body.get("n", 1))]
        return completion(content, fault, body, *more)

    def _fault(self, asked: str) -> str:
        """The fault that affects the question this time. Only questions within all limits count as asked."""
        self._asked[asked] += 1
        chance = draw(self.seed, asked, self._asked[asked])
        for fault, share in self.faults.items():
            if chance < share:
                return fault
            chance -= share
        return ""

    def _default(self, body: JSON) -> object:
        chance = Random(f"{self.seed} {body.get('model')} {fingerprint(body)}")
        if schema := schema_of(body):
            return instance(schema, chance)
        text = " ".join(chance.choices(WORDS, k=12))
        return {"answer": text} if body.get("response_format", {}).get("type") == "json_object" else text

    def _moderation(self, body: JSON) -> JSON:
        """One result for each text of a list, or one result for all parts of a message."""
        asked = body["input"]
        several = isinstance(asked, list) and all(isinstance(one, str) for one in asked)
        results = [self._moderated({**body, "input": one}) for one in (asked if several else [asked])]
        return {"id": f"modr-{fingerprint(body)}", "model": body.get("model"), "results": results}

    def _moderated(self, body: JSON) -> JSON:
        asked = body["input"]
        text = asked if isinstance(asked, str) else " ".join(part.get("text", "") for part in asked)
        scores = {name: 0.99 if name in text else draw(name, fingerprint(body)) / 100 for name in CATEGORIES}
        scores |= self.moderate(body) if self.moderate else {}
        flags = {name: score >= 0.5 for name, score in scores.items()}
        return {"flagged": any(flags.values()), "categories": flags, "category_scores": scores}

    async def _models(self, request: web.Request, entry: Entry) -> Reply:
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "tests"} for name in self.models]
        return reply({"object": "list", "data": models})

    async def _list(self, request: web.Request, entry: Entry) -> Reply:
        """The newest items first: `limit` of them, after the item with the id `after`."""
        newest = list(self._kept[request.match_info["kind"]].values())[::-1]
        begin = next((at + 1 for at, one in enumerate(newest) if one["id"] == request.query.get("after")), 0)
        shown = newest[begin : begin + int(request.query.get("limit", 20))]
        ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {}
        return reply({"object": "list", "data": shown, **ends, "has_more": begin + len(shown) < len(newest)})

    async def _one(self, request: web.Request, entry: Entry) -> Reply:
        found = self._kept[request.match_info["kind"]].get(request.match_info["id"])
        return reply(found) if found else MISSING

    async def _file(self, request: web.Request, entry: Entry) -> Reply:
        if request.path not in self.files:
            return MISSING
        kind, content = self.files[request.path]
        return Reply(200, content, headers={"Content-Type": kind})

    async def _new_file(self, request: web.Request, entry: Entry) -> Reply:
        form = multipart(request.headers["Content-Type"], await request.read())
        name, content = form["file"]
        if len(content) > self.max_file_bytes:
            return error(413, "file_too_large", f"The file has {len(content)} bytes, more than {self.max_file_bytes}.")
        return reply(self._stored(name, content, form["purpose"][1].decode()))

    def _stored(self, name: str, content: bytes, purpose: str) -> JSON:
        file_id = f"file-{len(self._contents)}"
        self._contents[file_id] = content
        file = {"id": file_id, "object": "file", "bytes": len(content), "created_at": int(time.time())}
        self._kept["files"][file_id] = file | {"filename": name, "purpose": purpose, "status": "processed"}
        return self._kept["files"][file_id]

    async def _content(self, request: web.Request, entry: Entry) -> Reply:
        name = request.match_info["id"]
        return Reply(200, self._contents[name]) if name in self._kept["files"] else MISSING

    async def _delete_file(self, request: web.Request, entry: Entry) -> Reply:
        name = request.match_info["id"]
        found = self._kept["files"].pop(name, None)
        return reply({"id": name, "object": "file", "deleted": True}) if found else MISSING

    async def _new_batch(self, request: web.Request, entry: Entry) -> Reply:
        asked = await request.json()
        if asked["input_file_id"] not in self._kept["files"]:
            return MISSING
        rows = self._contents[asked["input_file_id"]].splitlines()
        problem = self._problem(rows, asked["endpoint"])
        now = int(time.time())
        batch = {
            **asked,
            "id": f"batch_{len(self._kept['batches'])}",
            "object": "batch",
            "status": "failed" if problem else "in_progress",
            "errors": {"object": "list", "data": [problem]} if problem else None,
            "created_at": now,
            "expires_at": now + 86_400,
            "request_counts": {"total": 0 if problem else len(rows), "completed": 0, "failed": 0},
        }
        self._kept["batches"][batch["id"]] = batch
        if self.batch_delay is not None and not problem:
            self._loop.call_later(self.batch_delay, self._finish, batch["id"], self.expire_share, self.error_share)
        return reply({**batch, "status": "validating", "errors": None})

    def _problem(self, rows: list[bytes], endpoint: str) -> JSON | None:
        """The first problem with the requests of a batch, or None."""
        if not 0 < len(rows) <= self.max_batch_requests:
            return {"code": "invalid_length", "message": f"The file has {len(rows)} requests.", "line": None}
        seen: set[str] = set()
        for line, row in enumerate(rows, 1):
            try:
                one = orjson.loads(row)
                code = "duplicate_custom_id" if one["custom_id"] in seen else ""
                code = code if (one["method"], one["url"]) == ("POST", endpoint) else "mismatched_url"
                seen.add(one["custom_id"])
            except (ValueError, KeyError):
                code = "invalid_json_line"
            if code:
                return {"code": code, "message": f"Line {line} is not valid: {code}.", "line": line}
        return None

    async def _cancel(self, request: web.Request, entry: Entry) -> Reply:
        batch = self._kept["batches"].get(request.match_info["id"])
        if batch and batch["status"] == "in_progress":
            batch["status"] = "cancelling"
        return reply(batch) if batch else MISSING

    def _finish(self, batch_id: str, expire_share: float, error_share: float) -> None:
        batch = self._kept["batches"][batch_id]
        cut_short = "cancelled" if batch["status"] == "cancelling" else "expired"
        lines: dict[str, list[JSON]] = {"output_file_id": [], "error_file_id": []}
        end = "cancelled" if cut_short == "cancelled" else "completed"
        for number, row in enumerate(self._contents[batch["input_file_id"]].splitlines()):
            request = orjson.loads(row)
            line = {"id": f"{batch_id}_req_{number}", "custom_id": request["custom_id"], "error": None}
            chance = draw(self.seed, batch_id, request["custom_id"])
            if chance < expire_share:
                end = cut_short
                problem = {"code": f"batch_{cut_short}", "message": "This request was not executed in time."}
                lines["error_file_id"].append({**line, "response": None, "error": problem})
                continue
            if chance < expire_share + error_share:
                sent = error(500, "server_error", "The request could not be executed.", fault="500")
            else:
                sent = self._reply(batch["endpoint"], request["body"])
            self._note(Entry(time=time.time(), path="/v1/batches", fingerprint=fingerprint(request["body"])), sent)
            response = {"status_code": sent.status, "request_id": line["id"], "body": orjson.loads(sent.body)}
            lines["output_file_id" if sent.status == 200 else "error_file_id"].append({**line, "response": response})
        for name, found in lines.items():
            if found:
                content = b"".join(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in found)
                batch[name] = self._stored(f"{batch_id}_{name}.jsonl", content, "batch_output")["id"]
        done, failed = map(len, lines.values())
        batch["request_counts"] |= {"completed": done, "failed": failed}
        batch["status"] = end


async def _sent(request: web.Request, sent: Reply) -> web.StreamResponse:
    if isinstance(sent.direct, web.StreamResponse):
        return sent.direct
    if sent.direct is not None:
        return await sent.direct(request)
    headers = {"Content-Type": "application/json", **sent.headers}
    if sent.fault not in ("drop", "cut_body") or request.transport is None:
        return web.Response(body=sent.body, status=sent.status, headers=headers)
    response = web.StreamResponse(headers={**headers, "Content-Length": str(len(sent.body))})
    if sent.fault == "cut_body":
        await response.prepare(request)
        await response.write(sent.body[: len(sent.body) // 2])
    request.transport.close()
    return response


def _filled(headers: Mapping[str, str], remaining: int, wait: float) -> dict[str, str]:
    return {name: value.format(remaining=remaining, wait=wait) for name, value in headers.items()}


def main() -> None:
    """Serve until a signal ends the process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", dest="log_file", type=Path, help="append the log to this file, as JSON lines")
    for one in fields(Server):
        if one.init and one.name != "log_file":
            kinds: dict[str, Callable[[str], Any]] = {"answer": pkgutil.resolve_name, "moderate": pkgutil.resolve_name}
            kind = kinds.get(one.name, str if one.type is str else orjson.loads)
            parser.add_argument(f"--{one.name.replace('_', '-')}", type=kind, default=argparse.SUPPRESS)
    with Server(**vars(parser.parse_args())) as server, suppress(KeyboardInterrupt):
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
