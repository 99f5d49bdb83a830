"""The pixel judge of the shapes world: measures pixels, asks no server; free of charge."""

from typing import TYPE_CHECKING

from ..contracts import Aspect, Verdicts
from ..errors import UserError

if TYPE_CHECKING:
    from PIL import Image


def annotate(prompt: str, images: "list[Image.Image]", aspect: Aspect) -> Verdicts:
    """The pixel judge's scores, from 1 to 5, and rationales. Raises `UserError` for an aspect it does not measure."""
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
    """The pixel judge. It takes no argument and runs on the CPU."""
    check(argument)
    return annotate
