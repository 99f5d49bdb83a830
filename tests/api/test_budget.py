"""The cost of calls, and that no limit is exceeded."""

import asyncio
import math
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.clocks import passing
from vpctl.api.budget import FIRST_RATIO, Budget, Estimate, Price, picture_tokens, price, table
from vpctl.errors import Stopped, UserError
from vpctl.flow import StopSignal

PRICE = Price(2e-6, 8e-6, 1e-6)


class Run:
    """The result of many calls on one budget. `owed` is what the provider would charge."""

    def __init__(self, seed: int) -> None:
        chance = Random(seed)
        self.cap = chance.choice([0.0, 1e-5, chance.uniform(0, 0.01), chance.uniform(0, 0.3), 9.0])
        self.calls, at_once = chance.randint(1, 120), chance.randint(1, 64)
        self.budget = Budget(max_cost=self.cap, price=PRICE)
        self.most_owed = self.owed = 0.0
        self.stopped = self.done = 0
        longest = chance.choice([10, 400, 4096])

        async def call(slots: asyncio.Semaphore) -> None:
            estimate = Estimate(chance.uniform(1, 3000), 60, longest)
            async with slots:
                try:
                    reserved = await self.budget.reserve(estimate)
                except Stopped:
                    self.stopped += 1
                    return
                usage: dict[str, float] | None = None
                try:
                    await asyncio.sleep(chance.uniform(0.1, 3))
                    if chance.random() < 0.2:
                        return
                    prompt = estimate.prompt * chance.choice([0.1, 1, FIRST_RATIO, chance.uniform(0, FIRST_RATIO)])
                    real = {"prompt_tokens": prompt, "completion_tokens": chance.choice([0, 1, longest])}
                    self.owed += PRICE.cost_of(real)
                    self.most_owed = max(self.most_owed, self.owed)
                    usage = {} if chance.random() < 0.1 else real
                    self.done += 1
                finally:
                    self.budget.settle(reserved, estimate, usage)

        async def all_of_them() -> StopSignal:
            stop_signal, slots = StopSignal(), asyncio.Semaphore(at_once)
            self.budget.begin(stop_signal)
            await asyncio.gather(*(call(slots) for _ in range(self.calls)))
            return stop_signal

        self.stop_signal = passing(all_of_them())


def test_a_cap_is_never_passed_and_all_that_was_put_aside_is_given_back() -> None:
    ended_early = 0
    for seed in range(1000):
        run = Run(seed)
        assert run.most_owed <= run.budget.spent + 1e-12, "what is counted is at least what is owed"
        assert run.budget.spent <= run.cap + 1e-12, seed
        assert run.budget._reserved == pytest.approx(0, abs=1e-12)
        assert run.budget._outstanding == 0
        assert bool(run.stopped) == run.stop_signal.stopped
        ended_early += bool(run.stopped)
    assert 200 < ended_early < 850, "some end at their cap, and some do not come to it"


def spend(budget: Budget, usages: list[dict[str, float] | None], estimate: Estimate) -> tuple[int, StopSignal]:
    """The number of consecutive calls that the budget allows, with these usages, and the stop_signal."""

    async def one_by_one() -> tuple[int, StopSignal]:
        budget.begin(stop_signal := StopSignal())
        for number, usage in enumerate(usages):
            try:
                reserved = await budget.reserve(estimate)
            except Stopped:
                return number, stop_signal
            budget.settle(reserved, estimate, usage)
        return len(usages), stop_signal

    return passing(one_by_one())


def test_it_stops_exactly_when_the_next_call_could_pass_the_cap() -> None:
    # Each call may cost 4 × 100 × 2 + 50 × 8 = 1200 millionths of a dollar, and costs 100 × 2 + 10 × 8 = 280.
    usage = {"prompt_tokens": 100.0, "completion_tokens": 10.0}
    budget = Budget(max_cost=0.002, price=PRICE)
    went, stop_signal = spend(budget, [usage] * 99, Estimate(100, 10, 50))
    assert went == 3, "after two there are 1440 left, after three 1160"
    assert budget.spent == pytest.approx(3 * 280e-6)
    assert stop_signal.why == "--max-cost 0.002 is reached, with 0.0008 dollars spent"


def test_a_cap_that_is_met_exactly_is_not_passed() -> None:
    budget = Budget(max_cost=0.0012, price=PRICE)
    assert spend(budget, [{"prompt_tokens": 100.0, "completion_tokens": 50.0}], Estimate(100, 10, 50))[0] == 1
    budget = Budget(max_cost=0.0011999, price=PRICE)
    assert spend(budget, [None], Estimate(100, 10, 50))[0] == 0


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": 3.0}, {"completion_tokens": 3.0}])
def test_a_server_that_does_not_say_what_a_call_took_is_paid_the_most(usage: dict[str, float]) -> None:
    budget = Budget(max_cost=1.0, price=PRICE)
    spend(budget, [usage], Estimate(100, 10, 50))
    assert budget.spent == pytest.approx(1200e-6)


def test_a_server_that_never_says_is_not_asked_one_by_one_for_ever() -> None:
    async def together() -> int:
        budget, estimate, most = Budget(max_cost=1.0, price=PRICE), Estimate(100, 10, 50), 0
        budget.begin(StopSignal())

        async def call() -> None:
            nonlocal most
            reserved = await budget.reserve(estimate)
            most = max(most, budget._outstanding)
            await asyncio.sleep(1)
            budget.settle(reserved, estimate, {})

        await asyncio.gather(*(call() for _ in range(9)))
        return most

    assert passing(together()) == 8, "the first goes alone"


def test_a_picture_that_takes_more_than_any_text_is_learnt() -> None:
    budget = Budget(max_cost=1.0, price=PRICE)
    estimate = Estimate(100, 10, 50)
    spend(budget, [{"prompt_tokens": 1000.0, "completion_tokens": 0.0}], estimate)
    assert budget.most(estimate) == pytest.approx(1000 * 1.25 * 2e-6 + 50 * 8e-6)


def test_a_call_that_nobody_heard_the_end_of_counts_as_the_most_it_could_be() -> None:
    async def lost() -> Budget:
        budget, estimate = Budget(max_cost=1.0, price=PRICE), Estimate(100, 10, 50)
        budget.begin(StopSignal())
        budget.forfeit(await budget.reserve(estimate))
        return budget

    budget = passing(lost())
    assert budget.spent == pytest.approx(1200e-6)
    assert (budget._reserved, budget._outstanding) == (0, 0)


def test_a_stop_signal_wakes_who_waits_for_money() -> None:
    async def woken() -> list[Any]:
        budget, estimate = Budget(max_cost=0.0013, price=PRICE), Estimate(100, 10, 50)
        budget.begin(stop_signal := StopSignal())
        await budget.reserve(estimate)
        waiting = [asyncio.ensure_future(budget.reserve(estimate)) for _ in range(3)]
        await asyncio.sleep(0)
        stop_signal.stop("enough")
        return list(await asyncio.gather(*waiting, return_exceptions=True))

    assert [type(end) for end in passing(woken())] == [Stopped] * 3


def test_so_many_requests_and_no_more() -> None:
    async def ask() -> tuple[int, str]:
        budget = Budget(max_requests=3)
        budget.begin(stop_signal := StopSignal())
        for sent in range(9):
            try:
                budget.request()
            except Stopped:
                return sent, stop_signal.why
        return 9, ""

    assert passing(ask()) == (3, "--max-requests 3 is reached")


def test_what_calls_will_take_is_told_in_the_light_of_those_that_were_answered() -> None:
    budget, estimate = Budget(), Estimate(100, 60, 4096)
    assert budget.expected(estimate) == {"prompt_tokens": 100, "completion_tokens": 60}
    for answer in (10.0, 30.0):
        budget.settle(0, estimate, {"prompt_tokens": 150, "completion_tokens": answer})
    assert budget.expected(Estimate(200, 60, 4096)) == {"prompt_tokens": 300, "completion_tokens": 20}


def test_cached_tokens_cost_what_they_cost() -> None:
    usage = {"prompt_tokens": 1000.0, "cached_tokens": 400.0, "completion_tokens": 10.0}
    assert PRICE.cost_of(usage) == pytest.approx(600 * 2e-6 + 400 * 1e-6 + 10 * 8e-6)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-11-20", "gpt-4o"),
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("openai/gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o:free", "gpt-4o"),
        ("gpt-4.1-nano-2025", "gpt-4.1-nano"),
        ("gpt-4", None),
        ("gpt-4omega", None),
        ("gpt-4.15", None),
        ("my-gpt-4o", None),
        ("", None),
    ],
)
def test_a_price_is_that_of_the_longest_name_at_a_border_of_words(model: str, name: str | None) -> None:
    prices = table()
    found = price(model, prices)
    assert (found is None) == (name is None)
    if found and name:
        assert found.input == prices[name]["input"] / 1_000_000
        assert found.output == prices[name]["output"] / 1_000_000


def test_a_table_of_ones_own_is_laid_over(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('[gpt-4o]\ninput = 1\noutput = 2.5\n["qwen2.5-vl"]\ninput = 0\noutput = 0\n')
    prices = table(str(tmp_path / "own.toml"))
    assert price("gpt-4o-2024-11-20", prices) == Price(1e-6, 2.5e-6, 1e-6, 0.5, None)
    assert price("Qwen/Qwen2.5-VL", prices) is None, "names are told apart by case, as servers do"
    assert price("qwen/qwen2.5-vl-72b", prices) == Price(0, 0, 0, 0.5, None)
    assert price("gpt-4o-mini", prices) == price("gpt-4o-mini", table())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gpt-4o]\ninput = 1\n", "[gpt-4o] needs input and output, in dollars per million tokens"),
        ("gpt-4o = 3\n", "[gpt-4o] needs input and output"),
        ('[m]\ninput = "1"\noutput = 2\n', "[m]: input is not a number of at least 0"),
        ("[m]\ninput = -1\noutput = 2\n", "[m]: input is not a number of at least 0"),
        ("[m]\ninput = nan\noutput = 2\n", "[m]: input is not a number of at least 0"),
        ("[m]\ninput = inf\noutput = 2\n", "[m]: input is not a number of at least 0"),
        ("[m]\ninput = true\noutput = 2\n", "[m]: input is not a number of at least 0"),
        ("[m]\ninput = 1\noutput = 2\npicture = 765\n", "[m]: picture needs either base and tile, or most and times"),
        (
            "[m]\ninput = 1\noutput = 2\npicture = { base = 85 }\n",
            "[m]: picture needs either base and tile, or most and times",
        ),
        (
            '[m]\ninput = 1\noutput = 2\npicture = { base = 85, tile = "x" }\n',
            "[m]: tile is not a number of at least 0",
        ),
        ("[m\n", ""),
        (None, "no such file or directory"),
    ],
)
def test_a_table_that_is_not_right_is_told_in_one_line(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "own.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as raised:
        table(str(path))
    assert str(raised.value).startswith(f"--prices {path}: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("model", "size", "detail", "expected"),
    [
        # OpenAI's own examples: fit into 2048², the shorter side to 768, tiles of 512².
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4o", (512, 512), "", 255),
        ("gpt-4o", (512, 512), "auto", 255),
        ("gpt-4o", (513, 512), "high", 85 + 2 * 170),
        ("gpt-4o", (64, 64), "high", 255),
        ("gpt-4o", (768, 2048), "high", 85 + 2 * 4 * 170),
        ("gpt-4o-mini", (1024, 1024), "high", 2833 + 4 * 5667),
        ("gpt-4o-mini", (512, 512), "low", 2833),
        ("gpt-5", (1024, 1024), "high", 70 + 4 * 140),
        # Patches of 32²: 1024² has 32 × 32 of them; 1800 × 2400 has more than the maximum.
        ("gpt-4.1-mini", (1024, 1024), "", 1024 * 1.62),
        ("gpt-4.1-mini", (1800, 2400), "", 1536 * 1.62),
        ("gpt-4.1-nano", (33, 32), "", 2 * 2.46),
    ],
)
def test_pictures_take_the_tokens_their_maker_says(
    model: str, size: tuple[int, int], detail: str, expected: float
) -> None:
    found = price(model, table())
    assert found is not None
    assert picture_tokens(*size, detail, found.picture) == pytest.approx(expected)


def test_a_picture_for_a_model_of_which_nothing_is_known_is_counted_by_its_pixels() -> None:
    assert picture_tokens(448, 448, "", None) >= math.ceil(448 / 14) ** 2
    assert picture_tokens(448, 448, "", None) <= 1.1 * math.ceil(448 / 14) ** 2
