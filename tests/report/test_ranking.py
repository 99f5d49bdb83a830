"""Elo: against the closed form for two models, against a fit by scipy, and its properties."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import minimize

from vpctl.report.ranking import ANCHOR, PRIOR, PromptResult, elo, results_of

ELO = 400 / math.log(10)


def test_of_two_models_the_difference_is_the_logit_of_the_win_rate() -> None:
    results = [PromptResult(str(n), 0, 1, float(n % 4 == 0), float(n % 4 != 0)) for n in range(40)]
    first, second = elo(results, 2)
    assert (first.value, first.low, first.high) == (ANCHOR, ANCHOR, ANCHOR)
    assert second.value == pytest.approx(ANCHOR + ELO * math.log((30 + PRIOR) / (10 + PRIOR)), abs=1e-4)
    assert second.n == 40
    assert ANCHOR < second.low < second.value < second.high


def test_of_several_models_it_is_the_most_likely_one() -> None:
    """Compared with a maximisation of the likelihood by scipy."""
    rng = np.random.default_rng(2)
    strengths = np.array([0.0, 0.7, -0.4, 1.5])
    results = []
    for prompt in range(80):
        for one, other in combinations(range(4), 2):
            won = float(rng.random() < 1 / (1 + math.exp(strengths[other] - strengths[one])))
            results.append(PromptResult(str(prompt), one, other, won, 1 - won))
    wins = PRIOR * (1 - np.eye(4))
    for _, one, other, mine, theirs in results:
        wins[one, other] += mine
        wins[other, one] += theirs

    def unlikely(free: np.ndarray) -> float:
        theta = np.array([0.0, *free])
        return float((wins * np.log1p(np.exp(theta[None, :] - theta[:, None]))).sum())

    best = minimize(unlikely, np.zeros(3), method="BFGS").x
    assert [one.value - ANCHOR for one in elo(results, 4)[1:]] == pytest.approx(ELO * best, abs=0.01)


def test_exchanged_models_have_opposite_strengths_and_ties_are_half_wins() -> None:
    results = [PromptResult(str(n), 0, 1, 1.0 if n < 20 else 0.5, 0.0 if n < 20 else 0.5) for n in range(30)]
    turned = [PromptResult(prompt, 0, 1, theirs, mine) for prompt, _, _, mine, theirs in results]
    assert elo(results, 2)[1].value - ANCHOR == pytest.approx(ANCHOR - elo(turned, 2)[1].value, abs=1e-4)
    ties = elo([PromptResult(str(n), 0, 1, 0.5, 0.5) for n in range(9)], 2)
    assert ties[1].value == pytest.approx(ANCHOR)


@pytest.mark.parametrize("prompts", [3, 30])
def test_who_wins_everything_is_stronger_by_nobody_knows_how_much(prompts: int) -> None:
    """A bootstrap of equal outcomes sees no doubt. With 3 prompts, a fair coin wins all in one case of 8."""
    found = elo([PromptResult(str(n), 0, 1, 0.0, 1.0) for n in range(prompts)], 2)[1]
    assert found.high - found.low > 100
    assert (found.low > ANCHOR) == (prompts == 30)


def test_results_are_sums_of_outcomes_by_prompt() -> None:
    assert results_of({(0, 1): {"p": [1.0, 0.5], "q": [0.0]}}) == [
        PromptResult("p", 0, 1, 1.5, 0.5),
        PromptResult("q", 0, 1, 0.0, 1.0),
    ]
