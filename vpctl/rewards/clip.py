"""CLIP score: the cosine of picture and prompt, as clip:FOLDER or clip:openai/clip-vit-large-patch14.

Published CLIP scores are this times 1, 2.5, 100 or the model's own logit scale; here it is the bare cosine, in [-1, 1].
"""

from transformers import CLIPModel

from .. import tensors
from ..errors import UserError
from ..reward_model import open_model
from .vp import Score

ARGUMENTS = "DIR"


def load(argument: str, *, device: str = "auto") -> Score:
    """The CLIP of a folder or hub id, its logit scale divided out."""
    if not argument:
        raise UserError("--reward clip: name a model, as in clip:openai/clip-vit-large-patch14")
    model = open_model(argument, option="--reward clip:")
    if not isinstance(model.backbone, CLIPModel):
        raise UserError(f"--reward clip:{argument}: not a CLIP model")
    return Score(model, tensors.pick(device), 0.0, model.backbone.logit_scale.exp().item())
