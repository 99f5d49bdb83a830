"""The pixel judge of the shapes world: measures, asks nobody, costs nothing.

The contract of an annotator: ``load(argument, *, device)`` returns a callable ``(prompt, images, aspect) -> Verdicts``
that judges all the pictures of one prompt on one aspect, higher is better. It may be a coroutine function, as one that
asks a server is: then many calls are under way at once. It raises `Refused` where it will not judge, and
`RecordFailed` where it cannot.
"""

from PIL import Image

from ..errors import UserError
from ..plugins import Aspect, Verdicts
from ..shapes.judge import ASPECTS, judge


def annotate(prompt: str, images: list[Image.Image], aspect: Aspect) -> Verdicts:
    """The pixel judge's scores, from 1 to 5, with its reasons."""
    if aspect.name not in ASPECTS:
        raise UserError(
            f"--aspect {aspect.name}: the pixel judge measures {', '.join(ASPECTS)}; name another --annotator"
        )
    verdicts = [judge(prompt, image, aspect.name) for image in images]
    return Verdicts([verdict.score for verdict in verdicts], [verdict.rationale for verdict in verdicts], {})


def load(argument: str, *, device: str = "auto") -> object:
    """The judge; it takes no argument and runs on the CPU."""
    if argument:
        raise UserError(f"--annotator shapes:{argument}: the pixel judge takes no argument")
    return annotate
