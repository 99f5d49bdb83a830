"""What the commands that draw pictures read from the command line: rewards with their weights, and settings."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from .. import plugins
from ..errors import UserError

N = TypeVar("N", int, float)


def weights_of(named: Sequence[str], option: str = "--reward", *, gradient: bool = False) -> dict[str, float]:
    """The weights of rewards, which are named as SPEC or SPEC=WEIGHT. Without a WEIGHT it is 1.

    Raises `UserError` if a reward is named twice, cannot be used, or has a weight that is not a number. With
    `gradient`, also raises it for a packaged reward that has no gradient.
    """
    weights: dict[str, float] = {}
    for text in named:
        spec, weight = weighted(text, option)
        if spec in weights:
            raise UserError(f"{option} {spec}: is named twice; name it once, with one weight")
        try:
            plugins.check("reward", spec, gradient=gradient)
        except UserError as error:  # it names the option that most commands have
            raise UserError(str(error).replace("--reward", option, 1)) from None
        weights[spec] = weight
    return weights


def weighted(text: str, option: str = "--reward") -> tuple[str, float]:
    """The spec of a reward and its weight, which is 1 by default."""
    spec, equals, weight = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number == 0:
        raise UserError(
            f"{option} {text}: {weight!r} is not a number other than 0; write the weight after =, as in pickscore=0.5"
        )
    return spec, number


def chosen(option: str, given: N | None, own: N | None, spec: str) -> N:
    """The value of an option, or the model's own if the option is not given. Raises `UserError` if both are None."""
    value = own if given is None else given
    if value is None:
        raise UserError(f"{option}: the model {spec} has no default for it; name a value")
    return value


def as_options(values: Mapping[str, Any]) -> str:
    """Values of options, as they are given on the command line."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items())


def check_noise(eta: float, algorithm: str) -> None:
    """Raise `UserError` if --eta is too small for an algorithm that compares probabilities."""
    if eta < 0.01:
        raise UserError(
            f"--eta {eta:g}: {algorithm} needs at least 0.01, because steps without noise have no probability"
        )


def check_trained_steps(skip_last: int, steps: int) -> None:
    """Raise `UserError` if --skip-last leaves no denoising step to train on."""
    if skip_last >= steps:
        raise UserError(f"--skip-last {skip_last}: leaves none of {steps} denoising steps to train on")
