from hypothesis import given
from hypothesis import strategies as st

from vpctl.report.calibration import Reference

SCORES = st.lists(st.floats(-1e50, 1e50) | st.integers(-3, 3).map(float), min_size=2, max_size=300)


@given(SCORES, st.lists(st.floats(-1e60, 1e60), max_size=20))
def test_a_percentile_rises_with_the_score_from_0_to_100(scores: list[float], others: list[float]) -> None:
    reference = Reference.of(scores, "")
    asked = sorted([*scores, *others])
    found = [reference.percentile(score) for score in asked]
    assert found == sorted(found)
    assert all(0 <= one <= 100 for one in found)
    assert reference.percentile(min(scores) - 1e60) == 0
    assert reference.percentile(max(scores) + 1e60) == 100


@given(SCORES)
def test_a_percentile_is_the_inverse_of_a_quantile(scores: list[float]) -> None:
    """Where several quantiles are equal, it is the middle of them."""
    reference = Reference.of(scores, "")
    for quantile in reference.quantiles:
        equal = [place for place, one in enumerate(reference.quantiles) if one == quantile]
        assert reference.percentile(quantile) == (equal[0] + equal[-1]) / 2
    for place, (low, high) in enumerate(zip(reference.quantiles, reference.quantiles[1:], strict=False)):
        if low < (middle := low / 2 + high / 2) < high:
            assert place <= reference.percentile(middle) <= place + 1


@given(SCORES, st.floats(-1e50, 1e50))
def test_a_percentile_is_symmetric(scores: list[float], score: float) -> None:
    """If all scores change their sign, it is counted from the other end; equal scores count half from both ends."""
    reference = Reference.of([*scores, score], "")
    mirrored = Reference.of([-one for one in [*scores, score]], "")
    for one in (score, scores[0], (score + scores[0]) / 2):
        assert abs(reference.percentile(one) + mirrored.percentile(-one) - 100) < 1e-6 or _is_between_equals(reference)


def _is_between_equals(reference: Reference) -> bool:
    """Whether two quantiles differ only by rounding, so that ties of one direction are none of the other."""
    steps = [high - low for low, high in zip(reference.quantiles, reference.quantiles[1:], strict=False)]
    return any(0 < step < 1e-9 * max(map(abs, reference.quantiles)) for step in steps)


@given(st.lists(st.integers(0, 9).map(float), min_size=50, max_size=400), st.integers(-1, 10))
def test_a_percentile_is_the_share_of_lower_scores_and_half_of_the_equal_ones(scores: list[float], score: int) -> None:
    """Up to the resolution of the quantiles, which is one percent, and one picture."""
    share = sum(one < score for one in scores) + sum(one == score for one in scores) / 2
    found = Reference.of(scores, "").percentile(float(score))
    assert abs(found - 100 * share / len(scores)) <= 1 + 100 / len(scores)
