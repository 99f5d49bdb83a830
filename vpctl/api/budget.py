"""Counts what calls cost, and enforces the limits on cost and requests. No call starts that could exceed a limit."""

import asyncio
import math
import tomllib
from collections import Counter, deque
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import Stopped, UserError
from ..flow import StopSignal

MILLION = 1_000_000
BYTES_PER_TOKEN = 4.0
"""In English text. The true ratio is learned from the first answers."""
TOKENS_PER_PIXEL = 1 / 196
"""In a picture, for an unknown model: one token per 14 × 14 pixels, the most that open models take."""


_PICTURE = ({"base", "tile"}, {"most", "times"})


class Price(NamedTuple):
    """Dollars per token, and how tokens of pictures are counted. `prices.toml` explains the values."""

    input: float
    output: float
    cached: float
    batch: float = 0.5
    picture: Mapping[str, float] | None = None

    def cost_of(self, usage: Mapping[str, float]) -> float:
        """The cost in dollars of a call with this usage."""
        prompt = usage.get("prompt_tokens", 0.0)
        cached = min(usage.get("cached_tokens", 0.0), prompt)
        fresh = prompt - cached
        return fresh * self.input + cached * self.cached + usage.get("completion_tokens", 0.0) * self.output


@cache
def _own_table() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "prices.toml").read_text("utf-8"))


def table(path: str = "") -> dict[str, Any]:
    """The prices of the package, overridden by those in the user's file. Raises `UserError` if the file is invalid."""
    if not path:
        return _own_table()
    try:
        own = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"--prices {path}: {_reason(error)}") from None
    except RecursionError:
        raise UserError(f"--prices {path}: is nested too deeply to be a table of prices") from None
    for model, entry in own.items():
        _check(entry, f"--prices {path}: [{model}]")
    return {**_own_table(), **own}


def _reason(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error)).lower().split())


def _check(entry: object, where: str) -> None:
    if not isinstance(entry, dict) or not {"input", "output"} <= entry.keys():
        raise UserError(f"{where} needs input and output, in dollars per million tokens")
    picture = entry.get("picture")
    if picture is not None and not (isinstance(picture, dict) and any(keys <= picture.keys() for keys in _PICTURE)):
        raise UserError(f"{where}: picture needs either base and tile, or most and times")
    for key, value in {**entry, **(picture or {})}.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key != "picture" and not (number and 0 <= value < math.inf):
            raise UserError(f"{where}: {key} is not a number of at least 0")


def price(model: str, prices: Mapping[str, Any]) -> Price | None:
    """The price of a model; None if it is unknown.

    A name in the table matches the model of this name, and those that continue it with ``-``, ``:`` or ``@``. The
    longest match counts. The part of `model` up to its last ``/`` is ignored.
    """
    bare = model.rpartition("/")[2]
    known = [name for name in prices if bare == name or bare.startswith((f"{name}-", f"{name}:", f"{name}@"))]
    if not known:
        return None
    entry = prices[max(known, key=len)]
    return Price(
        entry["input"] / MILLION,
        entry["output"] / MILLION,
        entry.get("cached", entry["input"]) / MILLION,
        entry.get("batch", 0.5),
        entry.get("picture"),
    )


def picture_tokens(width: int, height: int, detail: str, how: Mapping[str, float] | None) -> float:
    """The number of tokens of a picture, by the counting rule `how` of its model; None if the rule is unknown."""
    if how is None:
        return width * height * TOKENS_PER_PIXEL + 16
    if "tile" in how:
        if detail == "low":
            return how["base"]
        scale = min(1.0, 2048 / max(width, height))
        scale *= min(1.0, 768 / (min(width, height) * scale))
        tiles = math.ceil(width * scale / 512) * math.ceil(height * scale / 512)
        return how["base"] + tiles * how["tile"]
    patches = math.ceil(width / 32) * math.ceil(height / 32)
    return min(patches, how["most"]) * how["times"]


class Estimate(NamedTuple):
    """The estimated tokens of a call: its prompt, its answer, and the longest answer that it allows."""

    prompt: float
    answer: float
    longest: float


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
    is learned from its answers; until the first answer, only one call runs at a time.
    """

    def __init__(
        self,
        *,
        max_cost: float | None = None,
        max_requests: int | None = None,
        price: Price | None = None,
    ) -> None:
        self.price = price
        self.requests = self.calls = 0
        self.spent = 0.0
        self.usage: Counter[str] = Counter()
        self._max_cost, self._max_requests = max_cost, max_requests
        self._estimated = 0.0
        self._worst = 0.0
        self._reserved = 0.0
        self._outstanding = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def begin(self, stop_signal: StopSignal) -> None:
        """Set `stop_signal` at a limit from now on. Calls can be reserved only after this."""
        self._stop_signal = stop_signal
        stop_signal.on_stop(self._wake)

    def expected(self, estimate: Estimate) -> dict[str, float]:
        """The expected tokens of a call, corrected by the answers so far."""
        ratio = self.usage["prompt_tokens"] / self._estimated if self._estimated else 1.0
        answer = self.usage["completion_tokens"] / self.calls if self.calls else estimate.answer
        return {"prompt_tokens": estimate.prompt * ratio, "completion_tokens": answer}

    def most(self, estimate: Estimate) -> float:
        """The maximum cost of a call in dollars."""
        ratio = max(FIRST_RATIO, self._worst * MARGIN)
        most = {"prompt_tokens": estimate.prompt * ratio, "completion_tokens": estimate.longest}
        return self.price.cost_of(most) if self.price else 0.0

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
                    self._stop_signal.stop(f"{limit} is reached, with {self.spent:.4f} dollars spent")
                else:  # the same command would end here again
                    self._stop_signal.stop(
                        f"{limit} is less than the {most:.4f} dollars that one call may cost",
                        "raise it, or lower --max-tokens",
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
            under_way = f" and {self._reserved:.4f} reserved for calls in progress" if self._reserved > 0 else ""
            return f"--max-cost {self._max_cost:g} is reached, with {self.spent:.4f} dollars spent{under_way}"
        return ""

    def settle(self, reserved: float, estimate: Estimate, usage: Mapping[str, float] | None) -> float:
        """Release the reservation of a call that has ended, and return its cost in dollars.

        `usage` is None if the call used nothing. If the server did not report its tokens, the whole reservation counts
        as cost.
        """
        if self._max_cost is not None:
            self._reserved -= reserved
            self._outstanding -= 1
        cost = 0.0 if usage is None else self.answered(estimate, usage, unsaid=reserved)
        self._wake()
        return cost

    def answered(self, estimate: Estimate, usage: Mapping[str, float], *, unsaid: float, factor: float = 1.0) -> float:
        """Count an answer, and return its cost in dollars, at `factor` times the price.

        If the server did not report its tokens, the cost is at least `unsaid`.
        """
        self.calls += 1
        if prompt := usage.get("prompt_tokens"):
            self._estimated += estimate.prompt
            self._worst = max(self._worst, prompt / max(estimate.prompt, 1.0))
        self.usage.update(usage)
        said = {"prompt_tokens", "completion_tokens"} <= usage.keys()
        known = self.price.cost_of(usage) * factor if self.price else 0.0
        cost = known if said else max(known, unsaid)
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
