"""Reading the answers of models: what is accepted and what is rejected."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vpctl.api.answers import loads, parse
from vpctl.errors import Unusable

WANTED = {"A": {"rationale": 'a } and a { of "wood"', "level": "4 Good"}, "ranking": ["A"]}
TEXT = orjson.dumps(WANTED).decode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"  {TEXT}\n",
        f"```json\n{TEXT}\n```",
        f"```\n{TEXT}\n```",
        f"Here you are:\n\n```json\n{TEXT}\n```\n\nAnything {{else}}?",
        f"I looked closely. {TEXT} I hope that this helps.",
        f'```json\n{{"draft": 1}}\n```\nOn reflection:\n```json\n{TEXT}\n```',
        json.dumps(WANTED, indent=2),
    ],
)
def test_an_object_is_found_however_it_is_wrapped(text: str) -> None:
    assert parse(text) == WANTED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1,}', {"a": 1}),
        ('{"a": [1, 2,],}', {"a": [1, 2]}),
        ("{'a': 'b'}", {"a": "b"}),
        ("{'a': 'it's red', 'b': 2}", {"a": "it's red", "b": 2}),
        ('{"a": "the "red" ball"}', {"a": 'the "red" ball'}),
        ("{a: 1, b: 2}", {"a": 1, "b": 2}),
        ('{"a": 1 /* sure */}', {"a": 1}),
        ('```json\n{"a": 1,}\n```\nThanks, {you}!', {"a": 1}),
        ('{"a": 1}}', {"a": 1}),
    ],
)
def test_small_slips_are_mended(text: str, expected: object) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " \n",
        "I would rather talk",
        "42",
        '"text"',
        "null",
        "[1, 2, 3]",
        '[{"a": 1}, {"a": 2}]',
        'These: [{"a": 1}, {"a": 2}]',
        '{"a": 1} {"a": 2}',
        '{"a": 1}\n\nor rather\n\n{"a": 2}',
        "{",
        "}{",
        '{"prompt": "a } b',
        '{"prompt": "a }} b", "other": "c',
        "{'prompt': 'a } b",
        '{"a": [1, 2}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a":' * 5_000 + "1" + "}" * 5_000 + ",",
        "```json\n" + "\n" * 1_000_000,  # models that are forced to write JSON produce this; parsing it must be fast
    ],
)
def test_what_is_not_one_whole_object_is_nothing(text: str | None) -> None:
    with pytest.raises(Unusable) as raised:
        parse(text)
    assert raised.value.raw == (text or "")
    assert len(str(raised.value)) < 200


@given(st.integers(0, len(TEXT) - 1))
def test_what_was_cut_off_is_never_made_up(length: int) -> None:
    for text in (
        TEXT[:length],
        f"Well: {TEXT[:length]}",
        f"```json\n{TEXT[:length]}\n```",
        f"```json\n{TEXT[:length]}",
    ):
        with pytest.raises(Unusable):
            parse(text)


@given(
    st.dictionaries(st.text(), st.text() | st.integers(-9, 9) | st.lists(st.text()), min_size=1),
    st.text("ab {}\"'\n,:"),
)
@example({"": "</think>"}, "")
def test_whole_json_comes_through_and_with_words_around_it_never_as_something_else(
    value: dict[str, Any], around: str
) -> None:
    text = json.dumps(value)
    assert parse(text) == value
    if "</think>" in text:  # with words around it, this would be the end of thoughts
        return
    try:
        found = parse(f"{around}{text}")
    except Unusable:
        return
    assert found == value or "{" in around


@given(st.text() | st.text("{}[]\"',:\\ab1 \n`", max_size=60) | st.from_regex(r"\{.{0,30}\}", fullmatch=True))
def test_whatever_the_text_is_it_is_an_object_that_can_be_written_down_or_nothing(text: str) -> None:
    try:
        value = parse(text)
    except Unusable:
        return
    assert isinstance(value, dict)
    assert orjson.dumps(value)


@pytest.mark.parametrize("text", ['{"a": "nice \\ud83d"}', "{'a': 'nice \\ud83d',}"])
def test_half_a_surrogate_pair_is_no_reason_to_lose_an_answer(text: str) -> None:
    assert parse(text) == {"a": "nice ?"}
    assert parse('{"a": "nice \\ud83d\\ude00"}') == {"a": "nice 😀"}


@pytest.mark.parametrize("text", [b"", b"{", b"<html>", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads(text)
