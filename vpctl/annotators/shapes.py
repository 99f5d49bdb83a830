"""The pixel judge of the shapes world: measures pixels, asks no server; free of charge.

The contract of an annotator: ``load(argument, *, device)`` returns a callable ``(prompt, images, aspect) -> Verdicts``
that judges all the pictures of one prompt on one aspect, higher is better. It may be a coroutine function; then many
calls are under way at once. It raises `RecordFailed` where it cannot judge today, and the next run tries again;
`Refused` where it will not, which is recorded; `Unusable` where it answered and nothing can be made of it, which is
recorded with the answer.

Or it returns an object with a coroutine method ``ask(question) -> list[Verdicts]``, one for each of the question's
aspects (`questions.Question`), and, as far as it has a use for them: ``prepare(image, path)``, what to make of every
picture, once for all questions; ``pixels(prepared)``, how many of its pixels stay in memory; ``identity``, all that
determines its answers, as JSON; ``template(kind)``, the identity of the words it asks in; ``running(brake)``, an
asynchronous context in which it can be asked; and ``expected``, ``status`` and ``summary``, what questions take
(`annotators/openai.py` has them all). `load` is given the settings that are among its parameters: ``server`` and
``pictures`` (`configs.py`), and ``folder`` of the records.
"""

from typing import TYPE_CHECKING

from ..errors import UserError
from ..plugins import Aspect, Verdicts

if TYPE_CHECKING:
    from PIL import Image


def annotate(prompt: str, images: "list[Image.Image]", aspect: Aspect) -> Verdicts:
    """The pixel judge's scores, from 1 to 5, with its reasons."""
    from ..shapes.judge import ASPECTS, judge

    if aspect.name not in ASPECTS:
        raise UserError(
            f"--aspect {aspect.name}: the pixel judge measures {', '.join(ASPECTS)}; name another --annotator"
        )
    verdicts = [judge(prompt, image, aspect.name) for image in images]
    return Verdicts([verdict.score for verdict in verdicts], [verdict.rationale for verdict in verdicts], {})


def check(argument: str) -> None:
    """Raise `UserError` if there is an argument."""
    if argument:
        raise UserError(f"--annotator shapes:{argument}: the pixel judge takes no argument")


def load(argument: str, *, device: str = "auto") -> object:
    """The judge; it takes no argument and runs on the CPU."""
    check(argument)
    return annotate
