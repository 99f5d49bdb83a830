"""Counts what calls cost, and enforces the limits on cost and requests. No call starts that could exceed a limit."""

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import Stopped
from ..flow import StopSignal
from .prices import Price

BYTES_PER_TOKEN = 4.0
"""In English text. The true ratio is learned from the first answers."""


class Estimate(NamedTuple):
    """The estimated tokens of a call: its prompt, its answer, and the longest answer that it allows."""

    prompt: float
    answer: float
    longest: float


class Bill(NamedTuple):
    """What an answer says about its cost: dollars, if it reports them, and the service tiers that it may have had.

    The usual tier is an empty text. If there are several tiers, the dearest one counts.
    """

    dollars: float | None = None
    tiers: tuple[str, ...] = ("",)


NO_BILL = Bill()
"""An answer that says nothing about its cost."""


def is_complete(usage: Mapping[str, float]) -> bool:
    """Whether a usage has the tokens of the prompt and those of the answer."""
    return {"prompt_tokens", "completion_tokens"} <= usage.keys()


FIRST_RATIO = 4.0
"""Upper bound on the tokens of a text, as a multiple of their estimate. It holds for every prompt, whatever the prompts
before it were like: no token is shorter than a byte.
"""
MARGIN = 1.25
"""Safety factor on the highest ratio of actual to estimated tokens so far: pictures may take more than estimated."""


class Budget:
    """Counts what was spent and what running calls may still cost, and stops the run before a limit is exceeded.

    The cost of a call is known only afterwards. So a call reserves the most it could cost, and releases the rest when
    it ends. A call that does not fit waits until other calls have ended. How many tokens a server counts for a prompt
    is learned from its answers; until the first answer, only one call runs at a time. `tier` is the service tier that
    the calls ask for. `cheaper` is how a user can make a call cost less, for a message.
    """

    def __init__(
        self,
        *,
        max_cost: float | None = None,
        max_requests: int | None = None,
        price: Price | None = None,
        tier: str = "",
        cheaper: str = "lower --max-tokens",
    ) -> None:
        self._cheaper = cheaper
        self.price, self.tier = price, tier
        self.requests = self.calls = self.repairs = 0
        self.billed = self.silent = 0  # answers that reported dollars, and that reported neither dollars nor all tokens
        self.spent = 0.0
        self.usage: Counter[str] = Counter()
        self._max_cost, self._max_requests = max_cost, max_requests
        self._estimated = self._priced = self._paid = 0.0
        self._worst = self._dearest = 0.0
        self._told = 0
        self._reserved = 0.0
        self._outstanding = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def begin(self, stop_signal: StopSignal) -> None:
        """Set `stop_signal` at a limit from now on. Calls can be reserved only after this."""
        self._stop_signal = stop_signal
        stop_signal.on_stop(self._wake)

    def expected(self, estimate: Estimate) -> dict[str, float]:
        """The expected tokens of a call, corrected by the answers so far. Reasoning tokens are a part of the answer."""
        ratio = self.usage["prompt_tokens"] / self._estimated if self._estimated else 1.0
        answer = self.usage["completion_tokens"] / self._told if self._told else estimate.answer
        expected = {"prompt_tokens": estimate.prompt * ratio, "completion_tokens": answer}
        if cached := self.usage["cached_tokens"]:
            expected["cached_tokens"] = expected["prompt_tokens"] * min(1.0, cached / self.usage["prompt_tokens"])
        return expected

    def expected_cost(self, expected: Mapping[str, float]) -> float | None:
        """The expected cost in dollars of a call with these expected tokens; None if no price is known.

        If the answers so far reported their cost, its ratio to the cost by our own price corrects that.
        """
        if not self.price:
            return self.spent / self.billed if self.billed else None
        return self.price.cost_of(expected, self.tier) * (self._paid / self._priced if self._priced else 1.0)

    def most(self, estimate: Estimate) -> float:
        """The maximum cost of a call in dollars."""
        ratio = max(FIRST_RATIO, self._worst * MARGIN)
        most = {"prompt_tokens": estimate.prompt * ratio, "completion_tokens": estimate.longest}
        return self._dear(most, ("", self.tier)) * (self._dearest * MARGIN if self._dearest > 1 else 1.0)

    def _dear(self, usage: Mapping[str, float], tiers: tuple[str, ...]) -> float:
        """The cost in dollars by our own price, in the dearest of these tiers; 0 if no price is known."""
        return max(self.price.cost_of(usage, tier) for tier in tiers) if self.price else 0.0

    async def reserve(self, estimate: Estimate) -> float:
        """Wait until a call fits, reserve its maximum cost, and return that in dollars. Without --max-cost this is 0.

        Raises `Stopped`, and stops the run, if the call can never fit.
        """
        if self._max_cost is None:
            return 0.0
        while True:
            self._stop_signal.check()
            most = self.most(estimate)
            if (self.calls or not self._outstanding) and self.spent + self._reserved + most <= self._max_cost:
                self._reserved += most
                self._outstanding += 1
                return most
            if not self._outstanding:
                limit = f"--max-cost {self._max_cost:g}"
                if self.spent:
                    self._stop_signal.stop(
                        f"{limit} is reached: {self.spent:.4f} dollars are spent, and the next call may cost {most:.4f}"
                    )
                else:  # the same command would end here again
                    self._stop_signal.stop(
                        f"{limit} is less than the {most:.4f} dollars that one call may cost",
                        f"raise it, or {self._cheaper}",
                    )
                raise Stopped
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn

    def adjust_reserved(self, dollars: float) -> None:
        """Reserve dollars for something that runs elsewhere, such as a batch. A negative amount releases them."""
        self._reserved += dollars

    def allows(self, dollars: float) -> str:
        """Why one more request, which costs at most `dollars`, must not be made now; empty if it may be made."""
        if self._max_requests is not None and self.requests >= self._max_requests:
            return f"--max-requests {self._max_requests} is reached"
        if self._max_cost is not None and self.spent + self._reserved + dollars > self._max_cost:
            under_way = f", {self._reserved:.4f} are reserved for calls in progress" if self._reserved > 0 else ""
            return f"--max-cost {self._max_cost:g} is reached: {self.spent:.4f} dollars are spent{under_way}"
        return ""

    def settle(
        self, reserved: float, estimate: Estimate, usage: Mapping[str, float] | None, bill: Bill = NO_BILL
    ) -> float:
        """Release the reservation of a call that has ended, and return its cost in dollars.

        `usage` is None if the call used nothing. If the server reported neither its tokens nor its cost, the whole
        reservation counts as cost.
        """
        if self._max_cost is not None:
            self._reserved -= reserved
            self._outstanding -= 1
        cost = 0.0 if usage is None else self.answered(estimate, usage, bill, unsaid=reserved)
        self._wake()
        return cost

    def answered(
        self,
        estimate: Estimate,
        usage: Mapping[str, float],
        bill: Bill = NO_BILL,
        *,
        unsaid: float,
        factor: float = 1.0,
    ) -> float:
        """Count an answer, and return its cost in dollars: the one it reports, or `factor` times that by our own price.

        If the server reported neither its cost nor its tokens, the cost is at least `unsaid`.
        """
        self.calls += 1
        if prompt := usage.get("prompt_tokens"):
            self._estimated += estimate.prompt
            self._worst = max(self._worst, prompt / max(estimate.prompt, 1.0))
        self._told += "completion_tokens" in usage
        self.usage.update(usage)
        said = is_complete(usage)
        known = self._dear(usage, bill.tiers) * factor
        if bill.dollars is not None:
            cost = bill.dollars
            self.billed += 1
            if known and said:
                self._priced, self._paid = self._priced + known, self._paid + cost
                self._dearest = max(self._dearest, cost / known)
        else:
            cost = known if said else max(known, unsaid)
            self.silent += not said
        self.spent += cost
        return cost

    def forfeit(self, reserved: float) -> None:
        """Count the whole reservation of a call as spent: its end was not received, so it may have been charged."""
        if self._max_cost is not None:
            self._reserved -= reserved
            self._outstanding -= 1
            self.spent += reserved
            self._wake()

    def _wake(self) -> None:
        """Let all waiting calls check again whether they fit."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    def request(self) -> None:
        """Count a request before it is sent. Raises `Stopped`, and stops the run, if the limit is reached."""
        self._stop_signal.check()
        if self._max_requests is not None and self.requests >= self._max_requests:
            self._stop_signal.stop(f"--max-requests {self._max_requests} is reached")
            raise Stopped
        self.requests += 1
