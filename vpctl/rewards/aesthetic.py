"""LAION Aesthetic v2: from the hub, or aesthetic:FILE with the head of v1 or v2. It does not read the prompt.

The score is about 1 to 10. It is an affine function of the normalised CLIP embedding: of OpenAI's ViT-L/14, or of the
ViT-B/32 if the head has 512 weights. If the folder of FILE also has a CLIP model, that one is used instead.
"""

import os
from typing import TYPE_CHECKING

from ..errors import UserError
from ..models import sources
from ..models.checkpoints import PublishedCheckpoint

if TYPE_CHECKING:
    from ._aesthetic import Aesthetic

ARGUMENTS = "DIR"
OPTION = "--reward aesthetic:"
BACKBONES = {768: "openai/clip-vit-large-patch14", 512: "openai/clip-vit-base-patch32"}
"""The CLIP model of a head, by the number of its weights."""
CHECKPOINT = PublishedCheckpoint("trl-lib/ddpo-aesthetic-predictor", "aesthetic-model.pth")


def check(argument: str) -> None:
    """Raise `UserError` if the head in `argument`, or the published one if it is empty, cannot be used."""
    CHECKPOINT.check(argument, option=OPTION)
    backbone = own_backbone(argument) or ("" if argument else BACKBONES[768])
    if backbone:
        option = f"{OPTION}{argument}: the CLIP model "
        if (kind := sources.check("reward", backbone, option=option).read("config.json")["model_type"]) != "clip":
            raise UserError(f"{option}{backbone}: is a {kind} model; move the head to a folder without it")


def own_backbone(argument: str) -> str:
    """The folder of the head if it has a model, otherwise empty."""
    folder = argument if os.path.isdir(argument) else os.path.dirname(argument) or "."
    return folder if argument and os.path.isfile(os.path.join(folder, "config.json")) else ""


def load(argument: str, *, device: str = "auto", dtype: str = "") -> "Aesthetic":
    """The head with its CLIP model. Raises `UserError` if the two do not fit."""
    check(argument)
    from ._aesthetic import open_aesthetic

    file = CHECKPOINT.fetch(argument, option=OPTION)
    where = f"{OPTION}{argument}"
    return open_aesthetic(file, own_backbone(argument), BACKBONES, where, device=device, dtype=dtype)
