"""When each call may be sent. A server's limits are not known beforehand, so they are learned from its answers.

Three classes share the work. `CongestionWindow` (`window`) bounds the calls in flight. `LearnedRate` (`rate`) bounds
calls per second, for servers that count calls by time. `Gate`, in this module, holds the calls that wait, and sends
each as soon as the window, the rate, the fixed limits and all pauses allow it.

States of the window:

state           what is true in it                     event → next state
--------------  -------------------------------------  -----------------------------------------------------------------
first call      one call is in flight, to see whether  answer that can be used → slow start
                the server answers                     rejection → episode
slow start      the window doubles in every round      rejection → episode
growing         additive increase: 5 % in a round      rejection → episode
                                                       window reaches the ceiling → at the ceiling
at the ceiling  the window stays at the level that     20 pauses (or rounds, if longer) are over → growing, no ceiling
                the last episode left as accepted      rejection → episode
episode         a call was rejected: the window is     rejection of a call sent before the episode → stays, larger cut
(recovering)    cut, the ceiling is set, all calls     answer to a call sent after its start → growing
                pause as long as the server asks       rejection of one of the first two calls sent after → drought
                                                       rejection of a later call sent after → a new episode
drought         one call is in flight; the server      rejection → stays, and all calls pause again
(recovering)    rejects nearly all                     answer → growing, from half of the window before the episode

States of the rate. It is corrected, or learned, only when an episode or a drought ends with an answer:

state           what is true in it                     event → next state
--------------  -------------------------------------  -----------------------------------------------------------------
no rate         the window alone adapts                end of an episode in which more than a quarter of the calls in
                                                       flight was rejected → paced by a rate, window as before the cut
paced by        calls are sent at even intervals; the  end of an episode like that, or with room left in the window →
a rate          rate grows slowly, the window too      stays, rate corrected downward, window as before the cut
                                                       corrected rate is below 40 % of the first → disbelieved
disbelieved     calls are not rejected because of      600 s are over → no rate
                their rate; the window alone adapts

An episode that ends slow start teaches no rate. In every state a fault of the server (5xx) stops growth until four
calls in a row are answered. A time-out halves the window: a server with one slot, such as one on a laptop, rejects no
call and lets all of them wait. So the window does not grow either while answers take more than a quarter of the
time-out.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ..errors import Stopped
from .rate import LearnedRate
from .window import CongestionWindow

SPREAD_IN_SLOW_START, SPREAD = 2.0, 1.1
"""Calls are spread over a round, at most this many times as fast as they end: a server that counts by the second
accepts no bursts."""
SMOOTHING = 8
"""The mean latency is an exponential moving average with weight 1/8 for the newest call, as TCP's round-trip time."""
NOTICEABLE_PAUSE = 5.0
"""Seconds; longer pauses are reported."""
SECONDS_PER_MINUTE = 60.0
INSTANT = 1e-6
"""Seconds; a shorter wait is not worth a timer, and no call takes less."""
TOGETHER = 0.005
"""Seconds. Calls that are due within this time are sent together: each turn of the event loop has its cost."""


class Ticket(NamedTuple):
    """Permission for one call: when it was sent, and the LLM tokens that were reserved for it."""

    sent_at: float
    tokens: float


class TokenBucket:
    """A fixed limit of so many units per minute, requests or LLM tokens. No minute has more, whatever its start.

    It holds one second's worth, so bursts are short. A single amount above that is let through too, and enlarges the
    bucket for good.
    """

    def __init__(self, per_minute: float, now: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._capacity = max(1.0, per_minute / SECONDS_PER_MINUTE)
        self._now = now
        self._level, self._refilled_at = self._capacity, now()

    def wait(self, amount: float = 1.0) -> float:
        """Seconds until `amount` may be taken; 0 or less if it may be taken now."""
        rate = max(self._per_minute - self._capacity, self._per_minute / 2) / SECONDS_PER_MINUTE
        now = self._now()
        self._capacity = max(self._capacity, min(amount, self._per_minute))
        self._level = min(self._capacity, self._level + (now - self._refilled_at) * rate)
        self._refilled_at = now
        return (min(amount, self._capacity) - self._level) / rate

    def take(self, amount: float) -> None:
        """Take `amount` out. A negative amount is given back."""
        self._level -= amount


class Gate:
    """Lets waiting calls go, retries first, each as soon as it may. Those that may go within `TOGETHER` go at once.

    Without a `rate`, the window alone adapts to the server. `rpm` and `tpm` are fixed limits of requests and of LLM
    tokens per minute. `say` is called with a message at the start of a long pause. Needs a running event loop.
    """

    def __init__(
        self,
        window: CongestionWindow,
        rate: LearnedRate | None,
        *,
        rpm: float | None = None,
        tpm: float | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.window = window
        self.rate = rate
        self.rejections = 0
        self._say = say
        self._requests = TokenBucket(rpm, self._loop.time) if rpm else None
        self._tokens = TokenBucket(tpm, self._loop.time) if tpm else None
        self._retries: deque[tuple[asyncio.Future[Ticket], float]] = deque()
        self._new: deque[tuple[asyncio.Future[Ticket], float]] = deque()
        self.latency = 0.0
        """The mean time of a call in seconds; 0 before the first answer."""
        self._paused_until = self._next_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    @property
    def in_flight(self) -> int:
        """Calls that were sent and have not ended."""
        return self.window.in_flight

    async def enter(self, tokens: float = 0, *, again: bool = False) -> Ticket:
        """Wait until the call may be sent; a retry (`again`) goes before new calls. Raises `Stopped` after `stop`."""
        if self._stopped:
            raise Stopped
        turn: asyncio.Future[Ticket] = self._loop.create_future()
        (self._retries if again else self._new).append((turn, tokens))
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self.leave(turn.result(), 0.0)
            raise

    def stop(self) -> None:
        """Send no more calls: every call that waits gets `Stopped`."""
        self._stopped = True
        for turn, _ in (*self._retries, *self._new):
            if not turn.done():
                turn.set_exception(Stopped())

    def leave(self, ticket: Ticket, tokens: float) -> None:
        """A call has ended, with or without an answer, and used so many LLM tokens. The rest of its tokens is returned.

        Call `succeeded`, `faltered` or `rejected` before it.
        """
        self.window.ended()
        if self._tokens:
            self._tokens.take(tokens - ticket.tokens)
        self._admit()

    def succeeded(self, ticket: Ticket) -> None:
        """The server answered."""
        now = self._loop.time()
        took = max(now - ticket.sent_at, INSTANT)
        self.latency += (took - self.latency) / (SMOOTHING if self.latency else 1)
        self.window.answered(took)
        if ticket.sent_at < self.window.episode.start:
            return
        if self.window.recovering:
            by_time = self.rate and self.rate.learn(self.window.episode, ticket.sent_at, now, self.latency)
            self.window.recover(restore=bool(by_time))
        if self.window.steady:
            if self.rate:
                self.rate.grow(now, self.latency)
            self.window.grow(now, took)

    def trust(self) -> None:
        """An answer can be used. Before the first one of a careful engine, one call follows the other."""
        self.window.trust()
        self._admit()

    def timed_out(self, ticket: Ticket) -> None:
        """The server did not answer in time: it has more calls than it can answer."""
        self.window.timed_out(ticket.sent_at, self._loop.time())

    def faltered(self) -> None:
        """The server made a fault."""
        self.window.faltered()

    def rejected(self, ticket: Ticket, seconds: float) -> None:
        """The server rejected the call because of a rate limit, and wants no call for so many seconds."""
        self.rejections += 1
        self.pause(seconds)
        if self.rate:
            self.rate.rejected()
        self.window.rejected(ticket.sent_at, self._loop.time(), max(seconds, self.latency))

    def pause(self, seconds: float) -> None:
        """Send no call for so many seconds."""
        until = self._loop.time() + seconds
        if until > self._paused_until:
            if seconds >= NOTICEABLE_PAUSE and until > self._paused_until + 1:
                self._say(f"the server has too many requests; waiting {seconds:.0f} s")
            self._paused_until = until

    def paused(self) -> float:
        """Seconds until the pause is over; 0 if there is none."""
        return max(0.0, self._paused_until - self._loop.time())

    def _admit(self) -> None:
        """Send all calls that may go now, and set a timer for the next one."""
        while not self._stopped and (queue := self._retries or self._new) and self.window.is_open:
            turn, tokens = queue[0]
            if turn.done():
                queue.popleft()
                continue
            due = self._next_at - self._loop.time()
            wait = max(
                self.paused(),
                due if due > TOGETHER else 0.0,
                self._requests.wait() if self._requests else 0.0,
                self._tokens.wait(tokens) if self._tokens else 0.0,
            )
            if wait > INSTANT:
                self._admit_after(wait)
                return
            queue.popleft()
            self._count_sent(tokens)
            turn.set_result(Ticket(self._loop.time(), tokens))

    def _count_sent(self, tokens: float) -> None:
        self.window.sent()
        if self.rate:
            self.rate.sent()
        if self._requests:
            self._requests.take(1)
        if self._tokens:
            self._tokens.take(tokens)
        interval = self._interval()
        self._next_at = max(self._next_at, self._loop.time() - interval) + interval

    def _interval(self) -> float:
        """Seconds from one call to the next."""
        spread = SPREAD_IN_SLOW_START if self.window.slow_start else SPREAD
        spreading = self.latency / (spread * self.window.limit)
        return max(spreading, self.rate.interval) if self.rate else spreading

    def _admit_after(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._admit)
