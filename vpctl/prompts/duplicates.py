"""Duplicates of earlier prompts: texts that differ only in case and punctuation, or nearly equal texts."""

import math
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable
from itertools import chain, pairwise

from ..records import Prompt, prompt_key

_BETWEEN_WORDS = re.compile(r"[\W_]+")


def plain(text: str) -> str:
    """The words of a text in lower case, separated by single spaces. Texts with the same words give the same result.

    A text without any word, such as a row of emoji, is only normalised (NFKC) and case-folded.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    if folded.isascii():
        spaced = _BETWEEN_WORDS.sub(" ", folded)
    else:  # in many scripts vowels are combining marks, which `re` does not count as letters
        spaced = "".join(one if unicodedata.category(one)[0] in "LMN" else " " for one in folded)
    return " ".join(spaced.split()) or folded.strip()


MIN_SHARED_RARE = 4
"""Minimum number of shared rare runs before two texts are compared. Prompts made from a template share most of their
runs, and with a smaller number most of them would be compared."""


class NearDuplicates:
    """Remembers texts by name, and finds an earlier text that is nearly equal to a new one.

    It compares the sets of runs of two and of three consecutive words. These distinguish "a red star left of a blue
    one" from "a blue star left of a red one". The search is exact for every threshold: with a Jaccard similarity of s,
    a text of n runs shares at least s·n of them with the other text. So among any n − s·n + k of its runs, such as the
    rarest, at least k are runs of the other text. Only texts that share `MIN_SHARED_RARE` of those are compared.
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._names: list[str] = []
        self._runs: list[array[int]] = []
        self._having: dict[int, tuple[int] | array[int]] = {}
        """For every run, the numbers of its texts. Most runs have one text, and a tuple takes less memory."""

    def find(self, text: str, name: str) -> str:
        """Return the name of the first text whose similarity is at least the threshold.

        If there is none, return an empty text, and remember the new text as `name`.
        """
        runs = _ngrams(text)
        like = self._like(runs)
        if not like:
            self._remember(runs, name)
        return like

    def like(self, text: str) -> str:
        """Return the name of the first text whose similarity is at least the threshold; empty if there is none."""
        return self._like(_ngrams(text))

    def add(self, text: str, name: str) -> None:
        """Remember a text as `name`."""
        self._remember(_ngrams(text), name)

    def _like(self, runs: set[int]) -> str:
        having = sorted((self._having.get(run, ()) for run in runs), key=len)
        least = math.ceil(self._similarity * len(runs) - 1e-9)
        first = min(MIN_SHARED_RARE, least)
        common = Counter(chain.from_iterable(having[: len(runs) - least + first]))
        for other in sorted(one for one, number in common.items() if number >= first):
            shared = len(runs.intersection(self._runs[other]))
            if shared / (len(runs) + len(self._runs[other]) - shared) >= self._similarity:
                return self._names[other]
        return ""

    def _remember(self, runs: set[int], name: str) -> None:
        number = len(self._names)
        self._names.append(name)
        self._runs.append(array("q", runs))
        for run in runs:
            texts = self._having.get(run)
            if texts is None:
                self._having[run] = (number,)
            elif isinstance(texts, tuple):
                self._having[run] = array("I", (*texts, number))
            else:
                texts.append(number)


def _ngrams(text: str) -> set[int]:
    """Hashes of all runs of two and of three words in a text, or of its words if there are fewer than two."""
    words = plain(text).split(" ")
    runs = {*map(hash, pairwise(words)), *map(hash, zip(words, words[1:], words[2:], strict=False))}
    return runs or {hash(word) for word in words}


class Distinct:
    """Drops prompts that duplicate an earlier prompt or a `known` one, with the reason in `dropped`.

    Texts that differ only in case, punctuation and spacing are duplicates. Other texts are near duplicates if the
    Jaccard similarity of their word runs is at least `similarity`. With a similarity of 1, near duplicates are not
    searched.
    """

    def __init__(self, similarity: float, *, known: Iterable[Prompt]) -> None:
        self._seen: dict[str, str] = {}
        self._near = NearDuplicates(similarity) if similarity < 1 else None
        for prompt in known:
            text = plain(prompt["prompt"])
            self._seen.setdefault(text, prompt_key(prompt))
            if self._near:
                self._near.find(text, prompt_key(prompt))

    def __call__(self, prompt: Prompt) -> Prompt:
        """Return the prompt, dropped if it is a duplicate. Otherwise it is remembered."""
        if "dropped" in prompt:
            return prompt
        text, own_id = plain(prompt["prompt"]), prompt_key(prompt)
        if text in self._seen:
            return {**prompt, "dropped": f"duplicate of {self._seen[text]}"}
        if self._near and (like := self._near.find(text, own_id)):
            return {**prompt, "dropped": f"near duplicate of {like}"}
        self._seen[text] = own_id
        return prompt
