"""ImageReward v1.0 (Xu et al. 2023, arXiv 2304.05977): from the hub, or imagereward:FILE from a local copy.

A score is about normal over pictures of Stable Diffusion 1.4: 98 % lie between -2 and 2.
"""

from typing import TYPE_CHECKING

from ..models import imagereward

if TYPE_CHECKING:
    from ..models.reward import Score

ARGUMENTS = "DIR"
OPTION = "--reward imagereward:"


def check(argument: str) -> None:
    """Raise `UserError` if the checkpoint in `argument`, or the published one if it is empty, cannot be used."""
    imagereward.check(argument, option=OPTION)


def load(argument: str, *, device: str = "auto", dtype: str = "") -> "Score":
    """ImageReward as it was released."""
    check(argument)
    from ..models import devices
    from ..models.reward import Score, open_imagereward, placed

    model, file = open_imagereward(argument, option=OPTION)
    model = placed(model, devices.resolve_device(device), devices.resolve_dtype(dtype))
    return Score(model, mean=imagereward.MEAN, std=imagereward.STD, weights=[file])
