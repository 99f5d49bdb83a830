"""A reward model that train-rm wrote, or any BLIP or CLIP that transformers opens: vp:FOLDER."""

import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .. import tensors
from ..errors import UserError
from ..reward_model import RewardModel, open_model

ARGUMENTS = "DIR"
SCALE_FILE = "reward.json"


class Score:
    """A reward model in use: rewards less `mean`, over `deviation`."""

    differentiable = True

    def __init__(self, model: RewardModel, device: torch.device, mean: float, deviation: float) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self._device, self._mean, self._deviation = device, mean, deviation

    def __call__(self, images: list[Image.Image] | Tensor, prompts: list[str]) -> Tensor:
        """Rewards (B,). Gradients flow to `images` where they are a tensor that wants them."""
        with torch.set_grad_enabled(isinstance(images, Tensor) and images.requires_grad):
            tokens = {name: value.to(self._device) for name, value in self.model.tokens(prompts).items()}
            pixels = self.model.pixels(images.to(self._device) if isinstance(images, Tensor) else images)
            rewards: Tensor = self.model(pixels.to(self._device), **tokens)
            return (rewards - self._mean) / self._deviation


def load(argument: str, *, device: str = "auto") -> Score:
    """The reward model in the folder `argument`."""
    if not argument:
        raise UserError("--reward vp: name the folder that train-rm wrote, as in vp:vp-score/")
    model = open_model(argument, option="--reward vp:")
    file = Path(argument) / SCALE_FILE
    mean, deviation = 0.0, 1.0
    if file.is_file():
        try:
            scale = json.loads(file.read_text())
            mean, deviation = float(scale["mean"]), float(scale["std"])
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{file}: not an object with the numbers mean and std; remove it, and rewards are taken as they are"
            ) from None
    return Score(model, tensors.pick(device), mean, deviation)
