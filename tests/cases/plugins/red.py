"""A reward that is how red the first pixel is; of what is hardly red at all it says its argument, if it has one."""

import array
from collections.abc import Callable

import numpy as np
from PIL import Image


def load(argument: str, *, device: str = "auto") -> Callable[[list[Image.Image], list[str]], "array.array[float]"]:
    def reward(images: list[Image.Image], prompts: list[str]) -> "array.array[float]":
        reds = [float(np.asarray(image)[0, 0, 0]) for image in images]
        return array.array("d", [red if red > 100 else float(argument or red) for red in reds])

    return reward
