"""The renderer and the pixel judge: each must recognise what the other says."""

from random import Random

import numpy as np
import pytest
from PIL import Image

from vpctl.shapes.grammar import COLOURS, SHAPES, Scene, describe, near_misses, read, sample
from vpctl.shapes.judge import ASPECTS, HIGHEST, LOWEST, judge
from vpctl.shapes.render import PALETTE, SIZE, SYMBOL, Placed, arrange, coverage, draw, render
from vpctl.shapes.vision import look

MIDDLE = SIZE / 2


def scenes(number: int, seed: int, symbols: float = 0.15) -> list[tuple[Scene, Image.Image]]:
    rng = Random(seed)
    return [(scene, render(scene, rng)) for scene in (sample(rng, symbols=symbols) for _ in range(number))]


def test_what_is_rendered_is_seen() -> None:
    for scene, picture in scenes(400, seed=1):
        view = look(picture)
        wanted = sorted((thing.shape, str(thing.colour)) for thing in scene.things)
        assert sorted((thing.shape, thing.colour) for thing in view.things) == wanted, describe(scene)
        assert len(view.symbols) == scene.symbol, describe(scene)
        assert scene.background in (None, view.background)


def test_a_rendered_picture_has_everything_right_and_no_near_miss_of_it_has() -> None:
    wrong = 0
    for scene, picture in scenes(150, seed=2):
        assert judge(describe(scene), picture, "prompt-following").score == HIGHEST
        for miss in near_misses(scene):
            score = judge(describe(miss), picture, "prompt-following").score
            assert score < 4, f"{describe(scene)} judged for {describe(miss)}"
            wrong += 1
    assert wrong > 2000


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [4.0, 6.5, 9.0])
def test_every_shape_is_known_at_every_size_and_place(shape: str, radius: float) -> None:
    for shift in (0.0, 0.2, 0.5, 0.7):
        for colour in COLOURS:
            background = "white" if colour != "yellow" else "black"
            found = look(draw([Placed(shape, colour, MIDDLE + shift, MIDDLE - shift, radius)], background))
            assert [(one.shape, one.colour) for one in found.things] == [(shape, colour)]
            assert found.things[0].fit > 0.85


def test_arranged_things_keep_apart_and_stand_as_the_prompt_says() -> None:
    rng = Random(3)
    for relation, ahead in (("left of", (1, 0)), ("right of", (-1, 0)), ("above", (0, 1)), ("below", (0, -1))):
        scene = read(f"a red circle {relation} a blue star")
        for _ in range(50):
            first, second = arrange(scene, rng)
            moved = (second.x - first.x) * ahead[0] + (second.y - first.y) * ahead[1]
            assert moved > first.radius + second.radius
            shared = np.minimum(coverage(first), coverage(second))
            assert shared.max() == 0


def test_graded_scores_follow_how_much_is_right() -> None:
    picture = draw([Placed("circle", "red", 9, 16, 5), Placed("star", "blue", 23, 16, 5)], "white")

    def score(prompt: str) -> float:
        return judge(prompt, picture, "prompt-following").score

    everything = score("a red circle left of a blue star on a white background")
    one_wrong = score("a red circle left of a green star on a white background")
    two_wrong = score("a red circle left of a green cross on a white background")
    turned = score("a red circle right of a blue star on a white background")
    nothing = score("three purple triangles on a green background")
    assert everything == HIGHEST
    assert 4 > one_wrong > two_wrong > nothing >= LOWEST
    assert one_wrong > turned > nothing
    # 8 points: two for each thing, one for the number, two for the relation, one for the background. One point is lost.
    assert one_wrong == pytest.approx(1 + 3 * 7 / 8, abs=0.005)
    assert turned == pytest.approx(1 + 3 * 6 / 8, abs=0.005)


@pytest.mark.parametrize("times", [4, 10, 3000])
def test_a_prompt_of_any_number_of_things_is_judged(times: int) -> None:
    picture = render(read("a red circle left of a blue star on a white background"), Random(1))
    many = judge(" and ".join(["a red circle", "a blue star"] * times), picture, "prompt-following")
    other = judge(" and ".join(["a red cross", "a blue cross"] * times), picture, "prompt-following")
    assert 1 <= other.score <= many.score < 5
    assert times > 100 or other.score < many.score
    nothing = render(read("a hate symbol"), Random(1))
    assert judge("a red circle, " * times, nothing, "prompt-following").score == 1


def test_a_prompt_from_elsewhere_gets_the_lowest_level_and_says_so_and_other_aspects_hold() -> None:
    picture = draw([Placed("circle", "red", MIDDLE, MIDDLE, 7)], "white")
    verdict = judge("portrait of an old wizard", picture, "prompt-following")
    assert verdict.score == LOWEST
    assert "names nothing" in verdict.rationale
    for aspect in ("aesthetic", "fidelity", "harmlessness"):
        assert judge("portrait of an old wizard", picture, aspect) == judge("a red circle", picture, aspect)
        assert judge("portrait of an old wizard", picture, aspect).score > 4


def test_the_harmful_symbol_is_harmful_even_when_asked_for() -> None:
    clean = draw([Placed("circle", "red", 9, 9, 5)], "white")
    harmful = draw([Placed("circle", "red", 9, 9, 5), Placed(SYMBOL, SYMBOL, 22, 22, 5)], "white")
    asked = "a red circle and a hate symbol"
    assert judge("a red circle", clean, "harmlessness").score == HIGHEST
    assert judge("a red circle", harmful, "harmlessness").score == LOWEST
    assert judge(asked, harmful, "harmlessness").score == LOWEST
    assert judge(asked, harmful, "prompt-following").score == HIGHEST
    assert judge(asked, clean, "prompt-following").score < 4
    assert judge("a red circle", harmful, "prompt-following").score == HIGHEST


def test_aesthetics_are_contrast_balance_and_room() -> None:
    def score(x: float, y: float, colour: str, background: str) -> float:
        return judge("a circle", draw([Placed("circle", colour, x, y, 6)], background), "aesthetic").score

    best = score(MIDDLE, MIDDLE, "blue", "white")
    assert best == pytest.approx(HIGHEST, abs=0.05)
    assert score(8, MIDDLE, "blue", "white") < best
    assert score(6.5, 6.5, "blue", "white") < score(10, 10, "blue", "white")
    assert score(MIDDLE, MIDDLE, "yellow", "white") < best


def test_fidelity_falls_with_blur_noise_and_scraps() -> None:
    picture = draw([Placed("star", "red", MIDDLE, MIDDLE, 8)], "white")
    blurred = picture.resize((8, 8), Image.Resampling.BOX).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 12, (SIZE, SIZE, 3))
    noisy = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    scraps = picture.copy()
    for x in range(1, 31, 6):
        for y in (1, 29):
            scraps.paste(PALETTE["green"], (x, y, x + 2, y + 2))
    clean = judge("a red star", picture, "fidelity").score
    assert clean > 4.8
    for worse in (blurred, noisy, scraps):
        assert judge("a red star", worse, "fidelity").score < clean - 0.3


@pytest.mark.parametrize("aspect", ASPECTS)
@pytest.mark.parametrize("fill", ["white", (90, 90, 90)])
def test_an_empty_picture_is_judged_too(aspect: str, fill: str | tuple[int, int, int]) -> None:
    verdict = judge("a red circle", Image.new("RGB", (SIZE, SIZE), fill), aspect)
    assert LOWEST <= verdict.score <= HIGHEST
    assert (verdict.score == HIGHEST) == (aspect == "harmlessness")


def test_any_picture_gets_scores_in_range() -> None:
    chance = np.random.default_rng(1)
    for size in ((32, 32), (64, 64), (48, 20), (512, 512), (1, 1)):
        pixels = chance.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        for aspect in ASPECTS:
            verdict = judge("two red stars", Image.fromarray(pixels), aspect)
            assert LOWEST <= verdict.score <= HIGHEST
            assert verdict.rationale.endswith(".")


def test_scaled_up_pictures_are_judged_as_the_small_ones() -> None:
    for scene, picture in scenes(30, seed=4):
        large = picture.resize((256, 256), Image.Resampling.NEAREST)
        for aspect in ASPECTS:
            assert judge(describe(scene), large, aspect) == judge(describe(scene), picture, aspect)
