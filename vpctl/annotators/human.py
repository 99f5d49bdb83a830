"""People, who vote on a local web page: human:anna, human:anna,ben, or human for anyone who gives a name."""

from ..contracts import Annotator, Question, Verdicts
from ..errors import UserError
from ..voting.people import PERSON, people

ARGUMENTS = ("anna", "anna,ben")


class Person(Annotator):
    """A person. annotate shows people a page, where they vote in their own order; nobody else can ask them."""

    async def ask(self, question: Question) -> list[Verdicts]:
        """Raise `UserError`: a person is not asked call by call."""
        raise UserError(f"--annotator {PERSON}: only annotate asks people; name another annotator here")

    def check(self) -> None:
        """Raise `UserError`, as `ask` does."""
        raise UserError(f"--annotator {PERSON}: only annotate asks people; name another annotator here")


def check(argument: str) -> None:
    """Raise `UserError` if `argument` is not a list of names."""
    people(argument)


def load(argument: str, *, device: str = "auto") -> Person:
    """People cannot be loaded: this annotator answers no question."""
    check(argument)
    return Person()
