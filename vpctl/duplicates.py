"""Texts that say what another said before: the same but for case and punctuation, or nearly the same."""

import re
import unicodedata

from datasketch import MinHash, MinHashLSH

SEED = 1
BANDS, ROWS = 16, 8
"""Of the MinHash: texts that are 0.9 similar are compared with a probability of 0.9999, 0.8 with 0.95, 0.5 with 0.06.
More bands would miss less and, where all texts resemble one another, compare everything with everything."""

_BETWEEN_WORDS = re.compile(r"[\W_]+")


def plain(text: str) -> str:
    """The words of a text in small letters, a space between them: equal for texts that differ in nothing else.

    Text without any word, such as a row of emoji, is left as it is.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    if folded.isascii():
        spaced = _BETWEEN_WORDS.sub(" ", folded)
    else:  # in many scripts vowels are marks, which are no letters to `re`
        spaced = "".join(one if unicodedata.category(one)[0] in "LMN" else " " for one in folded)
    return " ".join(spaced.split()) or folded.strip()


class NearDuplicates:
    """Remembers texts, and tells whether a new one is nearly one of them."""

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
        self._blank = MinHash(num_perm=BANDS * ROWS, seed=SEED)
        self._known: list[frozenset[str]] = []

    def knows(self, text: str) -> bool:
        """Whether the Jaccard similarity to an earlier text is at least `similarity`; if to none, it is remembered.

        What is compared are the sets of a text's runs of two and of three words, which tell "a red star left of a
        blue one" from "a blue star left of a red one". MinHash proposes, the sets decide: no text is dropped that is
        not that similar, and a few that are at the very threshold may be missed.
        """
        pieces = _pieces(text)
        sketch = self._blank.copy()
        sketch.update_batch([piece.encode() for piece in pieces])
        if any(_jaccard(pieces, self._known[key]) >= self._similarity for key in self._index.query(sketch)):
            return True
        self._index.insert(len(self._known), sketch, check_duplication=False)
        self._known.append(pieces)
        return False


def _pieces(text: str) -> frozenset[str]:
    words = plain(text).split(" ")
    runs = {" ".join(words[start : start + length]) for length in (2, 3) for start in range(len(words) - length + 1)}
    return frozenset(runs or words)


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right)
