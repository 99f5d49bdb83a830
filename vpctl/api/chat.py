"""Asks a chat model questions with pictures. Answers are JSON of a given schema, and the caller checks them.

How a server accepts requests is found out once in a run. It may support strict schemas, or only JSON without a schema,
or neither. It may reject a temperature, or know the limit on the length of the answer by its old name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import orjson

from ..configs import ServerConfig
from ..errors import Refused, Unusable, UserError
from ..streams import jsonlines
from . import budget
from .answers import parse
from .budget import Estimate
from .engine import Engine, Rejected, Reply

T = TypeVar("T")

SCHEMAS = ("json_schema", "json_object", "text")
LIMITS = ("max_completion_tokens", "max_tokens", "")

_NO = re.compile(
    r"(?:(?:i'?m|i am) (?:really |very )?sorry|sorry|i (?:can(?:no|')?t|am unable|'m unable|won't|will not)\b)"
    r"[^{}]{0,200}(?:assist|help|comply|provide|view|judge|rate|evaluate|analy[sz]e|process|continue|fulfil)[^{}]*",
    re.IGNORECASE | re.DOTALL,
)


_OF_SCHEMAS = re.compile(r"response_format|json_schema|json_object|json schema|structured output|\bstrict\b|\bguided")


_OF_SEVERAL = re.compile(r"['\"`]n['\"`]|\bn (?:must|should|is|>|=|!)|candidate_?count|(?:multiple|several) candidates")


class Dialect(NamedTuple):
    """How a server accepts requests: the response format, the parameter for the answer's length, the temperature.

    `logprobs` and `several` say whether it gives probabilities of tokens, and several answers to one request.
    """

    schema: str = SCHEMAS[0]
    limit: str = LIMITS[0]
    temperature: bool = True
    logprobs: bool = True
    several: bool = True


PLAINEST = Dialect(SCHEMAS[-1], LIMITS[-1], temperature=False, logprobs=False, several=False)
TOP_LOGPROBS = 5
"""Number of probabilities for each token: as many as there are levels. vLLM gives no more by default."""

RESERVED_KEYS = frozenset(["model", "messages", "n", "stream", "max_tokens", "max_completion_tokens"])
"""Keys of a request that vpctl sets. With other values, costs would not be counted, or answers could not be read."""


class Request(NamedTuple):
    """What a model is asked. `parts` are the parts of the user's message, each encoded as JSON.

    With `logprobs`, the probabilities of the answer's tokens are asked for. `samples` is the number of answers.
    Requests with the same `cache_key` go to the same machine of the server, which may have kept their common beginning.
    """

    system: str
    parts: Sequence[bytes]
    schema: dict[str, Any]
    estimate: Estimate
    logprobs: bool = False
    samples: int = 1
    cache_key: str = ""


class Answer(NamedTuple, Generic[T]):
    """The value that was read from an answer, its usage in tokens and dollars, and the answer itself."""

    value: T
    usage: dict[str, float]
    body: dict[str, Any]


@lru_cache(1024)
def text_part(text: str) -> bytes:
    """A text as a part of a message."""
    return orjson.dumps({"type": "text", "text": text})


def picture_part(url: str, detail: str = "") -> bytes:
    """A picture as a part of a message. `url` may be a data URL."""
    image = {"url": url, **({"detail": detail} if detail else {})}
    return orjson.dumps({"type": "image_url", "image_url": image})


@lru_cache(256)
def _dumped(text: str) -> bytes:
    return orjson.dumps(text)


class ChatModel:
    """A model on a server. `option` is the option that named it, such as ``--annotator openai``, for messages.

    Raises `UserError` if the configuration is invalid.
    """

    def __init__(self, config: ServerConfig, model: str, *, option: str) -> None:
        self.engine = Engine(config, model, option=option)
        self.model = model
        self._config = config
        self._dialect = Dialect()
        try:
            self._extra = jsonlines.parse(config.extra.encode(), "--extra") if config.extra else {}
        except UserError:
            self._extra = None
        if not isinstance(self._extra, dict):
            raise UserError(f'--extra {config.extra}: must be a JSON object such as \'{{"reasoning_effort": "low"}}\'')
        if taken := sorted(RESERVED_KEYS & self._extra.keys()):
            raise UserError(
                f"--extra: {', '.join(taken)} cannot be set with --extra; limit the length of answers with --max-tokens"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """Everything besides the question that determines an answer."""
        config = self._config
        return {
            "server": self.engine.server,
            "model": self.model,
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            "extra": self._extra,
        }

    def estimate(self, text: int, pictures: Sequence[tuple[int, int]], detail: str, answer: float) -> Estimate:
        """The estimate for `text` bytes of text, pictures of these sizes in pixels, and `answer` tokens of answer."""
        how = self.engine.price.picture if self.engine.price else None
        seen = sum(budget.picture_tokens(width, height, detail, how) for width, height in pictures)
        return Estimate(text / budget.BYTES_PER_TOKEN + seen, answer, self._config.max_tokens)

    async def ask(self, request: Request, read: Callable[[dict[str, Any]], T], *, key: str = "") -> Answer[T]:
        """The answer to a question. `read` makes a value of its JSON object, or raises `Unusable`.

        An unusable answer is sent back once, with the reason. Raises `Unusable` if the second answer is unusable too,
        `Refused`, and every error of `Engine.post`. The last can also come from the second call; then it is unknown
        whether the question can be answered.
        """
        reply = await self._post(request, (), key)
        try:
            return Answer(_read(reply, read), reply.usage, reply.body)
        except Unusable as error:
            first = Unusable(str(error), error.raw, reply.usage)
        return await self.mend(request, first, read, key=key)

    async def mend(
        self, request: Request, first: Unusable, read: Callable[[dict[str, Any]], T], *, key: str = ""
    ) -> Answer[T]:
        """The answer of a second try, after the unusable answer `first`. Raises the same errors as `ask`."""
        correction = f"This answer cannot be used: {first}. Answer again, with one JSON object of the form asked for."
        try:
            second = await self._post(request, (first.raw, correction), f"{key}-repair" if key else "")
        except (Unusable, Refused) as error:
            raise Unusable(f"{first}; asking again failed: {error}".rstrip(": "), first.raw, first.usage) from None
        usage = _sum(first.usage, second.usage)
        try:
            return Answer(_read(second, read), usage, second.body)
        except Unusable as error:
            raise Unusable(str(error), error.raw or first.raw, usage) from None
        except Refused as refusal:
            raise Refused(str(refusal), usage) from None

    def read(self, body: dict[str, Any], read: Callable[[dict[str, Any]], T], usage: dict[str, float]) -> T:
        """The value that `read` makes of an answer that came from a batch. Raises `Refused` and `Unusable`."""
        try:
            return _read(Reply(body, usage), read)
        except Unusable as error:
            raise Unusable(str(error), error.raw, usage) from None

    @property
    def dialect(self) -> Dialect:
        """The dialect that is in use."""
        return self._dialect

    def speak(self, dialect: Dialect) -> None:
        """Use this dialect from now on."""
        self._dialect = dialect

    async def _post(self, request: Request, more: tuple[str, ...], key: str) -> Reply:
        longer = request.estimate.prompt + sum(len(text.encode()) for text in more) / budget.BYTES_PER_TOKEN
        estimate = request.estimate._replace(prompt=longer)
        while True:
            used = self._dialect

            def body() -> bytes:
                nonlocal used
                used = self._dialect
                return self.body(request, more)

            try:
                return await self.engine.post("/chat/completions", body, estimate, again=bool(more), key=key)
            except Rejected as rejected:
                if used == self._dialect:
                    self._dialect = self._instead(used, rejected)

    def _instead(self, used: Dialect, rejected: Rejected) -> Dialect:
        """The dialect to try after a request was rejected as invalid.

        It leaves out what the server named. If it named nothing, and no call has been answered yet, it is the plainest
        dialect. Otherwise raises the error for the rejected request.
        """
        if found := fallback_dialect(used, rejected.about):
            return found
        plainest = PLAINEST if self._config.max_cost is None else PLAINEST._replace(limit=LIMITS[-2])
        if not self.engine.right and used != plainest:
            return plainest
        self._dialect = Dialect() if used == plainest and not self.engine.right else used
        raise self.engine.hopeless(rejected) from None

    def body(self, request: Request, more: tuple[str, ...] = ()) -> bytes:
        """The body of a request in the current dialect. `more` are further messages, by the model and the user in turn.

        Raises `UserError` if the cost is limited and the server does not accept a limit on the length of the answer.
        """
        dialect, config = self._dialect, self._config
        if not dialect.limit and config.max_cost is not None:
            raise UserError(
                f"--max-cost {config.max_cost:g}: {self.engine.name} does not accept a limit on the length of "
                "answers, so "
                "their cost is unknown; leave --max-cost out, or use --max-requests"
            )
        options: dict[str, Any] = {"model": self.model}
        if dialect.temperature:
            options["temperature"] = config.temperature
        if dialect.limit:
            options[dialect.limit] = config.max_tokens
        if request.logprobs and dialect.logprobs:
            options |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if request.samples > 1 and dialect.several:
            options["n"] = request.samples
        if request.cache_key:
            options["prompt_cache_key"] = request.cache_key
        if dialect.schema == "json_schema":
            schema = {"name": "answer", "strict": True, "schema": request.schema}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif dialect.schema == "json_object":
            options["response_format"] = {"type": "json_object"}
        messages = [
            b'{"role":"system","content":' + _dumped(request.system) + b"}",
            b'{"role":"user","content":[' + b",".join(request.parts) + b"]}",
        ]
        for number, text in enumerate(more):
            messages.append(orjson.dumps({"role": ("assistant", "user")[number % 2], "content": text}))
        head = orjson.dumps({**options, **self._extra})[:-1]
        return head + b',"messages":[' + b",".join(messages) + b"]}"


def fallback_dialect(dialect: Dialect, about: str) -> Dialect | None:
    """The dialect to try after a rejection with the text `about`, in lower case; None if that names none of it."""
    if dialect.logprobs and "logprob" in about:
        return dialect._replace(logprobs=False)
    if dialect.several and _OF_SEVERAL.search(about):
        return dialect._replace(several=False)
    if dialect.temperature and "temperature" in about:
        return dialect._replace(temperature=False)
    if dialect.limit and ("max_completion_tokens" in about or "max_tokens" in about):
        return dialect._replace(limit=LIMITS[LIMITS.index(dialect.limit) + 1])
    if dialect.schema != SCHEMAS[-1] and _OF_SCHEMAS.search(about):
        return dialect._replace(schema=SCHEMAS[SCHEMAS.index(dialect.schema) + 1])
    return None


def common_dialect(*dialects: Dialect) -> Dialect:
    """The dialect that leaves out everything that any of these leaves out."""
    return Dialect(
        max((one.schema for one in dialects), key=SCHEMAS.index),
        max((one.limit for one in dialects), key=LIMITS.index),
        all(one.temperature for one in dialects),
        all(one.logprobs for one in dialects),
        all(one.several for one in dialects),
    )


def choices_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answers in the body of a response: one for each sample, and none if the body is malformed."""
    choices = body.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _read(reply: Reply, read: Callable[[dict[str, Any]], T]) -> T:
    """The value that `read` makes of the first answer that it can use.

    If there is none, raises the error of the first answer: `Refused`, or `Unusable` with the answer's text.
    """
    first: Refused | Unusable | None = None
    for choice in choices_of(reply.body) or [{}]:
        try:
            return read_choice(choice, read, reply.usage)
        except (Refused, Unusable) as error:
            first = first or error
    assert first
    raise first


def read_choice(choice: Mapping[str, Any], read: Callable[[dict[str, Any]], T], usage: dict[str, float]) -> T:
    """The value that `read` makes of one answer. Raises `Refused`, or `Unusable` with the answer's text."""
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Unusable("the answer of the server has no choices")
    refusal, text = message.get("refusal"), message.get("content")
    if refusal:
        raise Refused(str(refusal), usage)
    if choice.get("finish_reason") == "content_filter":
        raise Refused("content_filter", usage)
    if not isinstance(text, str):
        text = ""
    if choice.get("finish_reason") == "length":
        raise Unusable("the answer was cut off; raise --max-tokens", text)
    if _NO.fullmatch(text.strip()):
        raise Refused(" ".join(text.split()), usage)
    try:
        return read(parse(text))
    except Unusable as error:
        raise Unusable(str(error), text) from None


def _sum(*usages: dict[str, float]) -> dict[str, float]:
    names = dict.fromkeys(name for usage in usages for name in usage)
    return {**{name: sum(usage.get(name, 0.0) for usage in usages) for name in names}, "calls": len(usages)}
