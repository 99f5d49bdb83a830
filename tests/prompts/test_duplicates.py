"""Duplicates and near duplicates of earlier texts."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpctl.prompts.duplicates import Distinct, NearDuplicates, plain
from vpctl.records import Prompt

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
    assert near.find(LONG, "sailor") == ""
    assert near.find(f"{LONG} again", "again") == "sailor"
    assert near.find("a red circle", "circle") == ""
    assert near.find("a red square", "square") == ""


def test_what_is_a_duplicate_is_not_remembered() -> None:
    longer = f"{LONG} as a gale comes"
    longest = f"{longer} up"
    assert similar(LONG, longest) < 0.8 < similar(LONG, longer) < similar(longer, longest)
    near = NearDuplicates(0.8)
    assert near.find(LONG, "first") == ""
    assert near.find(longer, "second") == "first"
    assert near.find(longest, "third") == ""


@pytest.mark.parametrize("similarity", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_the_same_text_is_known_at_any_similarity(similarity: float) -> None:
    near = NearDuplicates(similarity)
    assert near.find(LONG, "first") == ""
    assert near.find(LONG, "second") == "first"


WORDS = st.lists(st.sampled_from("red blue star cat".split()), min_size=1, max_size=12).map(" ".join)


@given(st.lists(WORDS, max_size=14), st.sampled_from([0.1, 0.3, 0.5, 2 / 3, 0.75, 0.8, 0.9, 1.0]))
def test_all_texts_that_are_that_similar_are_found_and_no_others(texts: list[str], similarity: float) -> None:
    near = NearDuplicates(similarity)
    kept: list[str] = []
    for text in texts:
        expected = next((other for other in kept if similar(text, other) >= similarity), "")
        assert near.find(text, text) == expected
        if not expected:
            kept.append(text)


def similar(left: str, right: str) -> float:
    """The Jaccard similarity of the texts' runs of two and three words, or of their words if there are too few."""
    sets: list[set[tuple[str, ...]]] = []
    for text in (left, right):
        words = plain(text).split(" ")
        runs = {*pairwise(words), *zip(words, words[1:], words[2:], strict=False)}
        sets.append(runs or {(word,) for word in words})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_vowel_signs_tell_words_apart() -> None:
    assert plain("कील") != plain("काल")
    assert plain("Ein CAFÉ,  bitte!") == plain("ein cafe\u0301 bitte")


def dropped(similarity: float, known: list[Prompt], prompts: list[Prompt]) -> list[str]:
    return [one.get("dropped", "") for one in map(Distinct(similarity, known=known), prompts)]


def test_prompts_that_say_the_same_again_say_whose() -> None:
    said = [
        "a red circle left of a blue star on a white background",
        "A red circle, left of a blue star; on a white background!",
        "a red circle left of a blue star on a white background, large",
        "a blue circle left of a red star on a white background",
        "a cat",
    ]
    prompts: list[Prompt] = [{"prompt": text, "prompt_id": str(number)} for number, text in enumerate(said)]
    known: list[Prompt] = [{"prompt": "A cat!", "prompt_id": "there"}]
    assert dropped(0.8, known, prompts) == [
        "",
        "duplicate of 0",
        "near duplicate of 0",
        "",
        "duplicate of there",
    ]
    assert dropped(1, [], prompts) == ["", "duplicate of 0", "", "", ""]
    empty: list[Prompt] = [{"prompt": "a cat", "dropped": "empty"}, {"prompt": "a cat"}]
    assert dropped(0.8, [], empty) == ["empty", ""]
