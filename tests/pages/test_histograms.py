import math

import pytest

from vpctl.pages.curves import FRAME
from vpctl.pages.histograms import BINS, distributions, share_above, shares


def test_shares_of_bins_by_hand() -> None:
    found = shares([0.0, 0.0, 0.5, 1.0], 0.0, 1.0)
    assert (found[0], found[BINS // 2], found[-1]) == (0.5, 0.25, 0.25)
    assert sum(found) == 1.0
    assert len(found) == BINS


def test_equal_scores_count_one_half() -> None:
    assert share_above([1.0, 2.0, 2.0, 3.0], 2.0) == 0.5


def test_a_tuned_model_over_the_base() -> None:
    scores = {"r": {"base": [1.0, 2.0, math.nan], "dpo": [2.0, 3.0], "none": []}, "alone": {"base": [1.0]}}
    (found,) = distributions(scores, {"dpo": "tuned"})
    assert (found.base, found.tuned, found.base_mean, found.tuned_mean) == ("base", "tuned", "1.50", "2.50")
    assert (found.above, found.left_out) == (1.0, 1)
    assert max(height for *_, height in found.bars) == FRAME.bottom - FRAME.top
    assert sum(height for *_, height in found.bars) == pytest.approx(2 * (FRAME.bottom - FRAME.top))
    assert found.line[0] == (FRAME.left, FRAME.bottom)
    assert found.line[-1] == (FRAME.right, FRAME.bottom)


def test_scores_that_are_all_equal() -> None:
    (found,) = distributions({"r": {"base": [2.0, 2.0], "dpo": [2.0]}}, {})
    assert len(found.bars) == 1
    assert found.above == 0.5
