"""What the learned rate is worth: calls finished and rejected with it and without it, where a server counts by time.

Simulated servers on a virtual clock accept so many calls per minute: in a fixed window of a minute, in a sliding one,
or from a token bucket that holds one second's worth. A rejection says when to come back, or does not ("silent"). Ten
minutes of calls, as many as the server takes and at most 64 in flight, go through the gate of `vpctl.api` twice: with a
learned rate, and with the congestion window alone, which is `Gate(window, None)`. To turn the rate off in vpctl, pass
None for it in `Engine.running`. Run from the root of the repository with: python -m benchmarks.pace
"""

import asyncio
import math
import statistics
from collections import deque
from collections.abc import Callable
from itertools import product
from random import Random
from typing import NamedTuple, Protocol

from tests.clocks import passing
from vpctl.api.engine import FIRST_WAIT, LONGEST_WAIT
from vpctl.api.pace import Gate
from vpctl.api.rate import LearnedRate
from vpctl.api.window import CongestionWindow

MAXIMUM = 64
MINUTE, MINUTES = 60.0, 10
PER_MINUTE = (60, 200, 600)
LATENCIES = (0.2, 1.0, 3.0, 10.0)
"""Mean seconds until a call is answered; each takes half to one and a half times as long."""
REJECTED_AFTER = 0.02
"""Seconds until a server says no."""


class Server(Protocol):
    """A limit of so many calls per minute."""

    def accept(self, now: float) -> float:
        """0 if a call is accepted, or the seconds after which one will be."""


class FixedWindow:
    """Counts the calls of each minute of the clock."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._minute, self._accepted = -1.0, 0

    def accept(self, now: float) -> float:
        """See `Server`."""
        if now // MINUTE > self._minute:
            self._minute, self._accepted = now // MINUTE, 0
        if self._accepted == self._per_minute:
            return (self._minute + 1) * MINUTE - now
        self._accepted += 1
        return 0.0


class SlidingWindow:
    """Counts the calls of the last 60 s."""

    def __init__(self, per_minute: int) -> None:
        self._accepted: deque[float] = deque([-math.inf] * per_minute, per_minute)

    def accept(self, now: float) -> float:
        """See `Server`."""
        if (wait := self._accepted[0] + MINUTE - now) > 0:
            return wait
        self._accepted.append(now)
        return 0.0


class Bucket:
    """Refills evenly, and holds one second's worth, or one call."""

    def __init__(self, per_minute: int) -> None:
        self._rate = per_minute / MINUTE
        self._level = self._capacity = max(1.0, self._rate)
        self._refilled_at = 0.0

    def accept(self, now: float) -> float:
        """See `Server`."""
        self._level = min(self._capacity, self._level + (now - self._refilled_at) * self._rate)
        self._refilled_at = now
        if self._level < 1:
            return (1 - self._level) / self._rate
        self._level -= 1
        return 0.0


class Result(NamedTuple):
    """Calls answered per minute, and the share of all tries that was rejected."""

    answered: float
    rejected: float


async def run(server: Server, latency: float, *, tells: bool, learn: bool) -> Result:
    """What ten minutes of calls give. The gate is used as the engine uses it."""
    loop = asyncio.get_running_loop()
    gate = Gate(CongestionWindow(MAXIMUM), LearnedRate(loop.time()) if learn else None)
    rng = Random(1)
    answered = 0

    async def call() -> None:
        nonlocal answered
        tries = 0
        while True:
            ticket = await gate.enter(again=tries > 0)
            tries += 1
            try:
                if wait := server.accept(loop.time()):
                    await asyncio.sleep(REJECTED_AFTER)
                    backoff = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (tries - 1)) * rng.uniform(0.5, 1)
                    gate.rejected(ticket, wait if tells else backoff)
                    continue
                await asyncio.sleep(latency * rng.uniform(0.5, 1.5))
                answered += 1
                gate.succeeded(ticket)
                return
            finally:
                gate.leave(ticket, 0)

    async def calls() -> None:
        while True:
            await call()

    tasks = [asyncio.ensure_future(calls()) for _ in range(2 * MAXIMUM)]
    await asyncio.sleep(MINUTES * MINUTE)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return Result(answered / MINUTES, gate.rejections / (gate.rejections + answered))


def main() -> None:
    """Print both results for every server, and the mean and range of their ratios for every kind."""
    kinds: tuple[Callable[[int], Server], ...] = (FixedWindow, SlidingWindow, Bucket)
    for kind, tells in product(kinds, (True, False)):
        print(f"{kind.__name__}{'' if tells else ', silent'}")
        print("                        answered per minute           rejected")
        print("    limit  latency     with  without  ratio       with  without")
        pairs = []
        for per_minute, latency in product(PER_MINUTE, LATENCIES):
            learned, window = (
                passing(run(kind(per_minute), latency, tells=tells, learn=learn)) for learn in (True, False)
            )
            pairs.append((learned, window))
            print(
                f"{per_minute:>5}/min {latency:>6.1f} s {learned.answered:>8.0f} {window.answered:>8.0f}"
                f" {learned.answered / window.answered:>6.2f} {learned.rejected:>10.1%} {window.rejected:>8.1%}"
            )
        ratios = [learned.answered / window.answered for learned, window in pairs]
        rejected = [statistics.mean(result.rejected for result in side) for side in zip(*pairs, strict=True)]
        print(
            f"ratio: geometric mean {statistics.geometric_mean(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f};"
            f" rejected: mean {rejected[0]:.1%} with the rate, {rejected[1]:.1%} without\n"
        )


if __name__ == "__main__":
    main()
