"""What calls cost, and the limits that end a run: money, requests, time. No call is begun that could overshoot one."""

import asyncio
import math
import tomllib
from collections import Counter, deque
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import Stopped, UserError
from ..flow import Brake

MILLION = 1_000_000
BYTES_PER_TOKEN = 4.0
"""Of English text; what a call really takes is learnt from the first answers."""
TOKENS_PER_PIXEL = 1 / 196
"""Of a picture, for a model of which nothing is known: patches of 14 × 14 pixels, the most that open models take."""


_PICTURE = ({"base", "tile"}, {"most", "times"})


class Price(NamedTuple):
    """Dollars a token, and how pictures are counted (`prices.toml` says how)."""

    input: float
    output: float
    cached: float
    batch: float = 0.5
    picture: Mapping[str, float] | None = None

    def of(self, usage: Mapping[str, float]) -> float:
        """What a call costs that took these tokens."""
        prompt = usage.get("prompt_tokens", 0.0)
        cached = min(usage.get("cached_tokens", 0.0), prompt)
        fresh = prompt - cached
        return fresh * self.input + cached * self.cached + usage.get("completion_tokens", 0.0) * self.output


@cache
def _own_table() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "prices.toml").read_text("utf-8"))


def table(path: str = "") -> dict[str, Any]:
    """The prices of the package, under those of a file of one's own. Raises `UserError` if that is not right."""
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
    """The price of a model, by the longest name that it begins with at a border of words; None if there is none."""
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
    """How many tokens a picture takes, by the way a model counts them."""
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
    """What a call will probably take, in tokens: its prompt, its answer, and the longest answer it may give."""

    prompt: float
    answer: float
    longest: float


FIRST_RATIO = 4.0
"""No token is shorter than a byte: so many times the estimate of a prompt is the most its text can be, whatever the
prompts before it were like."""
MARGIN = 1.25
"""How far above the worst ratio of tokens to estimate so far the next call's may lie, where pictures take more."""


class Budget:
    """Counts what was spent and what calls under way may still cost, and stops the run before a limit is passed.

    The cost of a call is known only afterwards. It reserves the most it could cost, and gives back the rest; a call
    that does not fit waits until others have given back. How many tokens a server counts for a prompt is learnt from
    its answers; until the first is there, one call is under way at a time.
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

    def begin(self, brake: Brake) -> None:
        """Have `brake` pulled at a limit from now on; calls can only be reserved after this."""
        self._brake = brake
        brake.when_pulled(self._wake)

    def expected(self, estimate: Estimate) -> dict[str, float]:
        """The tokens a call will take, in the light of those that have been answered."""
        ratio = self.usage["prompt_tokens"] / self._estimated if self._estimated else 1.0
        answer = self.usage["completion_tokens"] / self.calls if self.calls else estimate.answer
        return {"prompt_tokens": estimate.prompt * ratio, "completion_tokens": answer}

    def most(self, estimate: Estimate) -> float:
        """Dollars that a call can cost at most."""
        ratio = max(FIRST_RATIO, self._worst * MARGIN)
        most = {"prompt_tokens": estimate.prompt * ratio, "completion_tokens": estimate.longest}
        return self.price.of(most) if self.price else 0.0

    async def reserve(self, estimate: Estimate) -> float:
        """Wait until a call fits, and put aside the dollars it may cost.

        Raises `Stopped`, and stops the run, if it never will fit.
        """
        if self._max_cost is None:
            return 0.0
        while True:
            self._brake.check()
            most = self.most(estimate)
            if (self.calls or not self._outstanding) and self.spent + self._reserved + most <= self._max_cost:
                self._reserved += most
                self._outstanding += 1
                return most
            if not self._outstanding:
                self._brake.pull(
                    f"--max-cost {self._max_cost:g} is reached, with {self.spent:.4f} dollars spent"
                    if self.spent
                    else f"--max-cost {self._max_cost:g} is less than the {most:.4f} dollars that one call may cost; "
                    "raise it, or lower --max-tokens"
                )
                raise Stopped
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn

    def hold(self, dollars: float) -> None:
        """Put dollars aside for what is under way elsewhere, or give back what was put aside, if they are negative."""
        self._reserved += dollars

    def allows(self, dollars: float) -> str:
        """Why one more request, of so many dollars at most, may not be made now; nothing if it may."""
        if self._max_requests is not None and self.requests >= self._max_requests:
            return f"--max-requests {self._max_requests} is reached"
        if self._max_cost is not None and self.spent + self._reserved + dollars > self._max_cost:
            under_way = f" and {self._reserved:.4f} reserved for calls in progress" if self._reserved > 0 else ""
            return f"--max-cost {self._max_cost:g} is reached, with {self.spent:.4f} dollars spent{under_way}"
        return ""

    def settle(self, reserved: float, estimate: Estimate, usage: Mapping[str, float] | None) -> float:
        """A call has ended: what it cost, in dollars. None used nothing; a server that does not say used the most."""
        if self._max_cost is not None:
            self._reserved -= reserved
            self._outstanding -= 1
        cost = 0.0 if usage is None else self.answered(estimate, usage, unsaid=reserved)
        self._wake()
        return cost

    def answered(self, estimate: Estimate, usage: Mapping[str, float], *, unsaid: float, factor: float = 1.0) -> float:
        """An answer came: what it cost in dollars, at `factor` of the price; `unsaid` if the server does not say."""
        self.calls += 1
        if prompt := usage.get("prompt_tokens"):
            self._estimated += estimate.prompt
            self._worst = max(self._worst, prompt / max(estimate.prompt, 1.0))
        self.usage.update(usage)
        said = {"prompt_tokens", "completion_tokens"} <= usage.keys()
        known = self.price.of(usage) * factor if self.price else 0.0
        cost = known if said else max(known, unsaid)
        self.spent += cost
        return cost

    def lose(self, reserved: float) -> None:
        """Nobody heard the end of a call, which may have cost all that was reserved for it."""
        if self._max_cost is not None:
            self._reserved -= reserved
            self._outstanding -= 1
            self.spent += reserved
            self._wake()

    def _wake(self) -> None:
        """Have whoever waits look again."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    def request(self) -> None:
        """One more request is about to be sent. Raises `Stopped`, and stops the run, if it is one too many."""
        self._brake.check()
        if self._max_requests is not None and self.requests >= self._max_requests:
            self._brake.pull(f"--max-requests {self._max_requests} is reached")
            raise Stopped
        self.requests += 1
