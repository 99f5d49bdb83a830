"""Rules that remove quality words, artists, platforms, renderers and leftover syntax; free of charge."""

from collections.abc import Callable

from ..contracts import Polished
from ..errors import UserError
from ..prompts.cleaning import polish


def load(argument: str, *, device: str = "auto") -> Callable[[list[str]], list[Polished]]:
    """The rules. They take no argument."""
    if argument:
        raise UserError(f"--polisher rules:{argument}: the rules take no argument")
    return polish
