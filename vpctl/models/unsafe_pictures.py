"""Finds unsafe pictures, with the safety checker of Stable Diffusion or with a classifier of pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import AutoModelForImageClassification

from . import devices, hub, sources
from .folder import LABELS, SAFETY_CHECKER, Folder

OPTION = "--unsafe-model "


class UnsafePictures:
    """Says of each picture whether it is unsafe. A classifier does if an unsafe label has the highest probability."""

    def __init__(self, source: str, *, device: str) -> None:
        self._where = where = f"{OPTION}{source}"
        self._device = devices.resolve_device(device)
        folder = sources.fetch("unsafe pictures", source, option=OPTION)
        self._is_checker = SAFETY_CHECKER in Folder(folder).read("config.json").get("architectures", [])
        kind: Any = StableDiffusionSafetyChecker if self._is_checker else AutoModelForImageClassification
        self._processor = hub.image_processor(folder, where=where)
        self._model = hub.model(kind, folder, dtype=torch.float32, where=where).to(self._device).eval()
        self._labels = {number for number, label in self._model.config.id2label.items() if label.lower() in LABELS}

    def __call__(self, pictures: Sequence[Image.Image]) -> list[bool]:
        """Whether each picture is unsafe."""
        with hub.compute_errors(self._where), torch.inference_mode():
            pixels = self._processor([*pictures], return_tensors="pt").pixel_values.to(self._device)
            if self._is_checker:
                blank = [np.zeros((1, 1, 3)) for _ in pictures]  # it blackens what it is given
                _, flags = self._model(clip_input=pixels, images=blank)
                return [bool(flag) for flag in flags]
            best: list[int] = self._model(pixel_values=pixels).logits.argmax(-1).tolist()
            return [number in self._labels for number in best]
