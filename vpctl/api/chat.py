"""Asks a chat model questions with pictures. Answers are JSON of a given schema, and the caller checks them.

How a server accepts requests is found out once, and kept for later runs: see `dialects` and `remembered`. The first
answer shows what the server can do, and whether it was shown the pictures at all: some servers drop them without a
word.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

import orjson
import pybase64

from .. import progress
from ..configs import ServerConfig
from ..errors import Inconclusive, RecordFailed, Refused, Stopped, Unusable, UserError
from ..flow import StopSignal
from . import budget, remembered
from .answers import loads, parse
from .budget import Estimate
from .dialects import CUT_OFF, NEW, OLD, Dialect, fallback, first_dialect, is_lasting, is_local, plainest
from .engine import Engine, Rejected, Reply, Suspicion, read_extra, reported_tokens
from .picture_tokens import picture_tokens

T = TypeVar("T")

_NO = re.compile(
    r"(?:(?:i'?m|i am) (?:really |very )?sorry|sorry|i (?:can(?:no|')?t|am unable|'m unable|won't|will not)\b)"
    r"[^{}]{0,200}(?:assist|help|comply|provide|view|judge|rate|evaluate|analy[sz]e|process|continue|fulfil)[^{}]*",
    re.IGNORECASE | re.DOTALL,
)


FORBIDDEN = (
    "content_filter",
    "safety",
    "recitation",
    "prohibited",
    "blocklist",
    "spii",
    "image_",
    "sensitive",
    "refusal",
)
"""Beginnings of the reasons by which providers say that a policy ended an answer."""
LONGEST_NO = 2000
"""Characters. A longer text is no refusal."""
LONGER = 2
"""An answer that was cut off is asked for once more, with so many times the limit."""
TOKENS_PER_PICTURE, FEWEST_TOKENS_PER_PICTURE = 60.0, 2.0
"""Models take more tokens than these for a small picture: nearly all of them, and all of them."""
BYTES_PER_TOKEN, MOST_BYTES_PER_TOKEN = 3.0, 12.0
"""Fewer, and more, than in the texts of questions, for any tokenizer."""
FEWEST_TOKENS = 100.0
"""No question about a picture has fewer tokens of text."""
_SHORTEST = 16
"""The lowest limit on the length of an answer that all servers accept."""
_PICTURE = b'{"type":"image_url"'

REPAIRED = 0.05
"""Fraction of answers that are sent back because they cannot be used, for estimates before the first answer."""
REASONING_TOKENS = 1000.0
"""Typical number of reasoning tokens of an answer, for estimates before the first answer."""
_REASONS = re.compile(
    r"(?!.*(?:chat|non-reasoning|-lite))"
    r"(?:gpt-[5-9]|o\d|gemini-(?:2\.5|[3-9])|grok-(?:3-mini|[4-9])|magistral|qvq|.*(?:think|reason))"
)
"""Models that reason before they answer, unless they are told not to."""

TOP_LOGPROBS = 5
"""Number of probabilities for each token: as many as there are levels. vLLM gives no more by default."""

RESERVED_KEYS = frozenset(["model", "messages", "n", "stream", OLD, NEW])
"""Keys of a request that vpctl sets. With other values, costs would not be counted, or answers could not be read."""


class Request(NamedTuple):
    """What a model is asked. `parts` are the parts of the user's message, each encoded as JSON.

    With `logprobs`, the probabilities of the answer's tokens are asked for. `samples` is the number of answers.
    Requests with the same `cache_key` go to the same machine of the server, which may have kept their common beginning.
    `subject` is equal for the questions about one record. If a server rejects all of them, it may accept other records.
    """

    system: str
    parts: Sequence[bytes]
    schema: dict[str, Any]
    estimate: Estimate
    subject: str = ""
    logprobs: bool = False
    samples: int = 1
    cache_key: str = ""


class _CutOff(Unusable):
    """The answer was cut off at the limit on its length. `reasoned` says that it was spent on reasoning."""

    reasoned = False


class Answer(NamedTuple, Generic[T]):
    """The value that was read from an answer, its usage in tokens and dollars, the answer, and how it was asked for."""

    value: T
    usage: dict[str, float]
    body: dict[str, Any]
    asked: Mapping[str, str] = MappingProxyType({})


@lru_cache(1024)
def text_part(text: str) -> bytes:
    """A text as a part of a message."""
    return orjson.dumps({"type": "text", "text": text})


def picture_part(url: str, detail: str = "") -> bytes:
    """A picture as a part of a message. `url` may be a data URL."""
    image = {"url": url, **({"detail": detail} if detail else {})}
    return orjson.dumps({"type": "image_url", "image_url": image})


def data_part(kind: str, content: bytes, detail: str = "") -> bytes:
    """A picture as a part of a message, from the content of its file. `kind` is its format, such as png."""
    before, after = _around_data(kind, detail)
    return b"".join((before, pybase64.b64encode(content), after))


@lru_cache(16)
def _around_data(kind: str, detail: str) -> tuple[bytes, bytes]:
    """The JSON before and after the encoded content. Base64 needs no escapes, so nothing has to look for them."""
    before, after = picture_part(f"data:image/{kind};base64,*", detail).split(b"*")
    return before, after


@lru_cache(256)
def _dumped(text: str) -> bytes:
    return orjson.dumps(text)


class ChatModel:
    """A model on a server. `option` is the option that named it, such as ``--annotator openai``, for messages.

    Raises `UserError` if the configuration is invalid.
    """

    def __init__(self, config: ServerConfig, model: str, *, option: str) -> None:
        self.model = model
        self._config = config
        self._cuts = Suspicion()
        self._seen: asyncio.Future[UserError | None] | None = None
        self._extra = read_extra(config.extra, such_as='{"reasoning_effort": "low"}')
        if taken := sorted(RESERVED_KEYS & self._extra.keys()):
            raise UserError(
                f"--extra: {', '.join(taken)} cannot be set with --extra; limit the length of answers with --max-tokens"
            )
        tier = self._extra.get("service_tier")
        self.engine = Engine(config, model, option=option, tier=tier if isinstance(tier, str) else "")
        self.engine.careful = True  # answers that are all cut off would cost much
        self._where = (self.engine.server, model, self._extra)
        # On this machine another server may have the address tomorrow, and rejections cost nothing.
        self._recalled = None if is_local(self.engine.server) else remembered.recall(*self._where)
        self._dialect = self._first()
        self._accepted: Dialect | None = None
        self._guessed = False
        self._fits = False
        self._hopeless = ""
        """Why the last answer could not be used. If none ever can, the run ends with it."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything besides the question that determines an answer."""
        config = self._config
        return {
            "server": self.engine.known_as,
            "model": self.model,
            "temperature": config.temperature,
            "extra": self._extra,
        }

    @asynccontextmanager
    async def running(self, stop_signal: StopSignal) -> AsyncIterator[None]:
        """A context in which questions can be asked. At its end, what the server accepts is kept for later runs.

        A run may have too few records to end before that. If all requests were rejected as invalid, raises `UserError`
        at the end. If no answer could be used, says why.
        """
        engine = self.engine
        try:
            async with engine.running(stop_signal):
                yield
            if engine.wrong and not engine.right and not engine.refused and not stop_signal.stopped:
                raise UserError(engine.wrong)
            if self._hopeless and not self._fits and not stop_signal.stopped:
                progress.warn(self._hopeless)  # the answers were paid for, so they are recorded
        finally:
            known = self._recalled or first_dialect(engine.server)
            if self._accepted and self._accepted != known and not self._guessed and not is_local(engine.server):
                remembered.keep(*self._where, self._accepted)

    def _first(self) -> Dialect:
        """The dialect in which the server is asked first: that of an earlier run, with all that this run must have."""
        first = first_dialect(self.engine.server)
        if not (found := self._recalled):
            return first
        found = found._replace(temperature=True) if self._config.temperature else found
        return found._replace(limit=found.limit or first.limit) if self._config.max_cost is not None else found

    def estimate(self, text: int, pictures: Sequence[tuple[int, int]], detail: str, answer: float) -> Estimate:
        """The estimate for `text` bytes of text, pictures of these sizes in pixels, and `answer` tokens of answer."""
        rule = self.engine.picture_rule
        seen = sum(picture_tokens(width, height, detail, rule) for width, height in pictures)
        return Estimate(text / budget.BYTES_PER_TOKEN + seen, answer, self._config.max_tokens)

    def allowance(self, estimate: Estimate) -> dict[str, float]:
        """What a call may use beyond what is expected: for reasoning, until the first answer, and for a second try."""
        budget, expected = self.engine.budget, self.engine.expected(estimate)
        prompt, answer = expected["prompt_tokens"], expected["completion_tokens"]
        reasoning = min(self._reasoning(), max(0.0, estimate.longest - answer))
        again = self._repaired()
        more = {
            "prompt_tokens": again * (prompt + answer),
            "completion_tokens": again * (answer + reasoning) + reasoning,
        }
        if "cost" not in expected:
            return more
        cost = budget.expected_cost(more) if budget.price else again * expected["cost"]
        return {**more, "cost": cost or 0.0}

    def assumptions(self) -> str:
        """What `allowance` assumes, and why no cost is known if none is."""
        budget, told = self.engine.budget, []
        if budget.calls and budget.repairs:
            told.append(f"{budget.repairs} of {budget.calls - budget.repairs} answers are asked for again, as so far")
        elif not budget.calls:
            told.append(f"1 answer in {1 / REPAIRED:.0f} is asked for again")
        if reasoning := self._reasoning():
            told.append(f"an answer has {reasoning:.0f} reasoning tokens")
        text = ", ".join(told)
        if budget.price or budget.billed:
            return text
        unknown = f"the price of {self.model} is unknown, so there is no cost; set it with --prices FILE"
        return f"{text}; {unknown}" if text else unknown

    def _repaired(self) -> float:
        """The fraction of questions that are asked a second time, from the answers so far if there are any."""
        budget = self.engine.budget
        return budget.repairs / max(1, budget.calls - budget.repairs) if budget.calls else REPAIRED

    def _reasoning(self) -> float:
        """The reasoning tokens of an answer that the expected answer does not have: none once answers were seen."""
        asked = {"reasoning", "reasoning_effort", "thinking"} & self._extra.keys()
        effort = str(self._extra.get("reasoning_effort"))
        may = bool(asked) or _REASONS.match(self.model.rpartition("/")[2].lower())
        return REASONING_TOKENS if may and effort not in ("none", "minimal") and not self.engine.budget.calls else 0.0

    async def ask(self, request: Request, read: Callable[[dict[str, Any]], T], *, key: str = "") -> Answer[T]:
        """The answer to a question. `read` makes a value of its JSON object, or raises `Unusable`.

        An unusable answer is sent back once, with the reason. One that was cut off is asked for once more, with twice
        the limit on its length. Raises `Unusable` if the second answer is unusable too, `Inconclusive` if that was cut
        off, `Refused`, and every error of `Engine.post`. The last can also come from the second call; then it is
        unknown whether the question can be answered.
        """
        try:
            reply = await self._post(request, (), key)
        except _CutOff as cut:
            return await self._longer(request, cut, read, key)
        await self._look_at(request, reply)
        try:
            value = _read(reply, read)
        except Unusable as first:
            first.usage = reply.usage
            return await self.mend(request, first, read, key=key)
        except Refused:
            self.engine.refused = True
            self.engine.pace.trust()
            raise
        self._usable()
        return Answer(value, reply.usage, reply.body, reply.asked)

    def _usable(self) -> None:
        """An answer can be used."""
        self._fits = True
        self._cuts.clear()
        self.engine.pace.trust()

    async def _longer(self, request: Request, cut: _CutOff, read: Callable[[dict[str, Any]], T], key: str) -> Answer[T]:
        """The answer of a second try with a higher limit on its length, after one that was cut off."""
        limit, longer = self._config.max_tokens, LONGER * self._config.max_tokens
        usage = cut.usage
        try:
            if not self._dialect.limit:
                raise cut
            self.engine.budget.repairs += 1
            second = await self._post(request, (), f"{key}-longer" if key else "", limit=longer)
            usage = sum_of(usage, second.usage)
            answer = Answer(_read(second, read), usage, second.body, second.asked)
        except _CutOff as again:
            at = f"at {limit} tokens, and again at {longer}" if again is not cut else "by the server"
            way = "raise --max-tokens" if self._dialect.limit else "raise its limit"
            if again.reasoned:
                way += """, or let the model reason less: --extra '{"reasoning_effort": "low"}'"""
            self._hopeless = f"{self.engine.name}: all answers are cut off {at}; {way}"
            if self._cuts.again("cut off", request.subject):
                raise UserError(self._hopeless) from None
            found = Inconclusive(f"the answer was cut off {at}; {way}", again.raw, usage)
            found.asked = again.asked
            raise found from None
        except (Inconclusive, Refused) as error:
            error.usage = usage
            raise
        except Unusable as error:
            error.usage = usage
            raise self._unfit(error, request.subject) from None
        self._usable()
        return answer

    async def _look_at(self, request: Request, reply: Reply) -> None:
        """Say what the first answer of the run shows of the server. Other answers wait until its pictures are checked.

        Raises `UserError` if the server left the pictures out: then the model has made up what it says of them.
        """
        if self._seen:
            if error := self._seen.result() if self._seen.done() else await asyncio.shield(self._seen):
                raise error
            return
        self._seen = asyncio.get_running_loop().create_future()
        blind: UserError | None = None
        try:
            pictures = sum(part.startswith(_PICTURE) for part in request.parts)
            tokens = reported_tokens(reply.body).get("prompt_tokens")
            arrived = bool(pictures) and await self._have_arrived(request, pictures, tokens)
            self._introduce(reply, pictures, "yes" if arrived else "accepted")
        except UserError as error:
            blind = error
            raise
        finally:
            if not self._seen.done():
                self._seen.set_result(blind)

    async def _have_arrived(self, request: Request, pictures: int, tokens: float | None) -> bool:
        """Whether the tokens of a request show that the model was shown its pictures.

        If they are not clearly more than those of its text, the text is sent alone. Raises `UserError` if they are as
        many.
        """
        text = request._replace(
            parts=[part for part in request.parts if not part.startswith(_PICTURE)], logprobs=False, samples=1
        )
        size = len(request.system.encode()) + sum(map(len, text.parts))
        if tokens is None:
            return False
        if tokens > size / BYTES_PER_TOKEN + pictures * TOKENS_PER_PICTURE:
            return True
        try:
            reply = await self._post(text, (), "", limit=_SHORTEST, fragile=True)
        except (RecordFailed, Refused, Stopped, UserError):  # which the next question will get, too
            return False
        alone = reported_tokens(reply.body).get("prompt_tokens", 0.0)
        counts = alone > max(FEWEST_TOKENS, size / MOST_BYTES_PER_TOKEN)  # some servers report made-up numbers
        if counts and tokens - alone < pictures * FEWEST_TOKENS_PER_PICTURE:
            raise UserError(
                f"{self.engine.name}: the pictures do not reach the model: with {pictures} of them a request has "
                f"{tokens:.0f} tokens, and without them {alone:.0f}; name a model that sees pictures, or another server"
            )
        return counts

    def _introduce(self, reply: Reply, pictures: int, how: str) -> None:
        """Say on one line what the server can do. `how` says what is known of the pictures."""
        dialect = self._dialect
        schemas = {"json_schema": "schema yes", "json_object": "JSON, but no schema", "text": "schema no"}
        kept = dialect.schema == "text" or _is_object(reply.body)
        said = [f"answers in {self.engine.latency:.1f} s", schemas[dialect.schema] if kept else "format ignored"]
        said += [f"{progress.plural(pictures, 'picture')} {how}"] if pictures else []
        served = reply.asked.get("model")
        said += [f"model {served}"] if served else []
        said += [f"without {' and '.join(dialect.left_out)}"] if dialect.left_out else []
        progress.note(f"{self.engine.server}: {'; '.join(said)}")

    def asked(
        self,
        body: Mapping[str, Any] | None = None,
        dialect: Dialect | None = None,
        *,
        request: Request | None = None,
        at: float | None = None,
    ) -> dict[str, str]:
        """How an answer with this `body` was asked for, as `Judgement.asked` has it.

        `dialect` is that of the `request`, by default the current one, and `at` the time of the answer, by default now.
        """
        dialect = dialect or self._dialect
        left_out = dialect.left_out
        if request and request.logprobs and not dialect.logprobs:
            left_out.append("probabilities")
        if request and request.samples > 1 and not dialect.several:
            left_out.append("several answers to one request")
        without = ", ".join(left_out)
        how = {"format": dialect.schema, **({"without": without} if without else {})}
        return {**self.engine.asked(body, at=at), **how}

    async def mend(
        self, request: Request, first: Unusable, read: Callable[[dict[str, Any]], T], *, key: str = ""
    ) -> Answer[T]:
        """The answer of a second try, after the unusable answer `first`. Raises the same errors as `ask`."""
        if isinstance(first, _CutOff):
            return await self._longer(request, first, read, key)
        self.engine.budget.repairs += 1
        correction = f"This answer cannot be used: {first}. Answer again, with one JSON object of the form asked for."
        try:
            second = await self._post(request, (first.raw, correction), f"{key}-repair" if key else "")
        except (Unusable, Refused) as error:
            found = Unusable(f"{first}; asking again failed: {error}".rstrip(": "), first.raw, first.usage)
            found.asked = first.asked
            raise found from None
        usage = sum_of(first.usage, second.usage)
        try:
            answer = Answer(_read(second, read), usage, second.body, second.asked)
        except Unusable as error:
            error.raw, error.usage = error.raw or first.raw, usage
            raise self._unfit(error, request.subject) from None
        except Refused as refusal:
            refusal.usage = usage
            raise
        self._usable()
        return answer

    def _unfit(self, error: Unusable, subject: str) -> Exception:
        """The exception if the second answer is unusable, too. As long as no answer was usable, all may be like it."""
        if self._fits or self.engine.refused:
            return error
        self._hopeless = f"{self.engine.name}: no answer can be used: {error}; name another model"
        if self._cuts.again("unusable", subject):
            return UserError(self._hopeless)
        found = Inconclusive(str(error), error.raw, error.usage)
        found.asked = error.asked
        return found

    def read(self, body: dict[str, Any], read: Callable[[dict[str, Any]], T], usage: dict[str, float]) -> T:
        """The value that `read` makes of an answer, which may come from a batch. Raises `Refused` and `Unusable`."""
        try:
            value = _read(Reply(body, usage), read)
        except Unusable as error:
            error.usage = usage
            raise
        self._fits = True
        return value

    @property
    def dialect(self) -> Dialect:
        """The dialect that is in use."""
        return self._dialect

    def speak(self, dialect: Dialect) -> None:
        """Use this dialect from now on."""
        self._dialect = dialect

    async def _post(
        self, request: Request, more: tuple[str, ...], key: str, *, limit: int = 0, fragile: bool = False
    ) -> Reply:
        """The reply to a request. `limit` is the one on the length of the answer, by default --max-tokens.

        A `fragile` request raises `RecordFailed` after a rejection or status 500, and teaches nothing about the server.
        """
        longer = request.estimate.prompt + sum(len(text.encode()) for text in more) / budget.BYTES_PER_TOKEN
        longest = limit * request.samples or request.estimate.longest
        estimate = request.estimate._replace(prompt=longer, longest=longest)
        before = self._dialect
        while True:
            used = self._dialect

            def body() -> bytes:
                nonlocal used
                used = self._dialect
                return self.body(request, more, limit=limit)

            try:
                again = bool(more) or bool(limit)
                reply = await self.engine.post(
                    "/chat/completions", body, estimate, again=again, key=key, subject=request.subject, fragile=fragile
                )
                self._accepted = used
                return reply._replace(asked=self.asked(reply.body, used, request=request))
            except Rejected as rejected:
                if fragile:
                    raise RecordFailed(str(rejected)) from None
                if CUT_OFF in rejected.about:
                    cut = _CutOff(str(rejected))
                    cut.reasoned = True
                    raise cut from None
                if used == self._dialect:
                    self._dialect = self._instead(used, before, rejected, request.subject)

    def _instead(self, used: Dialect, before: Dialect, rejected: Rejected, subject: str) -> Dialect:
        """The dialect to try after a request was rejected as invalid.

        It leaves out what the server named. If it named nothing, and no call has been answered yet, it is the plainest
        dialect. Otherwise raises the error for the rejected request; what was left out for it has not helped, so the
        dialect is again the one `before` it.
        """
        server = self.engine.server
        if used == self._recalled and not self.engine.right:  # it accepts something else now
            self._recalled = None
            remembered.forget(*self._where)
            return first_dialect(server)
        if found := fallback(used, rejected.about, server):
            if used.temperature and not found.temperature and self._config.temperature:
                raise UserError(f"--temperature {self._config.temperature:g}: {self.engine.name}: {rejected}")
            self._guessed |= not is_lasting(rejected.about)
            return found
        plain = plainest(used, limited=self._config.max_cost is not None)
        if not self.engine.right and used != plain:
            self._guessed = True  # perhaps it accepts more
            return plain
        proved = used if self._accepted == used else before
        self._dialect = proved if self.engine.right else first_dialect(server)
        raise self.engine.hopeless(rejected, subject) from None

    def body(self, request: Request, more: tuple[str, ...] = (), *, limit: int = 0) -> bytes:
        """The body of a request in the current dialect. `more` are further messages, by the model and the user in turn.

        `limit` is the one on the length of the answer, by default --max-tokens.

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
            options[dialect.limit] = limit or config.max_tokens
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
        parts = request.parts if dialect.system else [text_part(request.system), *request.parts]
        # The pictures are long: they are copied once only.
        pieces = [orjson.dumps({**options, **self._extra})[:-1], b',"messages":[']
        if dialect.system:
            pieces += [b'{"role":"system","content":', _dumped(request.system), b"},"]
        pieces.append(b'{"role":"user","content":')
        for number, part in enumerate(parts):
            pieces += [b"," if number else b"[", part]
        pieces.append(b"]}")
        for number, text in enumerate(more):
            pieces += [b",", orjson.dumps({"role": ("assistant", "user")[number % 2], "content": text})]
        return b"".join([*pieces, b"]}"])


def choices_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answers in the body of a response: one for each sample, and none if the body is malformed."""
    choices = body.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _is_object(body: Mapping[str, Any]) -> bool:
    """Whether the first answer is a JSON object and nothing else."""
    message = next(iter(choices_of(body)), {}).get("message")
    try:
        return isinstance(loads(_text(message.get("content") if isinstance(message, dict) else None)), dict)
    except (ValueError, RecursionError):
        return False


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
    first.asked = reply.asked
    raise first


def read_choice(choice: Mapping[str, Any], read: Callable[[dict[str, Any]], T], usage: dict[str, float]) -> T:
    """The value that `read` makes of one answer. Raises `Refused`, or `Unusable` with the answer's text."""
    ends = [str(choice.get(name) or "").casefold() for name in ("finish_reason", "native_finish_reason")]
    if forbidden := next((end for end in ends if end.startswith(FORBIDDEN)), ""):
        raise Refused(forbidden, usage)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Unusable("the answer of the server has no choices")
    if refusal := message.get("refusal"):
        raise Refused(str(refusal), usage)
    text = _text(message.get("content"))
    if ends[0] in ("length", "max_tokens"):
        cut = _CutOff("the answer was cut off; raise --max-tokens", text)
        cut.reasoned = not text.strip() or bool(message.get("reasoning") or message.get("reasoning_content"))
        raise cut
    if len(text) < LONGEST_NO and _NO.fullmatch(text.strip()):
        raise Refused(" ".join(text.split()), usage)
    try:
        return read(parse(text))
    except Unusable as error:
        raise Unusable(str(error), text) from None


def _text(content: object) -> str:
    """The text of a message. Some servers send a list of parts, of thoughts and of text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [one["text"] for one in parts if isinstance(one, dict) and isinstance(one.get("text"), str)]
    return "".join(texts)


def sum_of(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """The usage of two answers. A usage without ``calls`` is that of one call."""
    both = {name: first.get(name, 0.0) + second.get(name, 0.0) for name in {**first, **second}}
    return {**both, "calls": first.get("calls", 1) + second.get("calls", 1)}
