"""The learned rate alone: what it measures, keeps and forgets, with times of our own."""

import math

import pytest

from vpctl.api.rate import FORGOTTEN_SECONDS, GROWTH_SECONDS, KEPT, LearnedRate
from vpctl.api.window import Episode

BY_TIME = Episode(limit=32, in_flight=32, rejected=32)
TOO_MANY_IN_FLIGHT = Episode(limit=32, in_flight=32, rejected=2)


def sent(rate: LearnedRate, accepted: int, rejected: int = 0) -> None:
    for _ in range(accepted + rejected):
        rate.sent()
    for _ in range(rejected):
        rate.rejected()


def learned(accepted: int = 598, seconds: float = 60.0) -> LearnedRate:
    """One that was measured from second 0 on."""
    rate = LearnedRate(0.0)
    sent(rate, accepted, 10)
    assert rate.learn(BY_TIME, seconds, seconds + 1, 1.0)
    return rate


def test_no_rate_is_no_interval() -> None:
    rate = LearnedRate(0.0)
    rate.grow(100.0, 1.0)
    assert rate.per_second == math.inf
    assert rate.interval == 0


def test_a_rate_is_what_was_accepted_in_the_time_until_the_next_answer() -> None:
    rate = learned()
    assert rate.per_second == pytest.approx(10, rel=0.01)
    assert rate.interval == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize(
    "episode",
    [TOO_MANY_IN_FLIGHT, Episode(limit=32, in_flight=32, rejected=32, in_slow_start=True)],
    ids=["few of many", "slow start"],
)
def test_an_episode_that_the_window_explains_teaches_nothing(episode: Episode) -> None:
    rate = LearnedRate(0.0)
    sent(rate, 600, 2)
    assert not rate.learn(episode, 60.0, 61.0, 1.0)
    assert rate.per_second == math.inf
    sent(rate, 298, 10)
    assert rate.learn(BY_TIME, 90.0, 91.0, 1.0)
    assert rate.per_second == pytest.approx(10, rel=0.01), "counted from the last episode, not from the start"


def test_a_known_rate_is_corrected_downward_and_keeps_nine_tenths_of_itself() -> None:
    rate = learned()
    before = rate.per_second
    sent(rate, 900, 10)
    assert rate.learn(BY_TIME, 120.0, 121.0, 1.0)
    assert rate.per_second == before, "what was accepted above the rate does not raise it"
    sent(rate, 60, 10)
    assert rate.learn(BY_TIME, 180.0, 181.0, 1.0)
    assert rate.per_second == pytest.approx(KEPT * before)


def test_few_calls_right_after_a_burst_are_measured_together_with_it() -> None:
    """As by a server that counts the calls of the last minute."""
    rate = LearnedRate(0.0)
    sent(rate, 600, 1)
    assert not rate.learn(TOO_MANY_IN_FLIGHT, 60.0, 60.0, 1.0)
    sent(rate, 1, 1)
    assert rate.learn(BY_TIME, 64.0, 64.0, 1.0)
    assert rate.per_second == pytest.approx(601 / 64)


def test_a_known_rate_is_the_cause_where_the_window_had_room() -> None:
    rate = learned()
    sent(rate, 570, 1)
    had_room = Episode(limit=32, in_flight=10, rejected=1)
    assert rate.learn(had_room, 120.0, 121.0, 1.0)
    assert not LearnedRate(0.0).learn(had_room, 120.0, 121.0, 1.0), "an unknown rate is not"


def test_a_rate_is_no_lower_than_a_twentieth_of_sequential_calls() -> None:
    assert learned(accepted=0, seconds=3600.0).per_second == 0.05


def test_a_rate_grows_with_the_time_that_no_call_is_rejected() -> None:
    rate = learned()
    before = rate.per_second
    for second in range(62, 62 + int(GROWTH_SECONDS)):
        rate.grow(float(second), 1.0)
    soon = rate.per_second / before
    rate = learned()
    rate.grow(61.0 + 20 * GROWTH_SECONDS, 1.0)
    late = rate.per_second / before
    assert 1.05 <= soon < 1.1
    assert late == pytest.approx(1 + 0.002 * 21), "one answer raises it by little, however late, but by more than early"


def test_a_rate_that_cures_nothing_is_forgotten_and_none_is_learned_for_a_while() -> None:
    rate, now = learned(), 61.0
    while rate.per_second < math.inf:
        now += 60
        sent(rate, 1, 10)
        assert rate.learn(BY_TIME, now, now, 1.0)
        assert now < 1000
    assert now > 61 + 5 * 60, "not at once"
    sent(rate, 600, 10)
    assert not rate.learn(BY_TIME, now + FORGOTTEN_SECONDS - 1, now + FORGOTTEN_SECONDS - 1, 1.0)
    sent(rate, 600, 10)
    assert rate.learn(BY_TIME, now + FORGOTTEN_SECONDS + 59, now + FORGOTTEN_SECONDS + 59, 1.0)
    assert rate.per_second == pytest.approx(10, rel=0.01)
