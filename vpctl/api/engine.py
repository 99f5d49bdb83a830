"""A client of one OpenAI-compatible server: every request is paced, retried, and counted in the budget."""

import asyncio
import math
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

from .. import progress
from ..configs import API_KEY, BASE_URL, ServerConfig
from ..errors import RecordFailed, Refused, Unusable, UserError
from ..flow import StopSignal
from .answers import loads
from .budget import NO_BILL, Bill, Budget, Estimate, is_complete
from .pace import Gate, Ticket
from .picture_tokens import family_rule
from .prices import Price, price_of, read_prices
from .rate import LearnedRate
from .retry_after import exhausted, retry_after
from .window import CongestionWindow
from .wire import BadStatus, NoAnswer, Unreadable

R = TypeVar("R")

TRIES = 12
"""Maximum tries of a call that gets transient errors: about five minutes with the waits between them."""
TRIES_UNHEARD = 4
"""Maximum tries while the server has never answered: a wrong address is reported soon."""
TRIES_TIMED_OUT = 3
"""Maximum tries that time out: the server may have answered, and charged for, each of them."""
TRIES_BROKEN = 6
"""Maximum tries of a call that gets status 500 while other calls are answered: some servers fail on certain input."""
GATEWAY_TIMEOUTS = (408, 504, 524)
"""Statuses by which a proxy between us and the model reports that it stopped waiting, as our own timeout would."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds between tries if the server does not say. The wait doubles with each try, up to the second value, and is
multiplied by a random factor from 0.5 to 1.
"""
MAX_FAILURES_IN_A_ROW = 4
"""After this number of failed calls, with none answered between them, no further call is expected to succeed."""
MAX_SECONDS_RATE_LIMITED = 600.0
"""Seconds in which a server may reject every call for its rate before a call is given up."""
MIN_KEY_LENGTH = 8
"""Minimum length of a key that is removed from text. With servers without keys, the key is any word, and answers may
contain it.
"""
REPORTED_WAIT = 5.0
"""Waits of this many seconds or more are reported."""
MOST_TOKENS = 1e12
"""More than any call takes: a server that reports this many is wrong."""
MOST_DOLLARS = 1e4
"""More than any call costs: a server that reports more is wrong."""
COST_HEADER = "x-litellm-response-cost"
"""The header in which a LiteLLM proxy reports the cost of a call in dollars."""
USUAL_TIERS = frozenset(["auto", "default", "standard"])
"""Names of service tiers with the usual price."""
SHOWN = 300
"""Maximum number of characters of a server's message that are shown."""

POLICY = frozenset(["content_policy_violation", "content_filter", "moderation_blocked", "ResponsibleAIPolicyViolation"])
"""Codes of errors by which providers say that a policy forbids the request."""


class Reply(NamedTuple):
    """A server's answer as JSON, and its usage: tokens, and `cost` in dollars if it is known."""

    body: dict[str, Any]
    usage: dict[str, float]


class Rejected(Exception):
    """The server rejected a request as invalid, perhaps because of a parameter that it does not know."""

    def __init__(self, status: int, about: str, said: str) -> None:
        super().__init__(f"the server says {status}: {said}")
        self.about = about


class Engine:
    """A server and the calls of a run to it. Requests can be sent only within `running`, which needs the key.

    `tier` is the service tier that the requests ask for. Raises `UserError` if no model is named, the URL or the prices
    are invalid, or the cost is limited and no price is known.
    """

    def __init__(self, config: ServerConfig, model: str, *, option: str, tier: str = "") -> None:
        if not model:
            raise UserError(f"{option}: name the model, as in {option.partition(' ')[0]} openai:gpt-4o")
        self.config, self.model = config, model
        self._key = ""
        self.name = f"openai:{model}"
        self.base_url = _base_url(config)
        self.server = address(config)
        self.price: Price | None = price_of(model, read_prices(config.prices), self.server)
        self.picture_rule = (self.price and self.price.picture) or family_rule(model)
        if config.max_cost is not None and self.price is None:
            raise UserError(
                f"--max-cost {config.max_cost:g}: the price of {model} is unknown; "
                "set it with --prices FILE; vpctl annotate --help describes the file"
            )
        tier = "" if tier in USUAL_TIERS else tier
        self.budget = Budget(max_cost=config.max_cost, max_requests=config.max_requests, price=self.price, tier=tier)
        self.right = False
        self._heard = False
        self._lost = self._wrong = 0
        self._answered = 0.0
        self._told = -math.inf

    def check(self) -> None:
        """Raise `UserError` if the API key is missing or malformed."""
        _key()

    @asynccontextmanager
    async def running(self, stop_signal: StopSignal) -> AsyncIterator[None]:
        """A context in which requests can be sent, within the configured limits, until `stop_signal` is set."""
        self._key = _key()
        self.stop_signal = stop_signal
        self.budget.begin(stop_signal)
        self.pace = Gate(
            CongestionWindow(self.config.concurrency),
            LearnedRate(asyncio.get_running_loop().time()),
            rpm=self.config.rpm,
            tpm=self.config.tpm,
            say=progress.note,
        )
        stop_signal.on_stop(self.pace.stop)
        from .transport import Transport

        self.transport = Transport(self.base_url, self._key, concurrency=self.config.concurrency)
        try:
            yield
        finally:
            await self.transport.close()

    def expected(self, estimate: Estimate) -> dict[str, float]:
        """The expected usage of a call, corrected by the answers so far. It has a `cost` if one is known."""
        expected = self.budget.expected(estimate)
        cost = self.budget.expected_cost(expected)
        return expected if cost is None else {**expected, "cost": cost}

    @property
    def batch_share(self) -> float:
        """The fraction of the live price that a call by batch costs; 1 if the price is unknown."""
        return self.price.batch if self.price else 1.0

    @property
    def _knows_dollars(self) -> bool:
        """Whether the dollars that the budget has counted mean something: a price or a report stands behind them."""
        budget = self.budget
        if budget.billed or (self.price and self.price.is_free):
            return True
        return self.price is not None and not (budget.silent and budget.silent == budget.calls)

    def status(self, share: float | None = None) -> str:
        """A short text: what was spent, the expected total if `share` of the run is done, and the calls in flight."""
        if self._knows_dollars:
            in_all = f" of about {self.budget.spent / share:.2f}" if share else ""
            spent = f"{self.budget.spent:.2f}{in_all} USD"
        elif self.budget.silent == self.budget.calls > 0:
            spent = "usage not reported"
        else:
            spent = f"{tokens_in_all(self.budget.usage):.0f} tokens"
        waits = f", waiting {self.pace.paused():.0f} s" if self.pace.paused() > 1 else ""
        return f"{spent}, {self.pace.in_flight} in flight{waits}"

    def summary(self) -> str:
        """A short text about the usage of the run; empty if nothing was asked.

        What the server did not report is never a number: an answer without usage has neither tokens nor dollars.
        """
        budget = self.budget
        if not budget.requests:
            return ""
        told = [progress.plural(budget.requests, "request")]
        if tokens := tokens_in_all(budget.usage):
            told.append(f"{tokens:.0f} tokens")
        silent = 0 if self.price and self.price.is_free else budget.silent
        if budget.spent or (budget.calls and self._knows_dollars):
            unpriced = self.price is None and budget.billed < budget.calls
            bound = "" if not (silent or unpriced) else "at least " if self.config.max_cost is None else "at most "
            told.append(f"{bound}{budget.spent:.4f} USD")
        if silent:
            of = f" for {silent} of {budget.calls} answers" if silent < budget.calls else ""
            told.append(f"the server did not report usage{of}")
        return ", ".join(told)

    def redacted(self, text: str) -> str:
        """A server's text in one line, without the key and without the user and password in the URL."""
        user, _, _ = urlsplit(self.base_url).netloc.rpartition("@")
        text = text.replace(f"{user}@", "") if user else text
        return " ".join(self._without_key(text).split())

    def _without_key(self, value: Any) -> Any:
        """The JSON value with the key removed from its texts."""
        if len(self._key) < MIN_KEY_LENGTH:
            return value
        if isinstance(value, str):
            return value.replace(self._key, "[key]")
        if isinstance(value, list):
            return [self._without_key(one) for one in value]
        return {name: self._without_key(one) for name, one in value.items()} if isinstance(value, dict) else value

    def without_key(self, content: bytes) -> bytes:
        """The bytes that a server sent, with the key removed. Keys shorter than `MIN_KEY_LENGTH` are not removed."""
        return content.replace(self._key.encode(), b"[key]") if len(self._key) >= MIN_KEY_LENGTH else content

    async def post(
        self, path: str, body: Callable[[], bytes], estimate: Estimate, *, again: bool = False, key: str = ""
    ) -> Reply:
        """One call, tried until it is answered. `body` is called before every try. `key` is an idempotency key.

        A call with `again` takes precedence over new calls. Raises `Rejected` if the server rejects the request as
        invalid, `Refused` if a policy forbids it, `Unusable` if it is too large, `RecordFailed` if this call failed but
        may succeed another day, `UserError` if no call can succeed, and `Stopped` if the run is stopped.
        """
        reserved: float | None = await self.budget.reserve(estimate)
        used: dict[str, float] | None = None
        bill, cost = NO_BILL, 0.0

        async def unheard() -> None:
            nonlocal reserved
            if reserved is not None:
                lost, reserved = reserved, None
                self.budget.forfeit(lost)
            reserved = await self.budget.reserve(estimate)

        try:
            answer = await self._tried(path, body, estimate, again, key, unheard)
            used, bill = reported_tokens(answer), self.bill(answer)
        finally:
            if reserved is not None:
                cost = self.budget.settle(reserved, estimate, used, bill)
        return Reply(answer, self.with_cost(used, bill, cost))

    def bill(self, answer: Mapping[str, Any]) -> Bill:
        """What an answer says about its cost. If it does not name its service tier, the usual price may count too."""
        tier = answer.get("service_tier")
        if not isinstance(tier, str) or not tier:
            return Bill(reported_dollars(answer), ("", self.budget.tier))
        return Bill(reported_dollars(answer), ("" if tier in USUAL_TIERS else tier,))

    def with_cost(self, usage: dict[str, float], bill: Bill, dollars: float) -> dict[str, float]:
        """The usage with its cost, if the answer reported that, or if it reported all tokens and a price is known."""
        known = bill.dollars is not None or (self.price is not None and is_complete(usage))
        return {**usage, "cost": round(dollars, 9)} if known else usage

    async def _tried(
        self,
        path: str,
        body: Callable[[], bytes],
        estimate: Estimate,
        again: bool,
        key: str,
        unheard: Callable[[], Awaitable[None]],
    ) -> dict[str, Any]:
        """The answer to one call. `unheard` is awaited after a try that may have been charged but got no answer."""
        now = asyncio.get_running_loop().time
        tries = timed_out = broken = 0
        began = broke = now()
        expected = tokens_in_all(self.budget.expected(estimate))
        while True:
            tries += 1
            lost = by_itself = False
            ticket = await self.pace.enter(expected, again=again or tries > 1)
            used = 0.0
            try:
                answer = await self._sent(path, body(), key)
                used = tokens_in_all(reported_tokens(answer)) or expected
                self.pace.succeeded(ticket)
                self._answered = now()
                return answer
            except TimeoutError:
                self.pace.faltered()
                timed_out += 1
                failure = f"no answer within {self.config.timeout:g} s"
                wait = self._backoff(tries)
                over = timed_out >= TRIES_TIMED_OUT
                lost = True
            except BadStatus as error:
                self._heard = True
                wait, failure = self._after(error, ticket, tries), self._said(error)
                patience = MAX_SECONDS_RATE_LIMITED if error.status == 429 else 0.0
                over = tries >= TRIES and now() - max(began, self._answered) >= patience
                lost = error.status in GATEWAY_TIMEOUTS
                if error.status == 500:
                    broken, broke = broken + 1, broke if broken else now()
                    by_itself = broken >= TRIES_BROKEN and self._answered > broke
            except (NoAnswer, ValueError) as error:
                self.pace.faltered()
                failure = self.redacted(str(error))[:SHOWN]
                wait = self._backoff(tries)
                over = tries >= (TRIES if self._heard else TRIES_UNHEARD)
                lost = not isinstance(error, NoAnswer) or error.reached
            finally:
                self.pace.leave(ticket, used)
            if lost:
                await unheard()
            if by_itself:
                raise RecordFailed(f"{failure}, {broken} times")
            if over:
                raise self._given_up(f"{failure}, {tries} times")
            if wait >= REPORTED_WAIT and now() - self._told >= progress.REPORT_SECONDS:
                self._told = now()
                progress.note(f"{self.server}: {failure}; trying again")
            await self.stop_signal.sleep(wait)

    async def _sent(self, path: str, body: bytes, key: str) -> dict[str, Any]:
        self.budget.request()
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        async with asyncio.timeout(self.config.timeout):
            response = await self.transport.post(path, body, headers)
        self._heard = True
        for seconds in exhausted(response.headers):
            self.pace.pause(seconds)
        try:
            answer = self._without_key(loads(response.content))
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict) and answer.get("error") and not answer.get("choices"):
            raise ValueError(f"the answer is an error: {self.redacted(str(answer['error']))}")
        if not isinstance(answer, dict):
            if self.right:
                raise ValueError("the answer is not a JSON object")
            raise self._no_server()
        self.right, self._lost = True, 0
        return with_header_cost(answer, response.headers)

    async def managed(self, send: Callable[[], Awaitable[R]], way_out: str = "", *, within: float | None = None) -> R:
        """The result of `send`, which makes a request that is not a call of a model. It is tried until it is answered.

        Such requests are neither paced nor counted in the budget. Each try may take `within` seconds, or as long as a
        call if that is None. Use infinity if `send` watches the time itself. `send` raises `ValueError` if the answer
        is not JSON, and `Unreadable` if it is something else than expected. Raises `UserError`, with `way_out` at its
        end if the server rejected the request itself or its answer is unreadable, and `Stopped` if the run is stopped.
        """
        tries = 0
        while True:
            tries += 1
            wait = self._backoff(tries)
            try:
                with self.transport.translated():
                    async with asyncio.timeout(within or self.config.timeout):
                        result = await send()
                self._heard = True
                return result
            except BadStatus as error:
                self._heard = True
                failure = f"the server says {error.status}: {self._said(error)}"
                if not is_transient(error.status, error.code):
                    raise UserError(f"{self.name}: {failure}{way_out}") from None
                asked = retry_after(error.headers)
                wait = wait if asked is None else asked
                if asked is not None and asked >= REPORTED_WAIT:
                    progress.note(f"the server asks to wait {asked:.0f} s")
            except (NoAnswer, TimeoutError) as error:
                failure = self.redacted(str(error) or "no answer in time")[:SHOWN]
            except Unreadable as error:
                raise UserError(f"{self.name}: cannot read the answer of {self.server}: {error}{way_out}") from None
            except ValueError:
                raise self._no_server() from None
            if tries >= (TRIES if self._heard else TRIES_UNHEARD):
                raise self._unreachable(f"{failure}, {tries} times")
            await self.stop_signal.sleep(wait)

    def _after(self, error: BadStatus, ticket: Ticket, tries: int) -> float:
        """Seconds to wait after a transient error. Raises an exception for any other error."""
        status, code = error.status, self.redacted(error.code)
        said = self._said(error)
        if status == 429 and code != "insufficient_quota":
            wait = retry_after(error.headers)
            self.pace.rejected(ticket, self._backoff(tries) if wait is None else wait)
            return 0.0
        if status in (408, 409) or status >= 500:
            self.pace.faltered()
            wait = retry_after(error.headers)
            return self._backoff(tries) if wait is None else wait
        if status == 400 and (code in POLICY or is_policy_refusal(error.body)):
            raise Refused(f"{code or 'content_filter'}: {said}") from None
        if status == 413 or (status == 400 and (code == "context_length_exceeded" or "context length" in said.lower())):
            self._wrong += 1
            if self.right or self._wrong < MAX_FAILURES_IN_A_ROW:
                raise Unusable(f"the server says {status}: {said}") from None
        if status not in (400, 422) or (self._wrong >= MAX_FAILURES_IN_A_ROW and not self.right):
            raise UserError(f"{self.name}: the server says {status}: {said}{_way_out(status, self.server)}") from None
        raise Rejected(status, f"{error.param} {code} {said}".casefold(), said) from None

    def hopeless(self, rejected: Rejected) -> Exception:
        """The exception for a request that the server rejected as invalid.

        It concerns one record if other calls have been answered, and the run if all calls were rejected.
        """
        self._wrong += 1
        if self.right:
            return Unusable(str(rejected))
        if self._wrong >= MAX_FAILURES_IN_A_ROW:
            return UserError(f"{self.name}: {rejected}")
        return RecordFailed(str(rejected))

    def _given_up(self, failure: str) -> Exception:
        """The exception for a call that was tried too often.

        It concerns one record, or the run if the other calls fail too: then the server is down.
        """
        self._lost += 1
        if self._heard and self._lost < MAX_FAILURES_IN_A_ROW:
            return RecordFailed(failure)
        return self._unreachable(failure)

    def _unreachable(self, failure: str) -> UserError:
        if self._heard:
            return UserError(f"{self.name}: {self.server} no longer answers ({failure}); try again later")
        return UserError(
            f"{self.name}: {self.server} cannot be reached ({failure}); check --base-url or {BASE_URL.name}"
        )

    def _no_server(self) -> UserError:
        return UserError(
            f"{self.name}: {self.server} does not answer like an OpenAI server; "
            f"check --base-url or {BASE_URL.name}, which usually ends in /v1"
        )

    @staticmethod
    def _backoff(tries: int) -> float:
        return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (tries - 1)) * random.uniform(0.5, 1)

    def _said(self, error: BadStatus) -> str:
        return self.redacted(error.text)[:SHOWN]


def _way_out(status: int, server: str) -> str:
    """What the user can check, for the end of a message; empty if there is nothing."""
    if status == 401:
        return f"; check {API_KEY.name}"
    if status == 404 and not server.endswith("/v1"):
        return f"; check --base-url or {BASE_URL.name}, which usually ends in /v1"
    return ""


def _key() -> str:
    """The key, from the environment only. Raises `UserError` if it is missing or malformed; no message shows it."""
    key = API_KEY.value
    if not key:
        raise UserError(f"{API_KEY.name} is not set; export your key (any text, if the server needs no key)")
    if not re.fullmatch(r"[!-~]+", key):
        raise UserError(f"{API_KEY.name} contains spaces or characters that a key cannot have; set it again")
    return key


def _base_url(config: ServerConfig) -> str:
    return (config.base_url or BASE_URL.value).strip() or "https://api.openai.com/v1"


def address(config: ServerConfig) -> str:
    """The URL of the server without user, password and query, which may be secret.

    Raises `UserError` if it is not a valid URL. The message does not have these parts either.
    """
    url = _base_url(config)
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        right = right and url.isprintable() and " " not in url
    except ValueError:
        right = False
    if not right:
        shown = url.partition("?")[0].rpartition("@")[2]
        raise UserError(f"--base-url {shown}: must be a URL such as http://localhost:8000/v1")
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def is_policy_refusal(body: object) -> bool:
    """Whether the details of an error, which Azure nests, give a policy as the reason."""
    inner = body.get("innererror") if isinstance(body, dict) else None
    return isinstance(inner, dict) and inner.get("code") in POLICY


def is_transient(status: int, code: str) -> bool:
    """Whether an error is transient, so that the same request may be answered later."""
    return status in (408, 409) or status >= 500 or (status == 429 and code != "insufficient_quota")


def reported_tokens(answer: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of tokens that an answer reports, by kind; empty if it reports none.

    Some servers count reasoning tokens in the total only, or beside the answer's. They are charged like the answer, so
    they are added to it.
    """
    said = answer.get("usage")
    if not isinstance(said, dict):
        return {}
    prompt, answered, total = (_tokens(said.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    cached = _detail(said, "prompt_tokens_details", "cached_tokens")
    reasoning = _detail(said, "completion_tokens_details", "reasoning_tokens")
    if prompt is not None and answered is not None and total is not None:
        answered = max(answered, total - prompt)
    if answered is not None and reasoning and reasoning > answered:
        answered += reasoning
    found = {
        "prompt_tokens": prompt,
        "completion_tokens": answered,
        "cached_tokens": cached or None,
        "reasoning_tokens": reasoning or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _detail(usage: Mapping[str, Any], part: str, name: str) -> float | None:
    details = usage.get(part)
    return _tokens(details.get(name)) if isinstance(details, dict) else None


def tokens_in_all(usage: Mapping[str, float]) -> float:
    """The tokens of a usage. Cached tokens are a part of the prompt's, and reasoning tokens of the answer's."""
    return usage.get("prompt_tokens", 0.0) + usage.get("completion_tokens", 0.0)


def reported_dollars(answer: Mapping[str, Any]) -> float | None:
    """The cost in dollars that an answer reports, as OpenRouter's do; None if it reports no valid one.

    With a provider's key of your own, OpenRouter's cost is its fee, and the provider charges the rest.
    """
    said = answer.get("usage")
    if not isinstance(said, dict) or (cost := _dollars(said.get("cost"))) is None:
        return None
    details = said.get("cost_details")
    upstream = details.get("upstream_inference_cost") if isinstance(details, dict) and said.get("is_byok") else None
    return cost + (_dollars(upstream) or 0.0)


def with_header_cost(answer: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """The answer, with the cost that a LiteLLM proxy reports in a header, if it reports none itself."""
    text = headers.get(COST_HEADER, "")
    cost = _dollars(float(text)) if re.fullmatch(r"[0-9]{1,20}(\.[0-9]{0,40})?([eE][-+]?[0-9]{1,3})?", text) else None
    if cost is None or reported_dollars(answer) is not None:
        return answer
    usage = answer.get("usage")
    return {**answer, "usage": {**(usage if isinstance(usage, dict) else {}), "cost": cost}}


def _dollars(said: object) -> float | None:
    """A cost in dollars; None if the value is not a valid one."""
    right = isinstance(said, int | float) and not isinstance(said, bool) and 0 <= said < MOST_DOLLARS
    return float(cast(float, said)) if right else None


def _tokens(said: object) -> float | None:
    """A number of tokens; None if the value is not a valid one."""
    right = isinstance(said, int | float) and not isinstance(said, bool) and 0 <= said < MOST_TOKENS
    return cast(float, said) if right else None
