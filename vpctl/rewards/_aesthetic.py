"""The reward `aesthetic`: an affine function of a normalised CLIP embedding."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..models import hub, layouts
from ..models.reward import Score, load_score


class Aesthetic(Score):
    """A head of LAION Aesthetic on the image embeddings of a CLIP model."""

    def __init__(self, clip: Score, weight: Tensor, bias: Tensor, head: Path) -> None:
        """`weight` is (D,) and `bias` is (); `head` is the file that they come from."""
        # The heads were trained with OpenAI's own code, which crops as torchvision; the model's processor does not.
        recipe = replace(clip.recipe, offsets="torchvision")
        super().__init__(clip.model, weights=[head, *clip.weights], recipe=recipe)
        self._head, self._bias = weight.float().to(self.device), float(bias)

    def is_truncated(self, prompt: str) -> bool:
        """False: the prompt is not read."""
        return False

    def _raw(self, features: Tensor, prompts: list[str]) -> Tensor:
        return F.normalize(features.float()) @ self._head + self._bias


def open_aesthetic(
    file: Path, own: str, published: Mapping[int, str], where: str, *, device: str, dtype: str
) -> Aesthetic:
    """The head in `file`, on the CLIP model in the folder `own`, or if it is empty on the one that is `published`.

    `published` has hub ids by the number of weights of the head.
    """
    head = layouts.weights(hub.checkpoint(file, where=where), where=where)
    weight, bias = layouts.aesthetic(head, where=where)
    size = weight.shape[0]
    source = own or published.get(size, "")
    if not source:
        raise UserError(f"{where}: the head has {size} weights; known: {', '.join(map(str, published))}")
    clip = load_score(source, option=f"{where}: the CLIP model ", device=device, dtype=dtype)
    backbone: Any = clip.model.backbone
    if (found := getattr(backbone.config, "projection_dim", None)) != size:
        raise UserError(f"{where}: the head has {size} weights, and {source} embeds pictures in {found} numbers")
    return Aesthetic(clip, weight, bias, file)
