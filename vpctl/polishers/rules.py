"""Rules that remove quality words, artists, platforms, renderers and leftover syntax; free of charge.

The contract of a polisher: ``load(argument, *, device)`` returns a callable ``(prompts) -> list[Polished]``, one for
each prompt and in their order. What is left empty had no content; `unsafe` is a short reason, or empty. In the place of
one that could not be done stands its `RecordFailed`. Prompts are handed over as they come, or `at_once` together if the
polisher has such an attribute.
"""

from collections.abc import Callable

from ..errors import UserError
from ..plugins import Polished
from ..prompts.cleaning import polish


def load(argument: str, *, device: str = "auto") -> Callable[[list[str]], list[Polished]]:
    """The rules; they take no argument."""
    if argument:
        raise UserError(f"--polisher rules:{argument}: the rules take no argument")
    return polish
