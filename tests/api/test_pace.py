"""How calls are let go, in virtual time, against simulated servers that limit in the ways real ones do."""

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clocks import passing
from vpctl.api.pace import SPREAD_IN_SLOW_START, TOGETHER, Gate, TokenBucket
from vpctl.api.rate import LearnedRate
from vpctl.api.window import INITIAL, CongestionWindow
from vpctl.errors import Stopped


def gate(most: int, **how: Any) -> Gate:
    """One as a run has it."""
    return Gate(CongestionWindow(most), LearnedRate(asyncio.get_running_loop().time()), **how)


@dataclass
class Limited:
    """A server that takes so many at once, or so many a minute: in a window, or steadily with room for a second's."""

    latency: float = 0.2
    capacity: int = 0
    per_minute: float = 0
    window: float = 0
    faults: float = 0
    whims: float = 0
    wait: float = 1.0
    tells: bool = True
    sent: list[float] = field(default_factory=list)
    turned_away: int = 0
    answered: int = 0
    under_way: int = 0
    _room: float = 0
    _filled: float = -math.inf
    _chance: Random = field(default_factory=lambda: Random(2))

    def refuses(self, now: float) -> float | None:
        """Seconds until it would take one; None if it does now. Some it turns away by chance, whatever their rate."""
        if self._chance.random() < self.whims:
            return self.wait
        if self.capacity and self.under_way >= self.capacity:
            return 1.0
        if not self.per_minute:
            return None
        rate = self.per_minute / 60
        if self.window and now >= self._filled + self.window:
            self._filled, self._room = now // self.window * self.window, rate * self.window
        elif not self.window:
            self._room = min(max(1.0, rate), self._room + (now - self._filled) * rate)
            self._filled = now
        if self._room >= 1:
            self._room -= 1
            return None
        return self._filled + self.window - now if self.window else (1 - self._room) / rate


async def call(pace: Gate, server: Limited, chance: Random) -> None:
    tries = 0
    now = asyncio.get_running_loop().time
    while True:
        tries += 1
        backoff = min(60, 0.5 * 2 ** (tries - 1)) * chance.uniform(0.5, 1)
        ticket = await pace.enter(again=tries > 1)
        try:
            server.sent.append(now())
            wait = server.refuses(now())
            if wait is not None:
                await asyncio.sleep(0.01)
                server.turned_away += 1
                pace.rejected(ticket, wait if server.tells else backoff)
                continue
            server.under_way += 1
            await asyncio.sleep(server.latency)
            server.under_way -= 1
            if chance.random() >= server.faults:
                server.answered += 1
                pace.succeeded(ticket)
                return
            pace.faltered()
        finally:
            pace.leave(ticket, 0)
        await asyncio.sleep(backoff)


def drive(server: Limited, calls: int, *, most: int = 64, until: float = math.inf, **how: Any) -> tuple[float, Gate]:
    """When the last of so many calls is answered, or `until`, and the pace as it is then."""

    async def all_of_them() -> tuple[float, Gate]:
        pace, chance = gate(most, **how), Random(1)
        tasks = [asyncio.ensure_future(call(pace, server, chance)) for _ in range(calls)]
        await asyncio.wait(tasks, timeout=until if until < math.inf else None)
        ended = asyncio.get_running_loop().time()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert pace.in_flight == 0
        return ended, pace

    return passing(all_of_them())


def most_within(times: Iterable[float], length: float) -> int:
    """The most of these times that lie in any span of this length, its ends not both counted."""
    ordered = sorted(times)
    most = first = 0
    for last, time in enumerate(ordered):
        while ordered[first] <= time - length:
            first += 1
        most = max(most, last - first + 1)
    return most


def test_the_first_call_goes_alone_and_then_the_limit_doubles_with_every_round() -> None:
    server = Limited(latency=1.0)
    drive(server, 1500, most=256)
    rounds = [sum(start <= time < start + 1 for time in server.sent) for start in range(7)]
    assert rounds[:2] == [1, INITIAL]
    assert rounds[2] >= INITIAL, "calls begin to spread in time, so that the limit is not yet used"
    for before, after in pairwise(rounds[2:5]):
        assert after == pytest.approx(2 * before, rel=0.05)
    assert rounds[6] == 256


def test_a_server_that_takes_thirty_at_once_is_used_well_and_seldom_bothered() -> None:
    server = Limited(capacity=30)
    ended, pace = drive(server, 500)
    assert server.answered == 500
    assert ended < 1.5 * 500 * 0.2 / 30
    assert server.turned_away / len(server.sent) < 0.1
    assert 20 <= pace.window.limit <= 31
    assert pace.rejections == server.turned_away


def test_over_a_long_run_next_to_nothing_is_lost_by_looking_for_more() -> None:
    server = Limited(capacity=30)
    ended, _ = drive(server, 10_000)
    assert ended < 1.1 * 10_000 * 0.2 / 30
    assert server.turned_away < 20


@pytest.mark.parametrize(
    ("per_minute", "window", "latency", "tells"),
    [
        (500, 60, 0.2, True),
        (500, 60, 2, True),
        (500, 60, 0.2, False),
        (500, 0, 0.2, True),
        (500, 0, 2, True),
        (500, 0, 0.2, False),
        (500, 0, 2, False),
        (3000, 0, 0.2, True),
        (3000, 60, 0.2, False),
        (60, 60, 2, True),
    ],
)
def test_a_server_that_counts_by_the_minute_is_used_to_nine_tenths(
    per_minute: float, window: float, latency: float, tells: bool
) -> None:
    server = Limited(latency=latency, per_minute=per_minute, window=window, tells=tells)
    drive(server, int(per_minute * 12), until=600)
    assert server.answered >= 0.9 * min(per_minute * 10, 64 * 600 / latency)
    assert server.turned_away / len(server.sent) < 0.05


def test_an_episode_is_one_cut_however_many_are_turned_away_in_it() -> None:
    async def episode() -> list[float]:
        pace = await warm(64)
        tickets = [await pace.enter() for _ in range(40)]
        limits = []
        for ticket in tickets[:10]:
            pace.rejected(ticket, 1.0)
            limits.append(pace.window.limit)
            pace.leave(ticket, 0)
        return limits

    limits = passing(episode())
    assert limits[-1] >= 40 / 2
    assert limits[-1] == pytest.approx(0.9 * 30)


def test_calls_that_are_due_within_a_moment_go_together_and_stay_spread() -> None:
    """Each turn of the event loop has its cost, and a server that counts by the second accepts no bursts."""
    server = Limited(latency=0.2)
    drive(server, 4000, most=100)
    late = server.sent[2000:]
    assert len(set(late)) < len(late) / 2, "a turn for nearly each call"
    a_second = SPREAD_IN_SLOW_START * 100 / 0.2
    assert most_within(late, 0.05) <= a_second * (0.05 + TOGETHER) + 2


async def warm(limit: int) -> Gate:
    """A pace that has found out that so many may be under way."""
    pace = gate(limit)
    while pace.window.limit < limit:
        tickets = [await pace.enter() for _ in range(int(pace.window.limit))]
        for ticket in tickets:
            pace.succeeded(ticket)
        for ticket in tickets:
            pace.leave(ticket, 0)
    return pace


def test_a_fault_of_the_server_holds_growth_and_takes_nothing() -> None:
    async def limits() -> tuple[float, float, float]:
        pace = gate(64)
        first = await pace.enter()
        await asyncio.sleep(1)
        pace.succeeded(first)
        pace.leave(first, 0)
        before = pace.window.limit
        tickets = [await pace.enter() for _ in range(int(pace.window.limit))]
        pace.faltered()
        pace.succeeded(tickets[0])
        just_after = pace.window.limit
        for ticket in tickets[1:]:
            pace.succeeded(ticket)
        return before, just_after, pace.window.limit

    before, just_after, later = passing(limits())
    assert just_after == before == INITIAL
    assert later > before, "when it goes well again, it grows again"


@pytest.mark.parametrize("faults", [0.02, 0.1])
def test_a_fault_now_and_then_does_not_keep_a_run_slow(faults: float) -> None:
    server = Limited(faults=faults)
    ended, pace = drive(server, 4000)
    assert server.answered == 4000
    assert pace.window.limit == 64
    assert ended < 2 * 4000 * 0.2 / 64


@pytest.mark.parametrize(("whims", "ideals"), [(0.01, 6), (0.05, 30), (0.1, 55)])
def test_calls_that_are_turned_away_for_no_rate_do_not_bring_a_run_down_to_a_crawl(whims: float, ideals: float) -> None:
    server = Limited(whims=whims, wait=0.05, latency=0.05)
    ended, _ = drive(server, 4000)
    assert server.answered == 4000
    assert ended < ideals * 4000 * 0.05 / 64


def test_faults_of_every_kind_together_do_not_bring_a_run_down_to_a_crawl() -> None:
    server = Limited(whims=0.05, faults=0.15, wait=0.1, latency=0.1)
    ended, _ = drive(server, 2000)
    assert server.answered == 2000
    assert ended < 60 * 2000 * 0.1 / 64


def test_room_that_nobody_uses_does_not_grow() -> None:
    async def idle() -> float:
        pace = gate(64)
        for _ in range(200):
            ticket = await pace.enter()
            await asyncio.sleep(1)
            pace.succeeded(ticket)
            pace.leave(ticket, 0)
        return pace.window.limit

    assert passing(idle()) == INITIAL


@pytest.mark.parametrize("wait", [0.05, 1.0, 59.0, 3600.0, 100_000.0])
def test_what_the_server_asks_for_is_done_by_all_calls_however_long(wait: float) -> None:
    said: list[str] = []

    async def paused() -> list[float]:
        pace = await warm(64)
        pace._say = said.append
        now = asyncio.get_running_loop().time
        held = [await pace.enter() for _ in range(10)]
        waiting = [asyncio.ensure_future(pace.enter()) for _ in range(30)]
        pace.rejected(held[0], wait)
        began = now()
        for ticket in held:
            pace.leave(ticket, 0)
        more = asyncio.ensure_future(pace.enter(again=True))
        assert pace.paused() == pytest.approx(wait)
        first = await more
        return [first.sent_at - began, *[(await task).sent_at - began for task in waiting if task.done()]]

    # Those that went before the server spoke have a time before it.
    assert all(since >= wait * (1 - 1e-9) or since <= 0 for since in passing(paused()))
    assert (said == [f"the server has too many requests; waiting {wait:.0f} s"]) == (wait >= 5)


def test_a_shorter_wait_does_not_end_a_longer_one() -> None:
    async def twice() -> float:
        pace = gate(4)
        pace.pause(100)
        pace.pause(1)
        return (await pace.enter()).sent_at

    assert passing(twice()) == pytest.approx(100)


@given(st.lists(st.floats(0, 40), min_size=1, max_size=150), st.integers(1, 90))
def test_in_no_minute_more_requests_go_than_may(arrivals: list[float], rpm: int) -> None:
    async def went() -> list[float]:
        pace = gate(1000, rpm=rpm)
        pace.window.limit = 1000.0

        async def one(at: float) -> float:
            await asyncio.sleep(at)
            return (await pace.enter()).sent_at

        return list(await asyncio.gather(*(one(at) for at in arrivals)))

    times = passing(went())
    assert len(times) == len(arrivals)
    assert most_within(times, 60) <= rpm


@pytest.mark.parametrize("rpm", [1, 2, 60, 500])
def test_of_the_requests_that_may_go_nearly_all_do(rpm: int) -> None:
    server = Limited(latency=0.1)
    drive(server, rpm * 12, until=600, rpm=rpm)
    assert 0.9 * rpm * 10 <= server.answered or rpm < 3
    assert server.answered >= rpm * 10 / 2
    assert most_within(server.sent, 60) <= rpm


@given(st.lists(st.integers(1, 500), min_size=20, max_size=200))
def test_in_no_minute_more_tokens_go_than_may(sizes: list[int]) -> None:
    """The exact bound is for calls of which each is at most half a minute's."""

    async def went() -> list[tuple[float, int]]:
        pace = gate(1000, tpm=1000)
        pace.window.limit = 1000.0

        async def one(size: int) -> tuple[float, int]:
            ticket = await pace.enter(size)
            pace.leave(ticket, size)
            return ticket.sent_at, size

        return list(await asyncio.gather(*(one(size) for size in sizes)))

    taken = sorted(passing(went()))
    for begin, _ in taken:
        assert sum(size for time, size in taken if begin <= time < begin + 60 - 1e-6) <= 1000
    last = taken[-1][0]
    assert sum(sizes) >= 0.45 * 1000 * last / 60, "and half of what may go, at least, does"


def test_tokens_that_were_reserved_and_not_used_are_given_back() -> None:
    async def ended(used: float) -> float:
        pace = gate(1000, tpm=6000)
        pace.window.limit = 1000.0
        for _ in range(100):
            ticket = await pace.enter(100)
            pace.leave(ticket, used)
        return asyncio.get_running_loop().time()

    whole, tenth = passing(ended(100)), passing(ended(10))
    assert whole == pytest.approx(100, rel=0.05), "ten thousand tokens at a hundred a second"
    assert tenth == pytest.approx(whole / 10, rel=0.1)


def test_a_call_of_more_tokens_than_a_minute_has_goes_at_last() -> None:
    async def went() -> float:
        pace = gate(4, tpm=100)
        pace.leave(await pace.enter(1000), 1000)
        return (await pace.enter(1)).sent_at

    # 900 tokens too many at up to a hundred a minute, and no faster than half of it.
    assert 9 * 60 <= passing(went()) <= 2 * 11 * 60


def test_calls_that_go_again_come_first() -> None:
    async def order() -> list[str]:
        pace, went = gate(1), []
        held = await pace.enter()

        async def one(name: str, again: bool) -> None:
            ticket = await pace.enter(again=again)
            went.append(name)
            pace.leave(ticket, 0)

        tasks = [asyncio.ensure_future(one(name, name > "b")) for name in "abcd"]
        await asyncio.sleep(0)
        pace.leave(held, 0)
        await asyncio.gather(*tasks)
        return went

    assert passing(order()) == ["c", "d", "a", "b"]


def test_stopping_wakes_all_who_wait_and_lets_nobody_in() -> None:
    async def stopped() -> list[Any]:
        pace = gate(1)
        held = await pace.enter()
        waiting = [asyncio.ensure_future(pace.enter(again=bool(number % 2))) for number in range(5)]
        await asyncio.sleep(0)
        pace.stop()
        ends = await asyncio.gather(*waiting, pace.enter(), return_exceptions=True)
        pace.leave(held, 0)
        assert pace.in_flight == 0
        return ends

    assert [type(end) for end in passing(stopped())] == [Stopped] * 6


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=30))
def test_a_call_that_is_cancelled_leaves_its_place_and_its_tokens(moments: list[tuple[int, bool]]) -> None:
    """Cancelled while it waits, in the very moment it is let go, or when it has gone: nothing leaks."""

    async def cancelled() -> tuple[int, float]:
        pace = gate(3, tpm=1e9)
        pace.window.limit = 3.0

        async def one() -> None:
            ticket = await pace.enter(100.0)
            try:
                await asyncio.sleep(1)
            finally:
                pace.leave(ticket, 0.0)

        tasks = [asyncio.ensure_future(one()) for _ in moments]
        for task, (steps, at_once) in zip(tasks, moments, strict=True):
            for _ in range(steps):
                await asyncio.sleep(0 if at_once else 0.1)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert pace._tokens
        pace._tokens.wait()
        return pace.in_flight, pace._tokens._level - pace._tokens._capacity

    in_flight, missing = passing(cancelled())
    assert in_flight == 0
    assert missing == pytest.approx(0)


def test_a_bucket_of_less_than_one_a_second_begins_with_one() -> None:
    clock = [0.0]
    bucket = TokenBucket(6, lambda: clock[0])
    assert bucket.wait() <= 0
    bucket.take(1)
    wait = bucket.wait()
    assert 10 <= wait <= 12 + 1e-9, "six a minute, of which in no minute there are more"
    clock[0] = wait
    assert bucket.wait() == pytest.approx(0)
