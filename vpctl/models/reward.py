"""Reward models: train-rm trains them, and rewards score with them.

A BLIP-style model reads picture and prompt together. Its reward is the difference of its two matching logits, which is
an affine function of the text encoder's first token, as in ImageReward and VP-Score. A CLIP-style model embeds picture
and prompt separately. Its reward is the scaled cosine, as in PickScore. Both are plain transformers models: only the
weights make them reward models.
"""

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import BlipConfig, BlipForImageTextRetrieval, CLIPConfig, CLIPModel

from ..contracts import Reward
from ..errors import UserError
from . import devices, hub, sources
from .attention import fuse
from .preprocess import Recipe
from .shared import once

SHAPES_BACKBONE = Path(__file__).parent.parent / "shapes" / "weights" / "backbone"
LONGEST_TEXT = 77
"""Maximum tokens of a prompt. BERT's tokenizer allows 512, but no prompt is that long.

The saved tokenizer has this limit too.
"""
MOST_TEXTS = 4096
"""Maximum number of prompts whose text features a reward remembers."""
ARCHITECTURES: dict[str, Any] = {"blip": BlipForImageTextRetrieval, "clip": CLIPModel}


class RewardModel(nn.Module):
    """A vision-language model as a function from pictures and prompts to one raw reward each.

    The function has two parts, so that what is computed from a picture alone can be shared: `image_features`, and
    `compare`, which also takes the prompts.
    """

    def __init__(
        self,
        backbone: BlipForImageTextRetrieval | CLIPModel,
        tokenizer: Any,
        processor: Any,
        *,
        where: str,
        recipe: Recipe | None = None,
        longest_text: int = LONGEST_TEXT,
    ) -> None:
        """`where` names the option and the source in errors. `recipe` replaces the steps of the image processor."""
        super().__init__()
        self.where = where
        self.backbone = backbone
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest_text)
        self.tokenizer = tokenizer
        self.processor = processor
        self.recipe = recipe or Recipe.of(processor, where=where)

    def tokens(self, prompts: list[str]) -> dict[str, Tensor]:
        """Token ids and attention mask, each (B, L), padded to the longest prompt."""
        with hub.compute_errors(self.where):
            encoded = self.tokenizer(prompts, padding=True, truncation=True, return_tensors="pt")
            return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def is_truncated(self, prompt: str) -> bool:
        """Whether the model reads only the beginning of a prompt."""
        with hub.compute_errors(self.where):
            return bool(len(self.tokenizer(prompt, verbose=False).input_ids) > self.tokenizer.model_max_length)

    def pixels(self, images: list[Image.Image] | Tensor) -> Tensor:
        """Normalised pixels (B, 3, height, width). Gradients flow back to a tensor (B, 3, H, W) in [0, 1]."""
        with hub.compute_errors(self.where):
            if isinstance(images, Tensor):
                return self.recipe.batch(images, where=self.where)
            return torch.stack([self.recipe.pixels(image) for image in images])

    def image_features(self, pixels: Tensor) -> Tensor:
        """Features of pixels (B, 3, height, width): CLIP's embeddings (B, D), or BLIP's patches (B, P, D)."""
        model: Any = self.backbone
        with hub.compute_errors(self.where):
            if isinstance(model, CLIPModel):
                embedded: Tensor = model.get_image_features(pixel_values=pixels).pooler_output
                return embedded
            patches: Tensor = model.vision_model(pixels).last_hidden_state
            return patches

    def text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """CLIP's embeddings (B, D) of tokens (B, L)."""
        model: Any = self.backbone
        with hub.compute_errors(self.where):
            embedded: Tensor = model.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output
            return embedded

    def cosine(self, images: Tensor, texts: Tensor) -> Tensor:
        """The scaled cosines (B,) of a CLIP's image and text features, each (B, D), in float32."""
        model: Any = self.backbone
        cosine = F.cosine_similarity(_at_least_float32(images), _at_least_float32(texts))
        scaled: Tensor = cosine * _at_least_float32(model.logit_scale).exp()
        return scaled

    def matching(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The differences (B,) of a BLIP's matching logits, of image features (B, P, D) and tokens (B, L)."""
        model: Any = self.backbone
        with hub.compute_errors(self.where):
            crossed = model.text_encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                encoder_hidden_states=images,
                encoder_attention_mask=torch.ones(images.shape[:2], dtype=torch.long, device=images.device),
            ).last_hidden_state[:, 0]
            logits = _at_least_float32(model.itm_head(crossed))
            return logits[:, 1] - logits[:, 0]

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Raw rewards (B,) of pixels (B, 3, height, width) and tokens (B, L).

        The reward is the scaled cosine for a CLIP, and the difference of the matching logits for a BLIP.
        """
        images = self.image_features(pixels)
        if isinstance(self.backbone, CLIPModel):
            return self.cosine(images, self.text_features(input_ids, attention_mask))
        return self.matching(images, input_ids, attention_mask)

    def save(self, folder: str | Path) -> None:
        """Write a transformers folder, with float32 safetensors, tokenizer and image processor."""
        self.backbone.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.processor.save_pretrained(folder)


class Score(Reward):
    """A reward model as a reward: (raw reward − `mean`) / `std`.

    The model is on its device, in the precision that it computes in. The text features of a CLIP are computed once for
    each prompt, and its image features once for all rewards of the same model; see `shared`.
    """

    differentiable = True

    def __init__(
        self,
        model: RewardModel,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        weights: list[Path],
        recipe: Recipe | None = None,
    ) -> None:
        """`weights` are the files that the model was loaded from. `recipe` replaces that of the model."""
        if isinstance(model.backbone, BlipForImageTextRetrieval):
            fuse(model.backbone)
        self.model = model.eval().requires_grad_(False)
        self.weights = weights
        self.recipe = recipe or model.recipe
        self._mean, self._std = mean, std
        self.device = next(model.parameters()).device
        self._texts: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def _dtype(self) -> torch.dtype:
        backbone: Any = self.model.backbone
        dtype: torch.dtype = backbone.vision_model.dtype
        return dtype

    def prepare(self, image: Image.Image) -> Tensor:
        """The pixels (3, height, width) of a picture."""
        return self.recipe.pixels(image)

    def is_truncated(self, prompt: str) -> bool:
        """Whether the model reads only the beginning of a prompt."""
        return self.model.is_truncated(prompt)

    def provenance(self) -> dict[str, Any]:
        """What determines the scores."""
        return {
            "weights": {path.name: sha256(path) for path in self.weights},
            "preprocessing": self.recipe.summary,
            "dtype": str(self._dtype).removeprefix("torch."),
            "mean": self._mean,
            "std": self._std,
            "longest_text": self.model.tokenizer.model_max_length,
        }

    def __call__(self, images: list[Image.Image] | list[Tensor] | Tensor, prompts: list[str]) -> Tensor:
        """Rewards (B,) in float32. Gradients flow to `images` if it is a tensor that requires them."""
        with torch.set_grad_enabled(isinstance(images, Tensor) and images.requires_grad):
            return (self._raw(self._features(images), prompts) - self._mean) / self._std

    def _features(self, images: list[Image.Image] | list[Tensor] | Tensor) -> Tensor:
        """The image features of pictures, of what `prepare` returned for them, or of a tensor in [0, 1]."""
        if isinstance(images, Tensor):
            with hub.compute_errors(self.model.where):
                pixels = self.recipe.batch(images.to(self.device), where=self.model.where)
            return self._encoded(pixels)
        prepared = [image if isinstance(image, Tensor) else self.prepare(image) for image in images]
        key = (id(self.model), *map(id, prepared))
        return once(key, lambda: self._encoded(torch.stack(prepared).to(self.device)))

    def _encoded(self, pixels: Tensor) -> Tensor:
        return self.model.image_features(pixels.to(self._dtype))

    def _raw(self, features: Tensor, prompts: list[str]) -> Tensor:
        if isinstance(self.model.backbone, CLIPModel):
            return self.model.cosine(features, self._text_features(prompts))
        return self.model.matching(features, **self._tokens(prompts))

    def _tokens(self, prompts: list[str]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in self.model.tokens(prompts).items()}

    @torch.no_grad()
    def _text_features(self, prompts: list[str]) -> Tensor:
        """CLIP's embeddings (B, D) of prompts. It remembers those of the last `MOST_TEXTS` prompts."""
        known = {prompt: self._texts[prompt] for prompt in dict.fromkeys(prompts) if prompt in self._texts}
        if new := [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]:
            known |= dict(zip(new, self.model.text_features(**self._tokens(new)), strict=True))
        for prompt, features in known.items():
            self._texts[prompt] = features
            self._texts.move_to_end(prompt)
        while len(self._texts) > MOST_TEXTS:
            self._texts.popitem(last=False)
        return torch.stack([known[prompt] for prompt in prompts])


_open: WeakValueDictionary[tuple[Path, torch.device, torch.dtype], RewardModel] = WeakValueDictionary()
"""Models in use, by folder, device and precision. Two rewards with the same weights share one model."""


def load_score(source: str, *, option: str, device: str, dtype: str = "", mean: float = 0.0, std: float = 1.0) -> Score:
    """The model of a folder or a hub id as a reward. Raises `UserError` if it is not a BLIP or CLIP."""
    folder = sources.fetch("reward", source, option=option).resolve()
    where, precision = devices.resolve_device(device), devices.resolve_dtype(dtype)
    model = _open.get((folder, where, precision))
    if model is None:
        model = _open[folder, where, precision] = placed(open_model(source, option=option), where, precision)
    return Score(model, mean=mean, std=std, weights=sorted(folder.glob("*.safetensors")))


def placed(model: RewardModel, device: torch.device, dtype: torch.dtype) -> RewardModel:
    """The model on a device and in a precision.

    The logit scale of a CLIP stays in float32. It is about 4.6, and rounded to bfloat16 it would change every scaled
    score by up to 1.6 %.
    """
    scale = model.backbone.logit_scale.data if isinstance(model.backbone, CLIPModel) else None
    model.to(device, dtype)
    if scale is not None:
        model.backbone.logit_scale.data = scale.to(device, torch.float32)
    return model


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
