"""Prompts that are in two parts of the data, so that what is learnt from one part is measured again in the other."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .duplicates import NearDuplicates, plain

SIMILARITY = 0.8
"""Similarity from which two prompts are nearly equal. It is the default of ``polish --similarity``."""


class Leak(NamedTuple):
    """A prompt of one `part` of the data, and a prompt `like` it in the part `other`."""

    prompt: str
    part: str
    like: str
    other: str


def same_words(parts: Mapping[str, Iterable[str]]) -> Leak | None:
    """The first prompt that another part has too, if case and punctuation are left out. None if there is none."""
    seen: dict[str, tuple[str, str]] = {}
    for part, prompts in parts.items():
        for prompt in prompts:
            like, other = seen.setdefault(plain(prompt), (prompt, part))
            if other != part:
                return Leak(prompt, part, like, other)
    return None


def nearly_equal(parts: Mapping[str, Iterable[str]], *, similarity: float = SIMILARITY) -> list[Leak]:
    """For each prompt that is nearly equal to a prompt of an earlier part: the first of these."""
    found: list[Leak] = []
    earlier = NearDuplicates(similarity)
    of: dict[str, str] = {}
    for part, prompts in parts.items():
        own = list(dict.fromkeys(prompts))
        for prompt in own:
            if like := earlier.like(prompt):
                found.append(Leak(prompt, part, like, of[like]))
        for prompt in own:
            earlier.add(prompt, prompt)
            of.setdefault(prompt, part)
    return found
