"""How many calls are under way at once. Nobody knows a server's limits beforehand, so they are found out.

As TCP does it (slow start, additive increase and multiplicative decrease: Chiu & Jain 1989, Jacobson 1988), on the
number of calls in flight. A call that a server turned away for its rate ends a round of growth; all that were on their
way at that moment belong to the same episode and cost the limit only one cut. What the server says of when to come back
is done to the letter, by all calls.

Some servers count calls a minute, however few are under way, and no number of them is right for that. Such a server
shows itself by turning away many of few at once; what it took between two episodes, and the time from the one to the
other, are its rate, at which calls then go one by one.
"""

import asyncio
import email.utils
import math
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..errors import Stopped

FIRST = 32
"""Calls in flight once the first, which goes alone, has shown that the server answers."""
GROWTH, GROWTH_OF_FEW = 0.05, 0.5
"""By which share of itself the limit grows in a round, after the first episode, and by how much at least; before it, it
doubles."""
CLEAN = 4
"""Answers in a row that show that the server makes no more faults than it usually does, and growth may go on."""
SATURATED = 0.8
"""The limit grows only while this share of it is used: room that nobody needed proves nothing."""
PROBE_AFTER, PROBE_PAUSES = 30.0, 20.0
"""Seconds until a rate that was learnt has grown by `GROWTH`; and pauses as long as the last, or rounds if they are
longer, until the level of the last episode is tried again. A try that fails costs a pause, so that trying costs no more
than a twentieth of the time."""
MANY = 0.25
"""Where more than this share of the calls under way is turned away at once, calls are counted by time."""
SPREAD_AT_FIRST, SPREAD = 2.0, 1.1
"""Calls go evenly, at most so many times as fast as they end: a server that counts by the second takes no bursts."""
DOUBT = 2
"""Calls that a server is thought to have taken beside those it took: a first rate, of few calls, is no exact one."""
LEAST_ALONE = 0.05
"""What a rate that was learnt is at least, of that of calls that go one after the other without a pause."""
LEAST = 0.9
"""What of itself a rate that was learnt keeps in an episode."""
RATE_GROWTH = 0.002
"""By which share of itself a rate that was learnt grows with a call, at most, and by `GROWTH` in `PROBE_AFTER` seconds;
the longer no call is turned away, the faster."""
DISBELIEF, FORGOTTEN = 0.4, 600.0
"""Where calls are turned away all the same at this share of the rate that was learnt first, it is not for their rate:
none is learnt for so many seconds, and the limit alone adapts."""
MINUTE = 60.0
INSTANT = 1e-6
"""Seconds that are not worth a timer."""


class Ticket(NamedTuple):
    """A call's leave to be under way: since when, and for how many tokens."""

    since: float
    tokens: float


class Bucket:
    """A fixed rate of so many a minute. In no minute there are more, since what may come at once is a second's worth.

    A call that is larger than that may come at once too, and all others make room for one so large from then on.
    """

    def __init__(self, per_minute: float, now: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._most = max(1.0, per_minute / MINUTE)
        self._now = now
        self._level, self._at = self._most, now()

    def wait(self, amount: float = 1.0) -> float:
        """Seconds until so much may go; not above zero if it may now."""
        rate = max(self._per_minute - self._most, self._per_minute / 2) / MINUTE
        now = self._now()
        self._most = max(self._most, min(amount, self._per_minute))
        self._level = min(self._most, self._level + (now - self._at) * rate)
        self._at = now
        return (min(amount, self._most) - self._level) / rate

    def take(self, amount: float) -> None:
        """Take some out; a negative amount gives back."""
        self._level -= amount


class Pace:
    """Lets calls go, up to `limit` at a time, which it learns; `most` is the largest it may become.

    `rpm` and `tpm` are fixed rates of requests and tokens a minute on top of it. `say` is told of pauses one notices.
    """

    def __init__(
        self,
        most: int,
        *,
        rpm: float | None = None,
        tpm: float | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.most = most
        self.limit = 1.0
        self.in_flight = 0
        self.turned_away = 0
        self._say = say
        self._requests = Bucket(rpm, self._loop.time) if rpm else None
        self._tokens = Bucket(tpm, self._loop.time) if tpm else None
        self._again: deque[tuple[asyncio.Future[Ticket], float]] = deque()
        self._new: deque[tuple[asyncio.Future[Ticket], float]] = deque()
        self._not_before = -math.inf
        self._episode = -math.inf
        self._at_episode = self._rejected = 0
        self._uncut, self._first, self._refuted = 1.0, False, False
        self._recovered = True
        self._let_go_since = self._turned_away_since = 0
        self._rate = self._first_rate = math.inf
        self._no_rate_until = -math.inf
        self._since = self._loop.time()
        self._rate_at = self._rate_since = self._since
        self._sent = self._taken = 0
        self._latency = 0.0
        self._next = -math.inf
        self._slow_start = True
        self._ceiling = self._probe_at = math.inf
        self._clean = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    async def enter(self, tokens: float = 0, *, again: bool = False) -> Ticket:
        """Wait for a turn; calls that go `again` come first. Raises `Stopped` when nothing new is to begin."""
        if self._stopped:
            raise Stopped
        turn: asyncio.Future[Ticket] = self._loop.create_future()
        (self._again if again else self._new).append((turn, tokens))
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self.leave(turn.result(), 0.0)
            raise

    def stop(self) -> None:
        """Let nobody go any more: whoever waits gets `Stopped`."""
        self._stopped = True
        for turn, _ in (*self._again, *self._new):
            if not turn.done():
                turn.set_exception(Stopped())

    def leave(self, ticket: Ticket, tokens: float) -> None:
        """A call has ended, however it did, and took so many tokens: what was reserved beyond them is given back."""
        self.in_flight -= 1
        if self._tokens:
            self._tokens.take(tokens - ticket.tokens)
        self._admit()

    def succeeded(self, ticket: Ticket) -> None:
        """The server answered. To be called before `leave`, as are the next two."""
        now = self._loop.time()
        took = now - ticket.since
        self._latency += (max(took, INSTANT) - self._latency) / (8 if self._latency else 1)
        self._clean += 1
        if self.limit < 2 and self._slow_start:
            self.limit = float(min(FIRST, self.most))
        if ticket.since < self._episode:
            return
        self._recover(ticket.since)
        if self._clean < min(int(self.limit), CLEAN):
            return
        if self._rate < math.inf:
            grown = min(RATE_GROWTH, GROWTH * (now - self._rate_at) / PROBE_AFTER)
            grown *= 1 + (now - self._rate_since) / PROBE_AFTER
            self._rate += grown * max(self._rate, 1 / self._latency)
            self._rate_at = now
        if self.in_flight < SATURATED * int(self.limit):
            return
        if now > self._probe_at:
            self._ceiling = self._probe_at = math.inf
        grown = self.limit + (1.0 if self._slow_start else max(GROWTH, GROWTH_OF_FEW / self.limit))
        self.limit = max(self.limit, min(grown, self.most, self._ceiling))

    def faltered(self) -> None:
        """The server made a fault: no reason to ask less of it, and none to ask more until it goes well again."""
        self._clean = 0

    def rejected(self, ticket: Ticket, seconds: float) -> None:
        """The server turned a call away for its rate and wants none for so many seconds."""
        now = self._loop.time()
        self.turned_away += 1
        self.pause(seconds)
        self._sent -= 1
        self._taken = self._sent
        if ticket.since >= self._episode:
            self._turned_away_since += 1
            drought = not self._recovered and 2 * self._turned_away_since >= self._let_go_since
            if not drought:
                self._uncut, self._at_episode, self._rejected = self.limit, self.in_flight, 0
                self._refuted = self.in_flight <= self._ceiling < math.inf
                self._first = self._slow_start and self.limit >= 2
                self._slow_start = self._slow_start and self.limit < 2
            self._recovered = False
            self._let_go_since = self._turned_away_since = 0
            self._episode = math.nextafter(now, math.inf)
            if drought:
                self.limit = 1.0
                return
        if self.limit == 1 < self._uncut:
            return
        self._rejected += 1
        accepted = self._at_episode - self._rejected
        self.limit = max(1.0, self._at_episode / 2, math.ceil((1 - 2 * GROWTH) * accepted))
        # Calls that were turned away while none was under way say nothing of how many may be, and neither do those that
        # were where as many had gone well.
        self._ceiling = max(accepted, self.limit) if accepted and not self._refuted else math.inf
        self._probe_at = now + PROBE_PAUSES * max(seconds, self._latency)

    def _recover(self, since: float) -> None:
        """A call that went at this time is the first to be answered after an episode, which can now be understood."""
        if self._recovered:
            return
        self._recovered = True
        measured = (self._taken + (DOUBT if self._rate == math.inf else 0)) / max(since - self._since, 1e-3)
        self._sent -= self._taken
        self._since = since
        by_time = self._rejected > MANY * self._at_episode and not self._first
        bound = self._rate < math.inf and self._at_episode < SATURATED * int(self._uncut)
        now = self._loop.time()
        if (by_time or bound) and now >= self._no_rate_until:
            self.limit, self._ceiling = self._uncut, math.inf
            least = 0.0 if self._rate == math.inf else self._rate * LEAST
            least = max(least, 1 / MINUTE, LEAST_ALONE / self._latency)
            if self._rate == math.inf:
                self._first_rate = max(measured, least)
            self._rate = max(min(measured, self._rate), least)
            self._rate_at = self._rate_since = now
            if self._rate < DISBELIEF * self._first_rate:
                self._rate, self._no_rate_until = math.inf, now + FORGOTTEN
        elif self.limit == 1:
            self.limit = max(1.0, self._uncut / 2)

    def pause(self, seconds: float) -> None:
        """Let nobody go for so many seconds."""
        until = self._loop.time() + seconds
        if until > self._not_before:
            if seconds >= 5 and until > self._not_before + 1:
                self._say(f"the server asks to wait {seconds:.0f} s")
            self._not_before = until

    def paused(self) -> float:
        """For how many seconds nobody will be let go."""
        return max(0.0, self._not_before - self._loop.time())

    def _admit(self) -> None:
        while not self._stopped and (self._again or self._new) and self.in_flight < int(self.limit):
            queue = self._again or self._new
            turn, tokens = queue[0]
            if turn.done():
                queue.popleft()
                continue
            wait = max(
                self.paused(),
                self._next - self._loop.time(),
                self._requests.wait() if self._requests else 0.0,
                self._tokens.wait(tokens) if self._tokens else 0.0,
            )
            if wait > INSTANT:
                self._later(wait)
                return
            queue.popleft()
            self.in_flight += 1
            self._sent += 1
            self._let_go_since += 1
            spread = SPREAD_AT_FIRST if self._slow_start else SPREAD
            gap = max(1 / self._rate, self._latency / (spread * self.limit))
            self._next = max(self._next, self._loop.time() - gap) + gap
            if self._requests:
                self._requests.take(1)
            if self._tokens:
                self._tokens.take(tokens)
            turn.set_result(Ticket(self._loop.time(), tokens))

    def _later(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._admit)


_LENGTHS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def seconds(text: str, *, clock: Callable[[], float] = time.time) -> float | None:
    """A length of time as headers give it: ``20``, ``1.5``, ``6m0s``, ``20ms``, a date; None if it is none of them.

    A number that can only be a point in time, in seconds since 1970, is one.
    """
    text = text.strip().lower()
    try:
        if re.fullmatch(rf"(?:{_SPAN.pattern})+", text):
            found = sum(float(amount) * _LENGTHS[unit] for amount, unit in _SPAN.findall(text))
        elif re.match("[a-z]", text) and (date := email.utils.parsedate_tz(text)):
            found = email.utils.mktime_tz(date) - clock()
        else:
            found = float(text)
            found = found - clock() if found > 1e9 else found
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return max(0.0, found) if math.isfinite(found) else None


def asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """For how many seconds a server that turned a call away wants none; None if it does not say."""
    if (wait := seconds(headers.get("retry-after-ms", ""))) is not None:
        return wait / 1000
    if (wait := seconds(headers.get("retry-after", ""))) is not None:
        return wait
    waits = exhausted(headers)
    return max(waits) if waits else None


def exhausted(headers: Mapping[str, str]) -> list[float]:
    """The seconds until each allowance is there again of which a server says that nothing is left."""
    found = []
    for what in ("requests", "tokens"):
        left, reset = headers.get(f"x-ratelimit-remaining-{what}", ""), headers.get(f"x-ratelimit-reset-{what}", "")
        if left.strip() == "0" and (wait := seconds(reset)) is not None:
            found.append(wait)
    return found
