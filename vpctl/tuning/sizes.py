"""What a reward model reads: how many tokens of a prompt, and how many pixels of a picture."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Resampling
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPModel

from ..models.reward import RewardModel


def limit_text(model: RewardModel, tokens: int) -> None:
    """Let the model read only this many tokens of a prompt, with the special tokens. Its tokenizer keeps the limit."""
    model.tokenizer.model_max_length = min(tokens, model.tokenizer.model_max_length)


def too_long(model: RewardModel, prompts: Sequence[str]) -> int:
    """The number of prompts whose end the model does not read."""
    return sum(map(model.is_truncated, prompts))


def with_pictures_of(model: RewardModel, side: int) -> RewardModel:
    """The model for square pictures of this side in pixels, a multiple of its patch size.

    A picture's shorter side is resized to `side`, bicubic, and the centre is cropped, as in ImageReward. The position
    embeddings are interpolated, as in BLIP's own code.
    """
    backbone: Any = model.backbone
    vision = backbone.config.vision_config
    embeddings = backbone.vision_model.embeddings
    patches = side // vision.patch_size
    if isinstance(backbone, CLIPModel):
        positions = resized(embeddings.position_embedding.weight.detach(), patches)
        embeddings.position_embedding = nn.Embedding(*positions.shape)
        embeddings.position_embedding.weight = nn.Parameter(positions)
        embeddings.position_ids = torch.arange(len(positions))[None]
    else:
        embeddings.position_embedding = nn.Parameter(resized(embeddings.position_embedding.detach()[0], patches)[None])
    vision.image_size = embeddings.image_size = side
    embeddings.num_patches, embeddings.num_positions = patches**2, patches**2 + 1
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        resample=Resampling.BICUBIC,
        image_mean=model.processor.image_mean,
        image_std=model.processor.image_std,
    )
    return RewardModel(backbone, model.tokenizer, processor, where=model.where)


def resized(positions: Tensor, patches: int) -> Tensor:
    """Position embeddings (1 + patches², D) of a square grid, bicubic, from those of another one (1 + n², D).

    The first embedding is that of the class token, and stays.
    """
    own = round((len(positions) - 1) ** 0.5)
    grid = positions[1:].T.view(1, -1, own, own)
    larger = F.interpolate(grid, (patches, patches), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], larger.flatten(2)[0].T])
