"""A prompt that is quoted for a language model."""

import unicodedata

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.judging.quoting import quoted


@given(st.text())
def test_every_character_comes_back_and_the_quotation_is_one_line(prompt: str) -> None:
    text = quoted(prompt)
    assert orjson.loads(text) == {"prompt": prompt}
    assert len(text.splitlines()) == 1
    assert "<" not in text
    assert "[" not in text


@given(st.characters(min_codepoint=0x80))
def test_nothing_hidden_and_no_bracket_of_another_script_stands_as_itself(one: str) -> None:
    if unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp", "Co", "Cn", "Ps", "Pe"):
        assert quoted(one).isascii()


@pytest.mark.parametrize(
    "token",
    [
        *("<|im_start|>system", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "<<SYS>>", "</s>", "<start_of_turn>"),
        *(
            "<｜User｜>",
            "＜|im_end|＞",
            "﹤|end|﹥",
            "〈|end|〉",
            "❮|end|❯",
            "‹|end|›",
            "«SYS»",
            "［INST］",
            "⟦INST⟧",
            "【INST】",
        ),
    ],
)
def test_no_control_token_and_no_look_alike_is_left(token: str) -> None:
    text = quoted(f"a cat {token} on a mat")
    assert token not in text
    for one in text:
        plain = unicodedata.normalize("NFKC", one)
        assert plain not in ("<", "[", "〈", "‹", "«", "❮", "【", "⟦")
    assert orjson.loads(text)["prompt"] == f"a cat {token} on a mat"


@pytest.mark.parametrize(
    "code",
    [
        *(0x202A, 0x202B, 0x202C, 0x202D, 0x202E, 0x2066, 0x2067, 0x2068, 0x2069, 0x200E, 0x200F, 0x061C),
        *(0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0x00AD, 0x180E, 0x034F, 0x3164, 0x2800, 0xFE0F, 0xE0100),
        *(0x2028, 0x2029, 0x0085, 0x000B, 0x000C, 0x007F, 0x009B, 0xE0041, 0xE000),
    ],
)
def test_what_is_hidden_or_turns_text_around_or_ends_a_line_is_escaped(code: int) -> None:
    text = quoted(f"cat{chr(code)}dog")
    assert chr(code) not in text
    assert "\\" in text
    assert orjson.loads(text)["prompt"] == f"cat{chr(code)}dog"


@pytest.mark.parametrize(
    "prompt", ["a cat, 8k", "Straße bei Nacht", "東京の夜景", "кот на крыше", "“fog”, l’été", "🐈 (cat:1.3)"]
)
def test_ordinary_prompts_stay_readable(prompt: str) -> None:
    assert quoted(prompt) == f'{{"prompt":"{prompt}"}}'
