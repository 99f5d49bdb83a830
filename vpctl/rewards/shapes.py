"""The pixel judge of the shapes world as a reward: the mean of its four aspects, or one, such as shapes:aesthetic."""

from typing import TYPE_CHECKING

from ..contracts import WITHOUT_GRADIENT, Reward
from ..errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

ARGUMENTS = ("prompt-following", "aesthetic", "fidelity", "harmlessness")


class PixelJudge(Reward):
    """The mean of some of the pixel judge's aspects, in [1, 5]."""

    differentiable = False

    def __init__(self, names: list[str]) -> None:
        self.aspects = names

    def __call__(self, images: "list[Image.Image] | Tensor", prompts: list[str]) -> "Tensor":
        """The scores (B,), in float64."""
        import torch

        from ..models.tensors import to_pictures
        from ..shapes.judge import judge

        pictures = to_pictures(images) if isinstance(images, torch.Tensor) else images
        scores = [
            [judge(prompt, picture, aspect).score for aspect in self.aspects]
            for prompt, picture in zip(prompts, pictures, strict=True)
        ]
        return torch.tensor(scores, dtype=torch.float64).mean(1)


def check(argument: str, *, gradient: bool = False) -> None:
    """Raise `UserError` if `argument` is neither empty nor an aspect, or if a `gradient` is needed."""
    if gradient:
        raise UserError(f"--reward {':'.join(filter(None, ('shapes', argument)))}: {WITHOUT_GRADIENT}")
    if argument and argument not in ARGUMENTS:
        raise UserError(f"--reward shapes:{argument}: known: {', '.join(f'shapes:{aspect}' for aspect in ARGUMENTS)}")


def load(argument: str, *, device: str = "auto") -> PixelJudge:
    """A reward from the aspect `argument`, or from all four if it is empty. It runs on the CPU."""
    check(argument)
    return PixelJudge([argument] if argument else list(ARGUMENTS))
