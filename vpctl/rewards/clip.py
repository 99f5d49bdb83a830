"""CLIP score: the cosine of picture and prompt, by OpenAI's ViT-L/14, or by clip:FOLDER or clip:HUB-ID.

Published CLIP scores are this cosine times 1, 2.5, 100 or the model's logit scale. Here it is the cosine itself, in
[-1, 1].
"""

from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..models import sources

if TYPE_CHECKING:
    from ..models.reward import Score

HUB_ID = "openai/clip-vit-large-patch14"
OPTION = "--reward clip:"

ARGUMENTS = "DIR"


def check(argument: str) -> None:
    """Raise `UserError` if the CLIP model in `argument`, or OpenAI's ViT-L/14 if it is empty, cannot be used."""
    folder = sources.check("reward", argument or HUB_ID, option=OPTION)
    if folder.read("config.json")["model_type"] != "clip":
        raise UserError(f"{OPTION}{argument}: not a CLIP model")


def load(argument: str, *, device: str = "auto", dtype: str = "") -> "Score":
    """The CLIP model of a folder or hub id, as a reward. The scores are divided by its logit scale."""
    check(argument)
    from ..models.reward import Score, load_score

    scaled = load_score(argument or HUB_ID, option=OPTION, device=device, dtype=dtype)
    backbone: Any = scaled.model.backbone
    return Score(scaled.model, std=backbone.logit_scale.float().exp().item(), weights=scaled.weights)
