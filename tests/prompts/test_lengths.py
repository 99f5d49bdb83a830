"""The time of polishing grows linearly with the length of a prompt, whatever is repeated in it."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpctl.prompts import cleaning, faith
from vpctl.prompts import credits as crediting
from vpctl.prompts import wording as words
from vpctl.prompts.duplicates import NearDuplicates
from vpctl.records import MAX_PROMPT_CHARS

REPEATED = [
    # Noise, and the words before it.
    *(
        "masterpiece ",
        "masterpiece a ",
        "8k ",
        "octane render ",
        "stable diffusion ",
        "rtx-",
        "4:3-",
        "contest winner ",
    ),
    *(
        "very ",
        "very-",
        "best ",
        "high quality ",
        "ultrafine ",
        "photo ",
        "top trending on ",
        "in very sharp ",
        "made ",
    ),
    *("rendered in octane ", "award ", "digital ", "concept art ", "perfect face and ", "beautiful and ", "style "),
    # Credits.
    *("by ", "wlop ", "wlop and ", "paper by ", "by foo bar and ", "by the ", "art by a and b and c ", "jane doe, "),
    *("in the style of ", "style of foo bar by ", "style of star wars and ", "mark riddick 8k ", "a. ", "dr. "),
    # Joints and edges.
    *(
        "or ",
        "and ",
        "with the ",
        ",",
        ", ",
        ". ",
        " - ",
        "!",
        " !",
        "?",
        ": ",
        "::",
        ":1 ",
        "a:-",
        "(",
        "(a) ",
        ")",
        "]",
    ),
    *('"', "a cat, ", "a cat. "),
    # Syntax and characters.
    *("1", "1 ", "1:1 ", "-n 1 ", "--ar 1 ", "-a", "a-", "<a ", "&#1", "&amp;", "www.", "\U0001f600 ", "\u3000", "\t"),
    *("x", "é ", "日", "İ"),
]


def cost(text: str) -> float:
    """CPU seconds that polishing takes with empty caches."""
    for module in (cleaning, crediting):
        for one in vars(module).values():
            getattr(one, "cache_clear", lambda: None)()
    start = time.process_time()
    cleaning.polish([text])
    return time.process_time() - start


def repeated(unit: str, length: int) -> str:
    return f"a cat {unit * (length // len(unit))} x"


@pytest.mark.parametrize("unit", REPEATED)
def test_a_prompt_four_times_as_long_takes_about_four_times_as_long(unit: str) -> None:
    """With quadratic time it would take sixteen times as long, with cubic time sixty-four times."""
    short, long = (repeated(unit, length) for length in (2000, 8000))
    least, most = cost(short), cost(long)
    for _ in range(4):  # repeated, because the machine may be busy
        if most < 9 * least:
            break
        least, most = min(least, cost(short)), min(most, cost(long))
    assert most < 9 * least


@pytest.mark.parametrize("unit", REPEATED)
def test_a_long_prompt_that_is_polished_twice_stays_as_it_is(unit: str) -> None:
    [once] = cleaning.polish([repeated(unit, 600)])
    assert cleaning.polish([once.prompt])[0].prompt == once.prompt


PIECES = [
    *REPEATED,
    *(f"{word} " for word in [*words.DEGREES, *words.PRAISE, *words.LIGHT, *words.LIT, *words.GIVEN_NAMES]),
    *(f"{word} " for word in [*words.WORDS_OF_MEDIA, *words.NO_NAMES, *words.MANNERS, *words.PREFIXES]),
    *(f"{name.strip()} " for name in [*words.ARTISTS.split(","), *words.FAMOUS.split(",")]),
]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=6), st.sampled_from(["", " ", ", ", " by ", " and ", "-"])
)
def test_no_mixture_takes_long_or_changes_the_second_time(units: list[str], between: str) -> None:
    text = repeated(between.join([*units, ""]), 2000)
    assert cost(text) < 5
    [once] = cleaning.polish([text])
    assert cleaning.polish([once.prompt])[0].prompt == once.prompt


def test_what_never_settles_has_no_content() -> None:
    assert cleaning.polish(["a castle by a lake by " * 3 + "a cat"])[0].prompt != ""
    assert cleaning.polish(["paper by " * 100])[0].prompt == ""


def test_a_reference_to_a_character_of_many_digits_is_taken_away() -> None:
    assert cleaning.polish([f"a cat &#{'9' * 5000}; on a mat"])[0].prompt == "a cat; on a mat"


def test_a_rewrite_that_is_too_long_is_rejected_unseen() -> None:
    found = faith.checked("a cat", "a cat " * MAX_PROMPT_CHARS, "cruel")
    assert found == ("", "cruel", f"too long: {6 * MAX_PROMPT_CHARS} characters; the maximum is {MAX_PROMPT_CHARS}")


@pytest.mark.parametrize("ending", ["s", "x", ""])
def test_a_rewrite_of_many_words_that_begin_alike_is_soon_checked(ending: str) -> None:
    letters = "bcdfghklmnprstvw"
    alike = [f"cata{a}{b}{c}" for a in letters for b in letters for c in letters][: MAX_PROMPT_CHARS // 9]
    start = time.process_time()
    faith.checked(" ".join(alike), " ".join(f"{word}{ending}" for word in reversed(alike)))
    assert time.process_time() - start < 5


def test_the_longest_prompts_are_compared() -> None:
    near = NearDuplicates(0.8)
    text = " ".join(map(str, range(MAX_PROMPT_CHARS // 5)))
    assert near.find(text, "first") == ""
    assert near.find(f"{text} and more", "second") == "first"
    assert near.find(text[: MAX_PROMPT_CHARS // 2], "third") == ""
