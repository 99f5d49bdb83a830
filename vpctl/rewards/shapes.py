"""The pixel judge of the shapes world as a reward: the mean of its four aspects, or one, such as shapes:aesthetic."""

from typing import TYPE_CHECKING

from ..contracts import Reward
from ..errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

ARGUMENTS = ("prompt-following", "aesthetic", "fidelity", "harmlessness")


class PixelJudge(Reward):
    """The mean of some aspects of the pixel judge, in [1, 5]."""

    differentiable = False

    def __init__(self, names: list[str]) -> None:
        self.aspects = names

    def __call__(self, images: "list[Image.Image] | Tensor", prompts: list[str]) -> "Tensor":
        """The scores (B,)."""
        import torch

        from ..models.tensors import to_pictures
        from ..shapes.judge import judge

        pictures = to_pictures(images) if isinstance(images, torch.Tensor) else images
        scores = [
            [judge(prompt, picture, aspect).score for aspect in self.aspects]
            for prompt, picture in zip(prompts, pictures, strict=True)
        ]
        return torch.tensor(scores, dtype=torch.float64).mean(1)


def check(argument: str) -> None:
    """Raise `UserError` if `argument` is not empty and names no aspect."""
    if argument and argument not in ARGUMENTS:
        raise UserError(f"--reward shapes:{argument}: known: {', '.join(f'shapes:{aspect}' for aspect in ARGUMENTS)}")


def load(argument: str, *, device: str = "auto") -> PixelJudge:
    """The judge of one aspect, or of all four; it runs on the CPU."""
    check(argument)
    return PixelJudge([argument] if argument else list(ARGUMENTS))
