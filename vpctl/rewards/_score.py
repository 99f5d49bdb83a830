"""A reward model in use, for the rewards `vp`, `clip` and `pickscore`."""

import torch
from PIL import Image
from torch import Tensor

from ..reward_model import RewardModel


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
