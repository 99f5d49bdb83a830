"""A client of one OpenAI-compatible server: every request is paced, retried, and counted in the budget."""

import asyncio
import base64
import math
import os
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from .. import progress
from ..configs import API_KEY, BASE_URL, ServerConfig
from ..errors import Exhausted, Inconclusive, RecordFailed, Refused, Unusable, UserError
from ..flow import StopSignal
from ..streams import jsonlines
from .answers import loads
from .budget import NO_BILL, Bill, Budget, Estimate, is_complete
from .dialects import is_local, provider, right_address
from .faults import LONGEST_PAUSE, Fault, ServerError, alike, error_in, fault_of, hint, is_about_key
from .pace import Gate, Ticket
from .picture_tokens import family_rule
from .prices import Price, price_of, read_prices
from .rate import LearnedRate
from .retry_after import exhausted
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
MAX_AFTER_ANSWERS = 20
"""After this number of calls that failed in the same way, with none answered between them, all are expected to fail."""
UNHEARD_SECONDS = 20.0
"""Seconds without a first answer after which a message says how long it is waited for."""
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
_OF_IMAGES = {
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "input_tokens_details": "prompt_tokens_details",
}
"""Names in the usage of the Images API, and those of chat completions."""
TRIES_OF_A_FILE = 5
"""Maximum tries to fetch a file that an answer names: some seconds. It has been paid for."""
NOT_FETCHED = "the file of the answer cannot be fetched"
LONGEST_NAME = 80
"""Characters of the name of a model that a server gives."""
SHOWN = 500
"""Maximum number of characters of a server's message that are shown."""


class Reply(NamedTuple):
    """A server's answer as JSON, and its usage: tokens, and `cost` in dollars if it is known.

    `asked` says how it was asked for; see `Judgement`.
    """

    body: dict[str, Any]
    usage: dict[str, float]
    asked: Mapping[str, str] = MappingProxyType({})


class Rejected(Exception):
    """The server rejected a request as invalid, perhaps because of a parameter that it does not know."""

    def __init__(self, error: ServerError) -> None:
        super().__init__(f"the server says {error.status}: {error.message[:SHOWN]}")
        self.error, self.about = error, error.about


class NotThere(UserError):
    """The server does not know the address of a request: it lacks a part of the protocol."""


class Suspicion:
    """Counts faults with the same cause that different records get in a row. Another cause, or an answer, ends the row.

    After `MAX_FAILURES_IN_A_ROW` of them it is clear that all records will get it. Once a record was answered it takes
    `MAX_AFTER_ANSWERS`, because neighbours may share what is wrong with them.
    """

    def __init__(self) -> None:
        self._cause = ""
        self._subjects: set[object] = set()
        self._most = MAX_FAILURES_IN_A_ROW

    def again(self, cause: str, subject: str) -> bool:
        """Whether so many records in a row got a fault with this `cause` that all will get it.

        `subject` is equal for the calls about one record; each call without one counts.
        """
        if cause != self._cause:
            self._cause, self._subjects = cause, set()
        self._subjects.add(subject or object())
        return len(self._subjects) >= self._most

    def clear(self) -> None:
        """A record was answered."""
        self._cause, self._subjects, self._most = "", set(), MAX_AFTER_ANSWERS


class _Reservation:
    """The part of the budget that is kept for one call. `dollars` is None while none is kept."""

    def __init__(self, budget: Budget, estimate: Estimate) -> None:
        self._budget, self.estimate = budget, estimate
        self.dollars: float | None = None

    async def make(self) -> None:
        """Wait until the budget has room for the call. Raises `Stopped` if it will have none."""
        self.dollars = await self._budget.reserve(self.estimate)

    def lose(self) -> None:
        """Count it as spent: the server may have charged for the call."""
        if self.dollars is not None:
            lost, self.dollars = self.dollars, None
            self._budget.forfeit(lost)


class Engine:
    """A server and the calls of a run to it. Requests can be sent only within `running`, which needs the key.

    `tier` is the service tier that the requests ask for, and `cheaper` says how they cost less, for a message. Raises
    `UserError` if no model is named, the URL or the prices are invalid, or the cost is limited and no price is known.
    """

    def __init__(
        self, config: ServerConfig, model: str, *, option: str, tier: str = "", cheaper: str = "lower --max-tokens"
    ) -> None:
        if not model:
            raise UserError(f"{option}: name the model, as in {option.partition(' ')[0]} openai:gpt-4o")
        self.config, self.model = config, model
        self._headers, self._hidden = _headers(config)
        self.name = f"openai:{model}"
        self.base_url = _base_url(config)
        self.server = address(config)
        self._secrets = self._hide("")
        self.known_as = config.server_name or self.server
        """What identifies the server in records: its address, or --server-name."""
        self.price: Price | None = price_of(model, read_prices(config.prices), self.server)
        self.picture_rule = (self.price and self.price.picture) or family_rule(model)
        if config.max_cost is not None and self.price is None:
            raise UserError(
                f"--max-cost {config.max_cost:g}: the price of {model} is unknown; "
                "set it with --prices FILE; vpctl annotate --help describes the file"
            )
        tier = "" if tier in USUAL_TIERS else tier
        self.budget = Budget(
            max_cost=config.max_cost, max_requests=config.max_requests, price=self.price, tier=tier, cheaper=cheaper
        )
        self.right = False
        """Whether the server has answered."""
        self.refused = False
        """Whether it has refused a request because of a policy."""
        self.wrong = ""
        """What the server said when it last rejected a request in every form, and what to change."""
        self.careful = False
        """Whether one call follows the other until `pace.trust` is called: some first answers cannot be used."""
        self._heard = False
        self._lost = self._unfetched = 0
        self._suspicion = Suspicion()
        self._busy_told = False
        self._answered = 0.0
        self._told = -math.inf

    def check(self) -> None:
        """Raise `UserError` if the API key is missing or malformed."""
        _key(self.server)

    @asynccontextmanager
    async def running(self, stop_signal: StopSignal) -> AsyncIterator[None]:
        """A context in which requests can be sent, within the configured limits, until `stop_signal` is set."""
        key = _key(self.server)
        self._secrets = self._hide(key)
        self.stop_signal = stop_signal
        self.budget.begin(stop_signal)
        self.pace = Gate(
            CongestionWindow(self.config.concurrency, patience=self.config.timeout),
            LearnedRate(asyncio.get_running_loop().time()),
            rpm=self.config.rpm,
            tpm=self.config.tpm,
            say=progress.note,
        )
        self.pace.window.careful = self.careful
        stop_signal.on_stop(self.pace.stop)
        from .transport import Transport

        self.transport = Transport(self.base_url, key, self._headers)
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
    def latency(self) -> float:
        """The mean time of a call in seconds."""
        return self.pace.latency

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

    def asked(self, body: Mapping[str, Any] | None = None, *, at: float | None = None) -> dict[str, str]:
        """Which server was asked, the model that it names in the `body` of its answer, and when: `at`, or now."""
        served = (body or {}).get("model")
        model = self.redacted(served)[:LONGEST_NAME] if isinstance(served, str) else ""
        second = _in_utc(int(time.time() if at is None else at))
        return {"server": self.known_as, **({"model": model} if model else {}), "time": second}

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
        """The JSON value with the key, and other secrets, removed from its texts."""
        if not self._secrets:
            return value
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, "[key]")
            return value
        if isinstance(value, list):
            return [self._without_key(one) for one in value]
        return {name: self._without_key(one) for name, one in value.items()} if isinstance(value, dict) else value

    def without_key(self, content: bytes) -> bytes:
        """The bytes that a server sent, with the key removed. Keys shorter than `MIN_KEY_LENGTH` are not removed."""
        for secret in self._secrets:
            content = content.replace(secret.encode(), b"[key]")
        return content

    def _hide(self, key: str) -> list[str]:
        """What must not come out: the key, secret headers, and the password in the URL, also as it is sent."""
        user, _, password = urlsplit(self.base_url).netloc.rpartition("@")[0].partition(":")
        sent = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode() if password else ""
        secrets = (key, *self._hidden, password, unquote(password), sent)
        return [one for one in dict.fromkeys(secrets) if len(one) >= MIN_KEY_LENGTH]

    async def post(
        self,
        path: str,
        body: Callable[[], bytes],
        estimate: Estimate,
        *,
        again: bool = False,
        key: str = "",
        subject: str = "",
        fragile: bool = False,
        place: ExitStack | None = None,
    ) -> Reply:
        """One call, tried until it is answered. `body` is called before every try. `key` is an idempotency key.

        `subject` is equal for the calls about one record. A `fragile` call is not tried again after status 500. With a
        `place`, an answered call counts as in flight until that is closed.

        A call with `again` takes precedence over new calls. Raises `Rejected` if the server rejects the request as
        invalid, `Refused` if a policy forbids it, `Inconclusive` if it is too large, `RecordFailed` if this call failed
        but may succeed another day, `Exhausted` if the account is used up, `UserError` if no call can succeed, and
        `Stopped` if the run is stopped.
        """
        reservation = _Reservation(self.budget, estimate)
        await reservation.make()
        used: dict[str, float] | None = None
        bill, cost = NO_BILL, 0.0
        try:
            answer = await self._tried(path, body, reservation, again, key, subject, fragile, place)
            used, bill = reported_tokens(answer), self.bill(answer)
        finally:
            if reservation.dollars is not None:
                cost = self.budget.settle(reservation.dollars, estimate, used, bill)
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
        reservation: "_Reservation",
        again: bool,
        key: str,
        subject: str,
        fragile: bool,
        place: ExitStack | None,
    ) -> dict[str, Any]:
        """The answer to one call. A try that may have been charged but got no answer loses its reservation."""
        now = asyncio.get_running_loop().time
        tries = timed_out = broken = 0
        began = broke = now()
        expected = tokens_in_all(self.budget.expected(reservation.estimate))
        while True:
            tries += 1
            lost = by_itself = answered = False
            ticket = await self.pace.enter(expected, again=again or tries > 1)
            used = 0.0
            try:
                answer = await self._sent(path, body(), key)
                used = tokens_in_all(reported_tokens(answer)) or expected
                self.pace.succeeded(ticket)
                self._answered = now()
                answered = True
                return answer
            except TimeoutError:
                self.pace.timed_out(ticket)
                timed_out += 1
                failure = f"no answer within {self.config.timeout:g} s"
                wait = self._backoff(tries)
                over = timed_out >= (TRIES_TIMED_OUT if self._heard else 1)
                lost = True
            except BadStatus as bad:
                self._heard = True
                error = self._shown(bad.error)
                if lost := bad.charged or error.status in GATEWAY_TIMEOUTS:
                    reservation.lose()  # also if the error ends the call
                wait, failure = self._after(error, ticket, tries, subject), error.message
                patience = MAX_SECONDS_RATE_LIMITED if error.status == 429 else 0.0
                over = tries >= TRIES and now() - max(began, self._answered) >= patience
                if error.status == 500:
                    broken, broke = broken + 1, broke if broken else now()
                    by_itself = broken >= TRIES_BROKEN and (self._answered > broke or not self.right)
                    if fragile:
                        raise RecordFailed(failure) from None
                    if by_itself and not self.right and self._suspicion.again(alike(error), subject):
                        raise UserError(self._wrong_for_all(error)) from None
            except (NoAnswer, ValueError) as error:
                self.pace.faltered()
                failure = self.redacted(str(error))[:SHOWN]
                wait = self._backoff(tries)
                over = tries >= (TRIES if self._heard else TRIES_UNHEARD)
                lost = not isinstance(error, NoAnswer) or error.reached
            finally:
                if answered and place:
                    place.callback(self.pace.leave, ticket, used)
                else:
                    self.pace.leave(ticket, used)
            if lost:
                reservation.lose()
                await reservation.make()
            if by_itself:
                raise RecordFailed(f"{failure}, {broken} times")
            if over:
                way = "; raise --timeout or lower --concurrency" if timed_out else ""
                raise self._given_up(failure + (f", {tries} times" if tries > 1 else "") + way)
            if wait >= REPORTED_WAIT and now() - self._told >= progress.REPORT_SECONDS:
                self._told = now()
                progress.note(f"{self.server}: {failure}; trying again")
            await self.stop_signal.sleep(wait)

    async def _sent(self, path: str, body: bytes, key: str) -> dict[str, Any]:
        self.budget.request()
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        patient = None if self._heard else asyncio.get_running_loop().call_later(UNHEARD_SECONDS, self._say_waiting)
        try:
            async with asyncio.timeout(self.config.timeout):
                response = await self.transport.post(path, body, headers)
        finally:
            if patient:
                patient.cancel()
        self._heard = True
        for seconds in exhausted(response.headers):
            if seconds <= LONGEST_PAUSE:  # else the next rejection tells whether it is the end of the run
                self.pace.pause(seconds)
        try:
            answer = self._without_key(loads(response.content))
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict) and (wrong := _error_inside(answer)):
            raise BadStatus(wrong, charged=True)
        if not isinstance(answer, dict):
            if self.right:
                raise ValueError("the answer is not a JSON object")
            raise self._no_server()
        self.right, self._lost = True, 0
        self._suspicion.clear()
        return with_header_cost(answer, response.headers)

    async def fetch(self, url: str) -> bytes:
        """The file that an answer names. It is fetched also after a stop: it has been paid for.

        Raises `Unusable` if no try can succeed, `RecordFailed` if one may another day, and `UserError` if several files
        in a row could not be fetched. No message has the URL, which may hold a secret; the last one names its host.
        """
        tries = timed_out = 0
        while True:
            tries += 1
            try:
                async with asyncio.timeout(self.config.timeout):
                    content = await self.transport.get(url)
                self._unfetched = 0
                return content
            except BadStatus as bad:
                passes = fault_of(bad.error) in (Fault.BUSY, Fault.BROKEN, Fault.EXHAUSTED)
                failure = f"its server says {bad.error.status}"
            except TimeoutError:
                timed_out += 1
                passes, failure = True, f"no answer within {self.config.timeout:g} s"
            except NoAnswer as error:
                passes, failure = not error.final, self.redacted(str(error))[:SHOWN]
            if not passes:
                raise Unusable(f"{NOT_FETCHED}: {failure}")
            if tries >= TRIES_OF_A_FILE or timed_out >= TRIES_TIMED_OUT:
                raise self._not_fetched(url, f"{failure}, {tries} times")
            await asyncio.sleep(self._backoff(tries))

    def _not_fetched(self, url: str, failure: str) -> Exception:
        """The exception for a file whose server failed too often.

        It concerns one record, or the run if several in a row got it: each of these files has been paid for.
        """
        self._unfetched += 1
        if self._unfetched < MAX_FAILURES_IN_A_ROW:
            return RecordFailed(f"{NOT_FETCHED}: {failure}")
        self.pace.stop()  # before the place of this call is free
        host = self.redacted(urlsplit(url).netloc.rpartition("@")[2])[:LONGEST_NAME]
        text = f"the files of the answers cannot be fetched from {host} ({failure}); try again later"
        return UserError(f"{self.name}: {text}")

    async def managed(self, send: Callable[[], Awaitable[R]], way_out: str = "", *, within: float | None = None) -> R:
        """The result of `send`, which makes a request that is not a call of a model. It is tried until it is answered.

        Such requests are neither paced nor counted in the budget. Each try may take `within` seconds, or as long as a
        call if that is None. Use infinity if `send` watches the time itself. `send` raises `ValueError` if the answer
        is not JSON, and `Unreadable` if it is something else than expected. Raises `UserError`, with `way_out` at its
        end if the server rejected the request itself or its answer is unreadable (`NotThere` if it does not know the
        address), and `Stopped` if the run is stopped.
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
            except BadStatus as bad:
                self._heard = True
                error = self._shown(bad.error)
                failure = f"the server says {error.status}: {error.message}"
                if fault_of(error) not in (Fault.BUSY, Fault.BROKEN):
                    kind = NotThere if error.status in (404, 405, 501) else UserError
                    raise kind(f"{self.name}: {failure}{way_out}") from None
                wait = error.wait or wait
                if error.wait is not None and error.wait >= REPORTED_WAIT:
                    progress.note(f"the server asks to wait {error.wait:.0f} s")
            except (NoAnswer, TimeoutError) as error:
                failure = self.redacted(str(error) or "no answer in time")[:SHOWN]
            except Unreadable as error:
                raise UserError(f"{self.name}: cannot read the answer of {self.server}: {error}{way_out}") from None
            except ValueError:
                raise self._no_server() from None
            if tries >= (TRIES if self._heard else TRIES_UNHEARD):
                raise self._unreachable(f"{failure}, {tries} times")
            await self.stop_signal.sleep(wait)

    def _after(self, error: ServerError, ticket: Ticket, tries: int, subject: str) -> float:
        """Seconds to wait after an error that passes. Raises an exception for any other error."""
        says = f"{self.name}: the server says {error.status}: {error.message}"
        wait = error.wait or self._backoff(tries)  # a wait of 0 would ask without end
        match fault_of(error):
            case Fault.BUSY:
                if not self._busy_told:
                    self._busy_told = True
                    progress.note(f"{self.server}: too many requests for now: {error.message}")
                self.pace.rejected(ticket, wait)
                return 0.0
            case Fault.BROKEN:
                self.pace.faltered()
                return wait
            case Fault.REFUSED:
                self.refused = True
                raise Refused(f"{error.policy}: {error.message}") from None
            case Fault.EXHAUSTED:
                raise Exhausted(f"{says}; run the same command again when the server allows it") from None
            case Fault.TOO_LARGE:
                raise self.hopeless(Rejected(error), subject) from None
            case Fault.WRONG:
                raise Rejected(error) from None
            case Fault.DENIED:
                raise UserError(f"{says}{_way_out(error, self.server)}") from None

    def hopeless(self, rejected: Rejected, subject: str = "") -> Exception:
        """The exception for a request that the server rejected as invalid, in every form.

        It concerns one record, or the run if several records in a row were rejected for the same reason.
        """
        self.wrong = self._wrong_for_all(rejected.error)
        if self._suspicion.again(alike(rejected.error), subject):
            return UserError(self.wrong)
        return Inconclusive(str(rejected))

    def _wrong_for_all(self, error: ServerError) -> str:
        way = hint(error.about)
        return f"{self.name}: the server says {error.status}: {error.message}{way and '; '}{way}"

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
        how = "does not answer" if failure.startswith("no answer") else "cannot be reached"
        return UserError(f"{self.name}: {self.server} {how} ({failure}); check --base-url or {BASE_URL.name}")

    def _no_server(self) -> UserError:
        return UserError(
            f"{self.name}: {self.server} does not answer like an OpenAI server; "
            f"check --base-url or {BASE_URL.name}, which usually ends in /v1"
        )

    @staticmethod
    def _backoff(tries: int) -> float:
        return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (tries - 1)) * random.uniform(0.5, 1)

    def _shown(self, error: ServerError) -> ServerError:
        """An error without the key, whose message is not too long."""
        codes = frozenset(map(self.redacted, error.codes))
        message = self.redacted(error.message)
        return error._replace(message=message if len(message) <= SHOWN else f"{message[:SHOWN]}…", codes=codes)

    def _say_waiting(self) -> None:
        progress.note(
            f"{self.server} has not answered for {UNHEARD_SECONDS:.0f} s; waiting for up to {self.config.timeout:g} s "
            "(--timeout)"
        )


@lru_cache(1)
def _in_utc(second: int) -> str:
    """A time in seconds since 1970, as text. Many answers come in one second."""
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _error_inside(answer: Mapping[str, Any]) -> ServerError | None:
    """The error that a server sends with the status of a success: in place of the answer, or of its first choice."""
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = first.get("message")
    if isinstance(message, dict) and message.get("content"):
        return None
    found = first.get("error") or answer.get("error")
    if not found:
        return None
    code = found.get("code") if isinstance(found, dict) else None
    number = int(code) if isinstance(code, int) or (isinstance(code, str) and re.fullmatch(r"[45]\d\d", code)) else 0
    status = number if 400 <= number < 600 else 502
    return error_in(status, {}, {"error": found})


def _way_out(error: ServerError, server: str) -> str:
    """What the user can check, for the end of a message; empty if there is nothing."""
    if error.status == 401 or is_about_key(error):
        name = _key_variable(server)
        return f"; check {name}" if os.environ.get(name, "").strip() else f"; {name} is not set, so no key was sent"
    if way := hint(error.about):
        return f"; {way}"
    if error.status == 404 and not server.endswith("/v1"):
        return f"; check --base-url or {BASE_URL.name}, which usually ends in /v1"
    return ""


def _key_variable(server: str) -> str:
    """The name of the variable with the key of a server: that of its provider if it is set."""
    own = provider(server).variable
    return own if os.environ.get(own, "").strip() or not API_KEY.value else API_KEY.name


def _key(server: str) -> str:
    """The key, from the environment only. Raises `UserError` if it is missing or malformed; no message shows it.

    A server on this machine usually needs none.
    """
    name = _key_variable(server)
    key = os.environ.get(name, "").strip()
    if not key and is_local(server):
        return "none"
    if not key:
        raise UserError(f"{name} is not set; export your key (any text, if the server needs no key)")
    if not re.fullmatch(r"[!-~]+", key):
        raise UserError(f"{name} contains spaces or characters that a key cannot have; set it again")
    return key


_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


_VARIABLE = re.compile(r"(?<![^ ])\$(\w+)$")
"""A variable that is the value of a header, or the last word of it, as in ``Bearer $TOKEN``."""
_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|password", re.IGNORECASE)


def _headers(config: ServerConfig) -> tuple[dict[str, str], list[str]]:
    """The headers of --header, and the secrets among their values: of variables, and of headers named like a secret.

    ``$NAME`` at the end of a value is that of an environment variable. Raises `UserError` if one is not valid. The
    message does not show its value.
    """
    found: dict[str, str] = {}
    secrets: list[str] = []
    for header in config.header or ():
        name, equals, value = header.partition("=")
        is_secret = bool(_VARIABLE.search(value) or _SECRET_HEADER.search(name))
        if not equals or not _HEADER.fullmatch(name):
            raise UserError(f"--header {name[:40]}: must be NAME=VALUE, such as X-Team=vision")
        if is_secret and (variable := _VARIABLE.search(value)):
            own = os.environ.get(variable[1], "").strip()
            if not own:
                raise UserError(f"--header {name}: the environment variable {variable[1]} is not set")
            value = value[: variable.start()] + own
        if not value.isascii() or not value.isprintable():
            raise UserError(f"--header {name}: its value has characters that a header cannot have")
        found[name] = value
        secrets += [value, value.rpartition(" ")[2]] if is_secret else []
    return found, secrets


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
        shown = url.rpartition("@")[2].partition("?")[0]
        raise UserError(f"--base-url {shown}: must be a URL such as http://localhost:8000/v1")
    if instead := right_address(parts):
        raise UserError(
            f"--base-url {url.rpartition('@')[2].partition('?')[0]}: use {instead}, which speaks this protocol"
        )
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2].lower(), parts.path.rstrip("/"), "", ""))


def read_extra(text: str, *, such_as: str) -> dict[str, Any]:
    """The keys of --extra. Raises `UserError` if the text is no JSON object; the message has one, `such_as`."""
    try:
        found = jsonlines.parse(text.encode(), "--extra") if text else {}
    except UserError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"--extra {text}: must be a JSON object such as '{such_as}'")
    return found


def reported_tokens(answer: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of tokens that an answer reports, by kind; empty if it reports none.

    Some servers count reasoning tokens in the total only, or beside the answer's. They are charged like the answer, so
    they are added to it.
    """
    said = answer.get("usage")
    if not isinstance(said, dict):
        return {}
    if "prompt_tokens" not in said and "input_tokens" in said:  # as answers of the Images API have it
        said = {_OF_IMAGES.get(name, name): value for name, value in said.items()}
    prompt, answered, total = (_tokens(said.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    cached = _detail(said, "prompt_tokens_details", "cached_tokens")
    reasoning = _detail(said, "completion_tokens_details", "reasoning_tokens")
    if prompt is not None and answered is not None and total is not None:
        answered = max(answered, total - prompt)
    if answered is not None and reasoning and reasoning > answered:
        answered += reasoning
    found = {
        "prompt_tokens": prompt or None,  # LitServe reports 0 where the model counts nothing
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
