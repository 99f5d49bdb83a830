"""The learned rate: calls per second that a server accepts if it counts calls by time, however few are in flight.

No congestion window is right for such a server. Between two episodes of rejections it accepts as many calls as its
limit allows, so that count and that time give its rate. All times are seconds of one clock, and the caller passes
them in.
"""

import math

from .window import Episode

MANY = 0.25
"""If the server rejects more than this share of the calls in flight at once, it counts calls by time."""
EXTRA_CALLS = 2
"""Calls added to the count of the first measurement, which is of few calls and so imprecise."""
SHORTEST = 1e-3
"""Seconds; no measurement is shorter."""
SLOWEST = 1 / 60
"""Calls per second; no learned rate is lower."""
SLOWEST_SEQUENTIAL = 0.05
"""Floor for a learned rate, as a share of the rate of strictly sequential calls."""
KEPT = 0.9
"""An episode leaves at least this share of a learned rate."""
GROWTH, GROWTH_SECONDS = 0.05, 30.0
"""A learned rate grows by this share in this many seconds, and faster the longer no call is rejected."""
GROWTH_PER_CALL = 0.002
"""Upper bound of the growth with one answer, before it is sped up."""
DISBELIEVED, FORGOTTEN_SECONDS = 0.4, 600.0
"""If the server still rejects calls at this share of the rate learned first, it rejects them for another reason: the
rate is forgotten, and none is learned for this many seconds."""


class LearnedRate:
    """Measures, from a start time `now`, how many calls per second a server accepts.

    `per_second` is infinite while no rate is known.
    """

    def __init__(self, now: float) -> None:
        self.per_second = math.inf
        self._first = math.inf
        self._sent = self._accepted = 0
        self._last = (0, 0.0)
        self._measured_from = self._learned_at = self._grown_at = now
        self._none_before = -math.inf

    @property
    def interval(self) -> float:
        """Seconds from one call to the next; 0 while no rate is known."""
        return 1 / self.per_second

    def sent(self) -> None:
        """A call was sent."""
        self._sent += 1

    def rejected(self) -> None:
        """A call was rejected. All others that were sent until now count as accepted."""
        self._sent -= 1
        self._accepted = self._sent

    def learn(self, episode: Episode, sent_at: float, now: float, latency: float) -> bool:
        """Measure at the end of an episode: the call sent at `sent_at` is the first that was answered after it.

        Returns whether the server seems to count calls by time; then the window was not the cause of the episode.
        `latency` is the mean time of a call, above 0.
        """
        known = self.per_second < math.inf
        measured = self._measured(sent_at, 0 if known else EXTRA_CALLS)
        by_time = episode.rejected > MANY * episode.in_flight and not episode.in_slow_start
        if now < self._none_before or not (by_time or (known and episode.had_room)):
            return False
        floor = max(SLOWEST, SLOWEST_SEQUENTIAL / latency)
        if known:
            self.per_second = max(min(measured, self.per_second), KEPT * self.per_second, floor)
        else:
            self.per_second = self._first = max(measured, floor)
        self._learned_at = self._grown_at = now
        if self.per_second < DISBELIEVED * self._first:
            self.per_second = math.inf
            self._none_before = now + FORGOTTEN_SECONDS
        return True

    def _measured(self, sent_at: float, margin: int) -> float:
        """End a measurement and return its rate, or that of the last two together if it is higher.

        A server that counts the calls of the last minute accepts next to none right after a burst.
        """
        accepted, seconds = self._accepted, max(sent_at - self._measured_from, SHORTEST)
        last_accepted, last_seconds = self._last
        self._last = accepted, seconds
        self._sent -= accepted
        self._measured_from = sent_at
        return max((accepted + margin) / seconds, (accepted + last_accepted) / (seconds + last_seconds))

    def grow(self, now: float, latency: float) -> None:
        """Grow for one answer."""
        if self.per_second == math.inf:
            return
        share = min(GROWTH_PER_CALL, GROWTH * (now - self._grown_at) / GROWTH_SECONDS)
        share *= 1 + (now - self._learned_at) / GROWTH_SECONDS
        self.per_second += share * max(self.per_second, 1 / latency)
        self._grown_at = now
