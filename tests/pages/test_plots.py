"""Plots of a training, read as XML."""

import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from vpctl.pages.curves import FRAME
from vpctl.pages.plots import plot

SVG = "{http://www.w3.org/2000/svg}"


def points_of(line: ElementTree.Element) -> list[tuple[float, ...]]:
    return [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]


def test_both_series_have_the_same_axes_and_the_last_values_are_told() -> None:
    drawn = ElementTree.fromstring(
        plot(
            "loss & more", {"training": [(1, 1.0), (3, 0.0)], "validation": [(2, 0.5), (3, math.nan)]}, mark=(2, "kept")
        )
    )
    assert drawn.findtext(f"{SVG}title") == "loss & more"
    first, second = (points_of(line) for line in drawn.iter(f"{SVG}polyline"))
    (left, top), (right, bottom) = first
    assert (left, right) == (FRAME.left, FRAME.right)
    assert second == [pytest.approx(((left + right) / 2, (top + bottom) / 2), abs=0.01)], "nan cannot be drawn"
    texts = {text.text for text in drawn.iter(f"{SVG}text")}
    assert {"loss & more", "training 0", "validation 0.5", "kept"} <= texts
    places = {text.text: float(text.attrib["y"]) for text in drawn.iter(f"{SVG}text")}
    assert places["training 0"] - places["loss & more"] >= 12, "one below the other"
    mark = next(line for line in drawn.iter(f"{SVG}line") if line.attrib["class"] == "mark")
    assert float(mark.attrib["x1"]) == pytest.approx((left + right) / 2)


def test_a_long_series_has_its_moving_mean_and_a_bounded_size() -> None:
    noisy = [(float(step), step % 2 + step / 5000) for step in range(10_000)]
    drawn = ElementTree.fromstring(plot("loss", {"training": noisy}))
    raw, mean = (points_of(line) for line in drawn.iter(f"{SVG}polyline"))
    assert len(raw) <= 400
    assert not list(drawn.iter(f"{SVG}circle"))
    said = next(str(text.text) for text in drawn.iter(f"{SVG}text") if str(text.text).startswith("training"))
    assert float(said.split()[1]) == pytest.approx(0.5 + 2, abs=0.1), "the mean at the end, not the last step's value"
    jumps = [abs(after[1] - before[1]) for before, after in pairwise(mean)]
    assert max(jumps) < 3 < max(abs(after[1] - before[1]) for before, after in pairwise(raw))


def test_nothing_to_draw_is_no_error() -> None:
    ElementTree.fromstring(plot("loss", {"training": [(1, math.inf)]}))
