"""Reward models: train-rm trains them, and the reward `vp` scores with them.

A BLIP-style model reads picture and prompt together. Its reward is the difference of its two matching logits, which is
an affine function of the text encoder's first token, as in ImageReward and VP-Score. A CLIP-style model embeds picture
and prompt separately. Its reward is the scaled cosine, as in PickScore. Both are plain transformers models: only the
weights make them reward models.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import BlipConfig, BlipForImageTextRetrieval, CLIPConfig, CLIPModel

from ..contracts import Reward
from ..errors import UserError
from . import hub, sources
from .preprocess import Preprocess

SHAPES_BACKBONE = Path(__file__).parent.parent / "shapes" / "weights" / "backbone"
LONGEST_TEXT = 77
"""Maximum tokens of a prompt. BERT's tokenizer allows 512, but no prompt is that long.

The saved tokenizer has this limit too.
"""
ARCHITECTURES: dict[str, Any] = {"blip": BlipForImageTextRetrieval, "clip": CLIPModel}


class RewardModel(nn.Module):
    """A vision-language model as a function from pictures and prompts to one raw reward each."""

    def __init__(
        self, backbone: BlipForImageTextRetrieval | CLIPModel, tokenizer: Any, processor: Any, *, where: str
    ) -> None:
        """`where` names the option and the source in errors."""
        super().__init__()
        self.where = where
        self.backbone = backbone
        tokenizer.model_max_length = min(tokenizer.model_max_length, LONGEST_TEXT)
        self.tokenizer = tokenizer
        self.processor = processor
        self.preprocess = Preprocess(processor, where=where)

    def tokens(self, prompts: list[str]) -> dict[str, Tensor]:
        """Token ids and attention mask, each (B, L), padded to the longest prompt."""
        with hub.compute_errors(self.where):
            encoded = self.tokenizer(prompts, padding=True, truncation=True, return_tensors="pt")
            return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def pixels(self, images: list[Image.Image] | Tensor) -> Tensor:
        """Normalised pixels (B, 3, height, width). Gradients flow back to a tensor."""
        if not isinstance(images, Tensor):
            with hub.compute_errors(self.where):
                prepared: Tensor = self.processor(images, return_tensors="pt")["pixel_values"]
                return prepared
        with hub.compute_errors(self.where):
            made: Tensor = self.preprocess(images)
            return made

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Raw rewards (B,) of pixels (B, 3, height, width) and tokens (B, L).

        The reward is the scaled cosine for a CLIP, and the difference of the matching logits for a BLIP.
        """
        return self.reward(self.features(pixels, input_ids, attention_mask))

    def features(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The features (B, D) that the reward is an affine function of.

        For a BLIP they are the text encoder's first token. For a CLIP they are the elementwise product of the
        embeddings of picture and prompt, each scaled to a mean square of 1.
        """
        model: Any = self.backbone
        with hub.compute_errors(self.where):
            if isinstance(model, CLIPModel):
                image = model.get_image_features(pixel_values=pixels).pooler_output
                text = model.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output
                product: Tensor = F.normalize(image) * F.normalize(text) * image.shape[-1]
                return product
            patches = model.vision_model(pixels).last_hidden_state
            crossed: Tensor = model.text_encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                encoder_hidden_states=patches,
                encoder_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device),
            ).last_hidden_state[:, 0]
            return crossed

    def reward(self, features: Tensor) -> Tensor:
        """Raw rewards (B,) of features (B, D)."""
        model: Any = self.backbone
        if isinstance(model, CLIPModel):
            return features.mean(-1) * model.logit_scale.exp()
        logits: Tensor = model.itm_head(features)
        return logits[:, 1] - logits[:, 0]

    def affine(self) -> tuple[Tensor, Tensor]:
        """Weight (D,) and bias () of `reward`."""
        model: Any = self.backbone
        if isinstance(model, CLIPModel):
            width = model.visual_projection.out_features
            weight: Tensor = (model.logit_scale.exp() / width).expand(width)
            return weight, torch.zeros_like(weight[0])
        head = model.itm_head
        return head.weight[1] - head.weight[0], head.bias[1] - head.bias[0]

    @torch.no_grad()
    def set_affine(self, weight: Tensor, bias: Tensor) -> None:
        """Make `reward` the affine function with this weight (D,) and bias (). For a BLIP only."""
        model: Any = self.backbone
        for parameter, value in ((model.itm_head.weight, weight), (model.itm_head.bias, bias)):
            parameter.zero_()
            parameter[1] = value

    def save(self, folder: str | Path) -> None:
        """Write a transformers folder, with float32 safetensors, tokenizer and image processor."""
        self.backbone.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.processor.save_pretrained(folder)


class Score(Reward):
    """A reward model as a reward: (raw reward − `mean`) / `std`."""

    differentiable = True

    def __init__(self, model: RewardModel, device: torch.device, mean: float, std: float) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self._device, self._mean, self._std = device, mean, std

    def __call__(self, images: list[Image.Image] | Tensor, prompts: list[str]) -> Tensor:
        """Rewards (B,). Gradients flow to `images` if it is a tensor that requires them."""
        with torch.set_grad_enabled(isinstance(images, Tensor) and images.requires_grad):
            tokens = {name: value.to(self._device) for name, value in self.model.tokens(prompts).items()}
            pixels = self.model.pixels(images.to(self._device) if isinstance(images, Tensor) else images)
            rewards: Tensor = self.model(pixels.to(self._device), **tokens)
            return (rewards - self._mean) / self._std


def open_model(source: str, *, option: str) -> RewardModel:
    """The model of a folder or a hub id, in float32. Raises `UserError` if it is not a BLIP or CLIP.

    `option` is the text before the source on the command line, such as ``--reward vp:``.
    """
    where = f"{option}{source}"
    folder = sources.fetch("reward", source, option=option)
    kind = ARCHITECTURES[hub.config(folder, where=where).model_type]
    backbone = hub.model(kind, folder, dtype=torch.float32, where=where)
    tokenizer = hub.tokenizer(folder, where=where)
    if tokenizer.pad_token is None:
        raise UserError(f"{where}: its tokenizer has no padding token, which prompts of different lengths need")
    known = backbone.config.text_config.vocab_size
    if len(tokenizer) > known:
        raise UserError(
            f"{where}: its tokenizer has {len(tokenizer)} tokens and the model {known}: it belongs to another model"
        )
    return RewardModel(backbone, tokenizer, hub.image_processor(folder, where=where), where=where)


def open_backbone(source: str, *, seed: int) -> RewardModel:
    """The model that train-rm starts from. Weights of a new one are random, by `seed`.

    `source` is a folder, a hub id, ``new:blip``, ``new:clip``, or empty for the packaged backbone.
    """
    if not source.startswith("new:"):
        return open_model(source or str(SHAPES_BACKBONE), option="--backbone ")
    sources.check_backbone(source)
    kind = source.removeprefix("new:")
    packaged = open_model(str(SHAPES_BACKBONE), option="--backbone ")
    like: Any = packaged.backbone.config
    torch.manual_seed(seed)
    fresh = ARCHITECTURES[kind](like if kind == "blip" else _small_clip(like))
    return RewardModel(fresh, packaged.tokenizer, packaged.processor, where=f"--backbone {source}")


def _small_clip(blip: BlipConfig) -> CLIPConfig:
    """A CLIP configuration of the packaged BLIP's size, for its tokenizer and its pictures of 32 pixels."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    text, vision = blip.text_config, blip.vision_config
    return CLIPConfig(
        projection_dim=blip.image_text_hidden_size,
        text_config={
            **{name: getattr(text, name) for name in sizes},
            **{name: getattr(text, name) for name in ("vocab_size", "max_position_embeddings")},
            **{name: getattr(text, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        },
        vision_config={
            **{name: getattr(vision, name) for name in sizes},
            **{name: getattr(vision, name) for name in ("image_size", "patch_size")},
        },
    )
