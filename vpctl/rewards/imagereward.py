"""ImageReward v1.0 (Xu et al. 2023, arXiv 2304.05977): from the hub, or imagereward:FILE from a local copy.

A score is about normal over pictures of Stable Diffusion 1.4: 98 % lie between -2 and 2. The constants that scale it
are not in the checkpoint. They are those of the authors' code, as are the 35 tokens after which a prompt is cut off.
"""

import os
from typing import TYPE_CHECKING

from ..models import sources
from ..models.checkpoints import PublishedCheckpoint

if TYPE_CHECKING:
    from ..models.reward import Score

ARGUMENTS = "DIR"
OPTION = "--reward imagereward:"
CHECKPOINT = PublishedCheckpoint("THUDM/ImageReward", "ImageReward.pt")
TOKENIZER = "google-bert/bert-base-uncased"
MEAN, STD = 0.16717362830052426, 1.0333394966054072
LONGEST_TEXT, SIDE = 35, 224


def check(argument: str) -> None:
    """Raise `UserError` if the checkpoint in `argument`, or the published one if it is empty, cannot be used."""
    CHECKPOINT.check(argument, option=OPTION)
    sources.check("tokenizer", _tokenizer(argument), option=f"{OPTION}{argument} needs the tokenizer ")


def _tokenizer(argument: str) -> str:
    """The folder of the checkpoint if it has a tokenizer, otherwise the published tokenizer."""
    folder = argument if os.path.isdir(argument) else os.path.dirname(argument) or "."
    own = any(os.path.isfile(os.path.join(folder, name)) for name in ("tokenizer.json", "vocab.txt"))
    return folder if argument and own else TOKENIZER


def load(argument: str, *, device: str = "auto", dtype: str = "") -> "Score":
    """ImageReward as it was released."""
    check(argument)
    from transformers import BertTokenizer

    from ..models import devices, hub, layouts
    from ..models.preprocess import Recipe
    from ..models.reward import RewardModel, Score, placed

    where = f"{OPTION}{argument}"
    file = CHECKPOINT.fetch(argument, option=OPTION)
    model = RewardModel(
        layouts.blip(layouts.weights(hub.checkpoint(file, where=where), where=where), where=where),
        hub.tokenizer(sources.fetch("tokenizer", _tokenizer(argument), option=OPTION), where=where, kind=BertTokenizer),
        None,
        where=where,
        recipe=Recipe(SIDE, crop=(SIDE, SIDE), offsets="torchvision"),
        longest_text=LONGEST_TEXT,
    )
    model = placed(model, devices.resolve_device(device), devices.resolve_dtype(dtype))
    return Score(model, mean=MEAN, std=STD, weights=[file])
