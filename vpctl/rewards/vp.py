"""A reward model that train-rm wrote, or any BLIP, CLIP or SigLIP of transformers: vp:FOLDER."""

import json
import math
from typing import TYPE_CHECKING

from ..errors import UserError
from ..models import sources
from ..models.folder import SCALE_FILE

if TYPE_CHECKING:
    from ..models.reward import Score

ARGUMENTS = "DIR"
OPTION = "--reward vp:"


def check(argument: str) -> None:
    """Raise `UserError` if `argument` is not a folder or hub id of a reward model."""
    if not argument:
        raise UserError(f"{OPTION} name the folder that train-rm wrote, as in vp:vp-score/")
    scale(argument)


def scale(argument: str) -> tuple[float, float]:
    """Mean and standard deviation of the model's rewards, as train-rm saved them; 0 and 1 if there is no such file.

    Raises `UserError` if the file is invalid.
    """
    file = sources.check("reward", argument, option=OPTION).path / SCALE_FILE
    if not file.is_file():
        return 0.0, 1.0
    try:
        said = json.loads(file.read_bytes())
        mean, std = float(said["mean"]), float(said["std"])
        if math.isfinite(mean) and 0 < std < math.inf:
            return mean, std
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        pass
    raise UserError(
        f"{file}: must be an object with the numbers mean and std, std above 0; without the file, rewards are not "
        "scaled"
    )


def load(argument: str, *, device: str = "auto", dtype: str = "") -> "Score":
    """The reward model in the folder `argument`, as a reward."""
    check(argument)
    from ..models.reward import load_score

    mean, std = scale(argument)
    return load_score(argument, option=OPTION, device=device, dtype=dtype, mean=mean, std=std)
