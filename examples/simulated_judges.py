"""Simulated judges of the shapes world: language models and people, who see what the pixel judge sees, and err."""

import math
from random import Random

from PIL import Image

from vpctl.contracts import Aspect, Verdicts
from vpctl.errors import UserError
from vpctl.records import digest
from vpctl.shapes.judge import ASPECTS, HIGHEST, LOWEST, judge

MODELS = {"gpt": 0.6, "gemini": 1.0, "llava": 1.8}
"""Standard deviation of a language model's error on an aspect, in levels. Half of its variance is new in every call."""
PEOPLE = {"imagereward": 0.51, "hpd": 0.235, "pickapic": 0.43}
"""Standard deviation of a person's error on the mean of the four aspects. It is chosen so that two people agree on as
many pairs as in the data set of this name: 65.3 %, 78.1 % and 68.0 %."""
SPREAD = 0.35
"""At temperature 1, the probability of a level falls with its squared distance from what a language model sees, as the
density of a normal distribution with this standard deviation does."""
ARGUMENTS = (*MODELS, *PEOPLE)


def check(argument: str) -> tuple[str, float]:
    """The name in an argument, with its temperature or number. Raises `UserError` if there is no such judge."""
    name, _, number = argument.partition("-")
    if name not in ARGUMENTS or not (number or "0").replace(".", "", 1).isdigit():
        raise UserError(
            f"--annotator {argument}: must be a model and its temperature, such as gpt-0.5, or a data set and the "
            f"number of a person, such as hpd-2; known: {', '.join(ARGUMENTS)}"
        )
    return name, float(number or 0)


def load(argument: str, *, device: str = "auto") -> object:
    """A language model, such as ``gpt`` or at a temperature ``gpt-0.5``; or a person, such as ``hpd-2``."""
    name, number = check(argument)

    def model(prompt: str, images: list[Image.Image], aspect: Aspect) -> Verdicts:
        """Levels, as a language model gives them: it judges one aspect, on five levels."""
        call = Random(digest(["call", argument, prompt, aspect.name, *map(_identity, images)]))
        levels, reasons = [], []
        for image in images:
            truth = judge(prompt, image, aspect.name)
            lasting = Random(digest(["lasting", name, prompt, aspect.name, _identity(image)]))
            error = (lasting.gauss(0, 1) + call.gauss(0, 1)) * MODELS[name] / math.sqrt(2)
            levels.append(_level(truth.score + error, number, call))
            reasons.append(truth.rationale)
        return Verdicts(levels, reasons, {})

    def person(prompt: str, images: list[Image.Image], aspect: Aspect) -> Verdicts:
        """How good each picture is all in all, from 1 to 5."""
        scores = []
        for image in images:
            truth = sum(judge(prompt, image, one).score for one in ASPECTS) / len(ASPECTS)
            error = Random(digest([argument, prompt, _identity(image)])).gauss(0, PEOPLE[name])
            scores.append(min(max(truth + error, LOWEST), HIGHEST))
        return Verdicts(scores, [""] * len(scores), {})

    return model if name in MODELS else person


def _identity(image: Image.Image) -> str:
    return digest([image.size, image.tobytes().hex()])


def _level(seen: float, temperature: float, call: Random) -> float:
    """The level nearest to what is seen, or at a temperature one that is drawn."""
    seen = min(max(seen, LOWEST), HIGHEST)
    if temperature == 0:
        return float(round(seen))
    weights = [math.exp(-((level - seen) ** 2) / (2 * SPREAD**2 * temperature)) for level in range(1, 6)]
    return float(call.choices(range(1, 6), weights)[0])
