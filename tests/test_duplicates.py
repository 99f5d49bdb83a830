"""Texts that were there before, exactly or nearly."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.duplicates import NearDuplicates, plain

LONG = "a portrait of an old sailor with a white beard on the deck of a ship in a storm at night"


@pytest.mark.parametrize(
    "text",
    ["A cat, sleeping!", "a  cat\tsleeping", "“a cat” — sleeping…", "Ａ cat_sleeping", "a cat - sleeping ."],
)
def test_case_punctuation_and_spacing_make_no_difference(text: str) -> None:
    assert plain(text) == "a cat sleeping"


def test_text_without_a_word_is_still_told_apart() -> None:
    assert plain(" ?! ") == "?!"
    assert plain("🐱") != plain("🐶")
    assert plain("") == ""


@given(st.text())
def test_plain_text_is_plain(text: str) -> None:
    assert plain(plain(text)) == plain(text)


def test_a_word_more_makes_a_near_duplicate_of_a_long_text_and_not_of_a_short_one() -> None:
    near = NearDuplicates(0.8)
    assert not near.knows(LONG)
    assert near.knows(f"{LONG} again")
    assert not near.knows("a red circle")
    assert not near.knows("a red square")


def test_what_is_a_duplicate_is_not_remembered() -> None:
    longer = f"{LONG} as a gale comes"
    longest = f"{longer} up"
    assert similar(LONG, longest) < 0.8 < similar(LONG, longer) < similar(longer, longest)
    near = NearDuplicates(0.8)
    assert [near.knows(text) for text in (LONG, longer, longest)] == [False, True, False]


@pytest.mark.parametrize("similarity", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_the_same_text_is_known_at_any_similarity(similarity: float) -> None:
    near = NearDuplicates(similarity)
    assert not near.knows(LONG)
    assert near.knows(LONG)


@given(st.lists(st.text(alphabet="abc ", max_size=12), max_size=12), st.sampled_from([0.5, 0.8, 1.0]))
def test_only_texts_that_are_that_similar_are_known(texts: list[str], similarity: float) -> None:
    near = NearDuplicates(similarity)
    kept: list[str] = []
    for text in texts:
        if near.knows(text):
            assert max(similar(text, other) for other in kept) >= similarity
        else:
            kept.append(text)


def similar(left: str, right: str) -> float:
    """The Jaccard similarity of their runs of two and three words, or of their words where these are too few."""
    sets: list[set[tuple[str, ...]]] = []
    for text in (left, right):
        words = plain(text).split(" ")
        runs = {*pairwise(words), *zip(words, words[1:], words[2:], strict=False)}
        sets.append(runs or {(word,) for word in words})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_the_answer_is_the_same_every_time() -> None:
    texts = [f"{LONG} number {number % 7} of {number % 5}" for number in range(60)]
    first, second = NearDuplicates(0.85), NearDuplicates(0.85)
    assert [first.knows(text) for text in texts] == [second.knows(text) for text in texts]


def test_vowel_signs_tell_words_apart() -> None:
    assert plain("कील") != plain("काल")
    assert plain("Ein CAFÉ,  bitte!") == plain("ein cafe\u0301 bitte")
