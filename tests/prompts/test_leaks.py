from random import Random

from vpctl.prompts.leaks import Leak, nearly_equal, same_words
from vpctl.shapes.prompts import raw_prompts


def test_the_same_words_in_two_parts_are_found_whatever_their_case_and_punctuation() -> None:
    train, test = ["a red circle", "a blue star"], ["two dogs", "A red, circle!", "a blue star"]
    assert same_words({"train": train, "test": test}) == Leak("A red, circle!", "test", "a red circle", "train")
    assert same_words({"train": train, "validation": [], "test": test[:1]}) is None
    assert same_words({"train": [*train, "A RED CIRCLE"], "test": []}) is None, "in one part they are no leak"


def test_nearly_equal_prompts_are_found_in_earlier_parts_and_not_in_their_own() -> None:
    long = "a very small red fox that sits in the deep white snow under a pale sun"
    parts = {
        "train": ["two dogs", f"{long} today", f"{long} now"],
        "validation": [f"{long} again", f"{long} at last"],
        "test": ["two cats", f"{long} then"],
    }
    found = nearly_equal(parts)
    assert [(leak.prompt, leak.part, leak.like, leak.other) for leak in found] == [
        (f"{long} again", "validation", f"{long} today", "train"),
        (f"{long} at last", "validation", f"{long} today", "train"),
        (f"{long} then", "test", f"{long} today", "train"),
    ]


def test_it_finds_what_a_comparison_of_all_with_all_finds() -> None:
    prompts = raw_prompts(300, Random(1))
    parts = {"train": prompts[:200], "test": prompts[200:]}

    def runs(text: str) -> set[tuple[str, ...]]:
        words = "".join(one if one.isalnum() else " " for one in text.lower()).split()
        return {tuple(words[at : at + size]) for size in (2, 3) for at in range(len(words) - size + 1)}

    def alike(one: str, other: str) -> bool:
        return len(runs(one) & runs(other)) >= 0.5 * len(runs(one) | runs(other))

    wanted = {test for test in parts["test"] if any(alike(test, train) for train in parts["train"])}
    assert {leak.prompt for leak in nearly_equal(parts, similarity=0.5)} == wanted
    assert 0 < len(wanted) < 100
