"""How many tokens pictures take, by the rules of the models' makers. The numbers are computed by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.api.picture_tokens import RULES, Patches, Tiles, family_rule, picture_tokens, read_rule


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
        ("o3", (1024, 1024), "high", 75 + 4 * 150),
        # Patches of 32²: 1024² has 32 × 32 of them. OpenAI's own example: 1800 × 2400 shrinks to 33 × 44 patches.
        ("gpt-4.1-mini", (1024, 1024), "", 1024 * 1.62),
        ("gpt-4.1-mini", (1800, 2400), "", 33 * 44 * 1.62),
        ("gpt-4.1-nano", (33, 32), "", 2 * 2.46),
        ("openai/gpt-5.6-sol", (1024, 1000), "", 32 * 32 * 1.2),
        ("gpt-5.4", (1600, 1600), "", 50 * 50 * 1.2),
        ("o4-mini", (32, 32), "", 1.72),
        # Gemini 2: 258 for each crop, whose side is the shorter side / 1.5. 540 / 1.5 = 360; 960 / 360 = 2.7.
        ("gemini-2.5-flash", (384, 384), "", 258),
        ("gemini-2.5-flash", (385, 384), "", 2 * 2 * 258),
        ("google/gemini-2.5-flash", (960, 540), "", 3 * 2 * 258),
        ("gemini-2.5-pro", (1024, 1024), "", 2 * 2 * 258),
        ("gemini-2.5-pro", (3000, 2000), "", 4 * 3 * 258),
        # Gemini 3: each picture takes the same.
        ("gemini-3-flash-preview", (64, 4000), "", 1120),
        ("gemini-3-pro-preview", (1024, 1024), "low", 280),
        # Claude: patches of 28². 1000 / 28 = 35.7. A large one fits into 1568 and has at most 1568 patches.
        ("claude-sonnet-4-20250514", (1000, 1000), "", 36 * 36),
        ("claude-sonnet-4-5", (200, 200), "", 8 * 8),
        ("claude-3-5-sonnet-latest", (1092, 1092), "", 39 * 39),
        # 4000 × 3000: 1568 × 1176 has 56 × 42 = 2352 patches; √(1568 / 2352) leaves 45.7 × 34.3, so 45 × 34 at most.
        ("claude-3-5-sonnet-latest", (4000, 3000), "", 45 * 34),
        ("anthropic/claude-opus-4.7", (2000, 1000), "", 72 * 36),
        ("claude-opus-4-6", (1568, 28), "", 56),
        # Grok: 256 for each tile of 448², at most six, and one more.
        ("grok-4", (448, 448), "", 2 * 256),
        ("x-ai/grok-4", (449, 448), "", 3 * 256),
        ("grok-4", (1024, 1024), "", 7 * 256),
        ("grok-4", (1024, 1024), "low", 256),
        # Qwen: tokens of 28² pixels, of 32² from Qwen3 on, and two around each picture.
        ("qwen/qwen2.5-vl-72b-instruct", (1024, 1024), "", 37 * 37 + 2),
        ("Qwen/Qwen2.5-VL-7B-Instruct", (560, 280), "", 20 * 10 + 2),
        ("qwen3-vl-plus", (1024, 512), "", 32 * 16 + 2),
        # Pixtral: patches of 16² in at most 1024², with a token after each row.
        ("pixtral-12b", (1024, 1024), "", 64 * 64 + 64),
        ("pixtral-large-2411", (2048, 1024), "", 64 * 32 + 32),
        # Mistral's later models: tokens of 28² pixels in at most 1540².
        ("mistralai/mistral-medium-3.1", (1540, 1540), "", 55 * 55 + 55),
        ("mistral-small-2506", (1024, 512), "", 37 * 19 + 19),
    ],
)
def test_pictures_take_the_tokens_their_maker_says(
    model: str, size: tuple[int, int], detail: str, expected: float
) -> None:
    assert picture_tokens(*size, detail, family_rule(model)) == pytest.approx(expected)


@pytest.mark.parametrize("model", ["judge", "", "my-gpt-4o", "gpt-4", "gpt-4o1", "llava-1.6", "openai/judge"])
def test_a_model_of_no_known_family_has_no_rule(model: str) -> None:
    assert family_rule(model) is None


def test_a_picture_for_a_model_of_which_nothing_is_known_is_counted_by_its_pixels() -> None:
    assert picture_tokens(448, 448, "", None) >= math.ceil(448 / 14) ** 2
    assert picture_tokens(448, 448, "", None) <= 1.1 * math.ceil(448 / 14) ** 2


SIDES = st.integers(1, 16_384)


@given(SIDES, SIDES, st.sampled_from(sorted(RULES)))
def test_every_picture_takes_some_tokens_and_no_more_than_its_family_allows(width: int, height: int, name: str) -> None:
    rule = RULES[name]
    found = rule.tokens(width, height, "high")
    assert found > 0
    if isinstance(rule, Patches):
        assert found <= rule.most * rule.times + rule.plus + rule.row * (rule.fit or max(width, height)) / rule.side + 1
    assert rule.tokens(width, height, "low") <= found


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        ({"base": 85, "tile": 170}, Tiles(85, 170)),
        ({"base": 256, "tile": 256, "side": 448}, Tiles(256, 256, 448)),
        ({"most": 1536, "times": 1.62}, Patches(1536, 1.62)),
        ({"most": 1000, "side": 28}, Patches(1000, side=28)),
        ({"base": 85}, None),
        ({"most": 1, "tile": 1}, None),
        ({"base": 85, "tile": 170, "colour": 1}, None),
        (765, None),
    ],
)
def test_a_rule_of_ones_own_is_read(entry: object, rule: object) -> None:
    assert read_rule(entry) == rule
