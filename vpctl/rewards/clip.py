"""CLIP score: the cosine similarity of picture and prompt; clip:FOLDER or clip:HUB-ID.

Published CLIP scores are this cosine times 1, 2.5, 100 or the model's logit scale. Here it is the cosine itself, in
[-1, 1].
"""

from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..models import sources

if TYPE_CHECKING:
    from ..models.reward import Score

OPTION = "--reward clip:"

ARGUMENTS = "DIR"


def check(argument: str) -> None:
    """Raise `UserError` if `argument` is not a folder or hub id of a CLIP model."""
    if not argument:
        raise UserError(f"{OPTION} name a model, as in clip:openai/clip-vit-large-patch14")
    folder = sources.check("reward", argument, option=OPTION)
    if folder.read("config.json")["model_type"] != "clip":
        raise UserError(f"{OPTION}{argument}: not a CLIP model")


def load(argument: str, *, device: str = "auto") -> "Score":
    """The CLIP model of a folder or hub id, as a reward. The scores are divided by its logit scale."""
    check(argument)
    from ..models import devices
    from ..models.reward import Score, open_model

    model = open_model(argument, option=OPTION)
    backbone: Any = model.backbone
    return Score(model, devices.resolve_device(device), 0.0, backbone.logit_scale.exp().item())
