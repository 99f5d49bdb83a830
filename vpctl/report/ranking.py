"""Ranks several models by their wins against each other: the model of Bradley and Terry, on the scale of Elo."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from .intervals import SEED, Interval, percentiles, sums_of_resamples

ANCHOR = 1000.0
"""Elo of the first model."""
RESAMPLES = 1000
PRIOR = 0.5
"""Wins that each model is given against each other one, as if they had tied once. Without them, a model that always
wins would have no finite strength."""
LEAST = 1e-3
"""The same in a resample, where it would hide how strong a model may be."""
ITERATIONS, TOLERANCE = 10_000, 1e-7
_ELO = 400 / math.log(10)


class PromptResult(NamedTuple):
    """How two models compare on one prompt: by their numbers, and how often each won. A tie is half a win for both."""

    prompt: str
    first: int
    second: int
    first_wins: float
    second_wins: float


def elo(results: Sequence[PromptResult], models: int) -> list[Interval]:
    """The Elo of each model, with its 95 % interval, from a bootstrap over prompts. That of the first one is `ANCHOR`.

    There must be at least two prompts.

    The strengths are the maximum of the likelihood of Bradley and Terry (1952), with a tie as half a win for each side
    and with `PRIOR`. A difference of 400 means that the stronger model wins 10 times as often as it loses. `n` is the
    number of comparisons with the model, a tie or a win of either counting one.
    """
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(one.prompt for one in results))}
    wins = np.zeros((len(places), models, models))
    for prompt, first, second, first_wins, second_wins in results:
        wins[places[prompt], first, second] += first_wins
        wins[places[prompt], second, first] += second_wins
    total = wins.sum(0)
    counts = (total + total.T).sum(1)
    value = _strengths(total[None], PRIOR)[0]
    sums = sums_of_resamples(wins.reshape(len(places), -1), RESAMPLES)
    sampled = _strengths(_doubted(sums.reshape(RESAMPLES, models, models), wins), LEAST)
    ends = [percentiles(sampled[:, model], len(places)) for model in range(models)]
    ends[0] = ANCHOR, ANCHOR
    found = zip(value.tolist(), ends, counts.tolist(), strict=True)
    return [Interval(one, low, high, round(n), len(places)) for one, (low, high), n in found]


def _doubted(sums: np.ndarray, wins: np.ndarray) -> np.ndarray:
    """Sums of wins (R, K, K), with doubt where all prompts say the same of two models: there a bootstrap has none.

    Such are models of which one won every comparison, or that always tied. The share of wins is then drawn from its
    distribution by the prior of Jeffreys, with as many draws as there are prompts. `wins` has the wins by prompt
    (P, K, K).
    """
    rng = np.random.default_rng(SEED)
    found = sums.copy()
    for one, other in combinations(range(wins.shape[1]), 2):
        played = wins[:, one, other] + wins[:, other, one]
        shares = wins[played > 0, one, other] / played[played > 0]
        if len(shares) and np.ptp(shares) < 1e-12:
            likely = shares[0] * len(shares)
            drawn = rng.beta(likely + 0.5, len(shares) - likely + 0.5, size=len(sums))
            both = sums[:, one, other] + sums[:, other, one]
            found[:, one, other], found[:, other, one] = both * drawn, both * (1 - drawn)
    return found


def _strengths(wins: np.ndarray, prior: float) -> np.ndarray:
    """The Elo (R, K) of K models from R matrices of wins (R, K, K), by the iteration of Newman (2023, equation 27)."""
    models = wins.shape[1]
    wins = wins + prior * (1 - np.eye(models))
    strengths = np.ones(wins.shape[:2])
    for _ in range(ITERATIONS):
        before = strengths.copy()
        for model in range(models):  # one after the other: all at once, two models only change places
            among = strengths + strengths[:, [model]]
            beaten, lost = wins[:, model], wins[:, :, model]
            strengths[:, model] = (beaten * strengths / among).sum(1) / (lost / among).sum(1)
        strengths /= np.exp(np.log(strengths).mean(1, keepdims=True))
        if np.abs(np.log(strengths / before)).max() < TOLERANCE:
            break
    logs = np.log(strengths)
    found: np.ndarray = ANCHOR + _ELO * (logs - logs[:, :1])
    return found


def results_of(values: Mapping[tuple[int, int], Mapping[str, Sequence[float]]]) -> list[PromptResult]:
    """The results of win rates: for two models, the outcomes 1, 0.5 and 0 of the first one, by prompt."""
    return [
        PromptResult(prompt, first, second, sum(outcomes), len(outcomes) - sum(outcomes))
        for (first, second), by_prompt in values.items()
        for prompt, outcomes in by_prompt.items()
    ]


def every_two(models: int) -> list[tuple[int, int]]:
    """The pairs of numbers of models."""
    return [*combinations(range(models), 2)]
