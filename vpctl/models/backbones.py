"""The models that train-rm can start from, looked at without torch.

A source is a folder or a hub id of a BLIP, CLIP or SigLIP, ``imagereward`` or ``imagereward:FILE``, ``new:blip`` or
``new:clip`` for a small one with random weights, or empty for the packaged backbone.
"""

import os
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import imagereward, sources

OPTION = "--backbone "
PACKAGED = Path(__file__).parent.parent / "shapes" / "weights" / "backbone"
NEW = ("new:blip", "new:clip")
_IMAGEREWARD = {
    "model_type": "blip",
    "text_config": {"max_position_embeddings": 512},
    "vision_config": {"patch_size": 16},
}
"""What its checkpoint, which has no configuration, is known to hold."""


def is_imagereward(source: str) -> bool:
    """Whether a source is a checkpoint of ImageReward."""
    return source.partition(":")[0] == "imagereward" and not os.path.exists(source)


def check(source: str) -> None:
    """Raise `UserError` if train-rm cannot start from `source`."""
    if is_imagereward(source):
        imagereward.check(source.partition(":")[2], option=f"{OPTION}imagereward:")
    elif source.startswith("new:") and source not in NEW:
        raise UserError(f"{OPTION}{source}: known: {', '.join(NEW)}")
    elif source and source not in NEW:
        sources.check("reward", source, option=OPTION)


def config(source: str) -> dict[str, Any]:
    """The configuration of a valid source. The small new models have that of the packaged one."""
    if is_imagereward(source):
        return _IMAGEREWARD
    packaged = not source or source in NEW
    return sources.check("reward", str(PACKAGED) if packaged else source, option=OPTION).config("config.json")


def kind(source: str) -> str:
    """The kind of model that a valid source names: blip, clip or siglip."""
    if source in NEW:
        return source.removeprefix("new:")
    found: str = config(source)["model_type"]
    return found
