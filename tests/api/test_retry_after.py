"""What the headers of real servers say about waiting, and what no server should say."""

import email.utils
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.api.retry_after import exhausted, parse_wait, retry_after


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20", 20.0),
        ("1.5", 1.5),
        (" 0 ", 0.0),
        ("-3", 0.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1h2m3s", 3723.0),
        ("1d", 86400.0),
        ("1.5s", 1.5),
        (email.utils.formatdate(1_000_030, usegmt=True), 30.0),
        (email.utils.formatdate(999_000, usegmt=True), 0.0),
        ("1800000030", 1_800_000_030 - 1_000_000.0),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("..s", None),
        ("1.2.3s", None),
        ("s", None),
        ("9" * 400 + "s", None),
        ("Mon, 99 Foo 20 99:99:99 GMT", None),
    ],
)
def test_lengths_of_time_as_headers_say_them(text: str, expected: float | None) -> None:
    assert parse_wait(text, clock=lambda: 1_000_000.0) == expected


@given(st.text() | st.from_regex(r"[0-9.smhd:, a-zA-Z+-]{0,30}"))
def test_whatever_a_header_says_it_is_a_length_of_time_or_none(text: str) -> None:
    found = parse_wait(text)
    assert found is None or 0 <= found < math.inf


Headers = dict[str, str]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "9", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 9.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "6m0s"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "2s",
            },
            2.0,
        ),
        ({}, None),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: Headers, expected: float | None) -> None:
    assert retry_after(headers) == expected


def test_only_what_is_used_up_has_to_come_back() -> None:
    def spent(left: str, reset: str) -> Headers:
        return {"x-ratelimit-remaining-tokens": left, "x-ratelimit-reset-tokens": reset}

    assert exhausted(spent("0", "1.5s")) == [1.5]
    assert exhausted(spent("1", "1.5s")) == []
    assert exhausted(spent("0", "whenever")) == []
