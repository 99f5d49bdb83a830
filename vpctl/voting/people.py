"""The names of people who vote."""

import re
import unicodedata

from ..errors import UserError

PERSON = "human"
"""The name of the annotator that is a person, before the colon of its SPEC."""
_NAME = re.compile(r"\w[\w.-]{0,39}")


def person_name(text: str) -> str:
    """The name of a person as records have it, in lower case: Anna and anna are one person.

    Raises `ValueError` if it has more than 40 characters, or others than letters, digits, ``_``, ``.`` and ``-``.
    """
    name = unicodedata.normalize("NFKC", text).strip().lower()
    if not _NAME.fullmatch(name):
        raise ValueError("a name has at most 40 letters, digits, '-', '_' and '.', and begins with a letter or a digit")
    return name


def people(argument: str) -> tuple[str, ...]:
    """The names in the ARGUMENT of ``human:anna,ben``. There are none if each person gives a name on the page.

    Raises `UserError` if one is not a name, or is there twice.
    """
    if not argument:
        return ()
    try:
        names = tuple(person_name(one) for one in argument.split(","))
    except ValueError as error:
        raise UserError(f"--annotator {PERSON}:{argument}: {error}") from None
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--annotator {PERSON}:{argument}: names {twice[0]} twice; name each person once")
    return names
