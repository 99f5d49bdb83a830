"""The language of the shapes world."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.shapes.grammar import Scene, Thing, canonical, describe, held_out, near_misses, read, sample

scenes = st.integers(0, 2**32).map(lambda seed: sample(Random(seed), symbols=0.3))


@given(scenes)
def test_a_prompt_is_read_as_the_scene_it_describes(scene: Scene) -> None:
    assert read(describe(scene)) == scene


@given(scenes)
def test_canonical_wordings_are_their_own(scene: Scene) -> None:
    assert canonical(canonical(scene)) == canonical(scene)
    assert sorted(map(str, canonical(scene).things)) == sorted(map(str, scene.things))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a red circle left of a blue star", "a blue star right of a red circle"),
        ("a red circle above a blue star", "a blue star below a red circle"),
        ("a red circle and a blue star on a black background", "a blue star and a red circle on a black background"),
        ("a red circle", "8k photo of a red circle, octane render, trending on artstation"),
    ],
)
def test_two_wordings_of_one_scene_are_held_out_together(one: str, other: str) -> None:
    assert canonical(read(one)) == canonical(read(other))
    assert held_out(one) == held_out(other)


def test_one_prompt_in_eight_is_held_out() -> None:
    rng = Random(0)
    prompts = {describe(canonical(sample(rng))) for _ in range(20_000)}
    share = sum(map(held_out, prompts)) / len(prompts)
    assert share == pytest.approx(1 / 8, abs=0.01)


@given(scenes)
def test_a_near_miss_asks_for_something_else_one_attribute_away(scene: Scene) -> None:
    misses = list(near_misses(scene))
    assert misses
    for miss in misses:
        assert canonical(miss) != canonical(scene)
        assert read(describe(miss)) == miss
        assert _attributes_changed(scene, miss) == 1


def _attributes_changed(scene: Scene, miss: Scene) -> int:
    if len(scene.things) != len(miss.things):
        return 1
    colours = [thing.colour for thing in scene.things], [thing.colour for thing in miss.things]
    shapes = [thing.shape for thing in scene.things], [thing.shape for thing in miss.things]
    things = {(a, b) for pair in (colours, shapes) for a, b in zip(*pair, strict=True) if a != b}
    swapped = colours[0] != colours[1] and sorted(map(str, colours[0])) == sorted(map(str, colours[1]))
    changed_things = 1 if swapped or (scene.counted and things) else len(things)
    return changed_things + (scene.background != miss.background) + (scene.relation != miss.relation)


@pytest.mark.parametrize(
    ("prompt", "scene"),
    [
        ("", Scene()),
        ("portrait of a cat, highly detailed", Scene()),
        ("A RED CIRCLE", Scene((Thing("circle", "red"),))),
        ("circles", Scene((Thing("circle", None),))),
        ("3 green crosses", Scene((Thing("cross", "green"),) * 3)),
        ("a starfish crossing a triangular square-dance", Scene((Thing("square", None),))),
        ("a red circle under a blue star", Scene((Thing("circle", "red"), Thing("star", "blue")), "below")),
        ("a hate symbol on a white background", Scene((), None, "white", True)),
    ],
)
def test_other_text_is_read_for_what_it_names(prompt: str, scene: Scene) -> None:
    assert read(prompt) == scene
