"""An annotator that gives every picture the middle level."""

from collections.abc import Callable

from PIL import Image

from vpctl.contracts import Aspect, Verdicts


def load(argument: str, *, device: str = "auto") -> Callable[[str, list[Image.Image], Aspect], Verdicts]:
    return lambda prompt, images, aspect: Verdicts([3.0] * len(images), ["fair"] * len(images), {})
