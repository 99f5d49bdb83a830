"""Reward models: train-rm trains them, and rewards score with them.

A BLIP-style model reads picture and prompt together. Its reward is the difference of its two matching logits, which is
an affine function of the text encoder's first token, as in ImageReward and VP-Score. A CLIP-style model embeds picture
and prompt separately. Its reward is the scaled cosine, as in PickScore. SigLIP is of this style, too. All are plain
transformers models: only the weights make them reward models.
"""

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Self
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForImageTextRetrieval,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    SiglipModel,
)

from ..contracts import Reward
from ..errors import UserError
from . import backbones, devices, hub, imagereward, layouts, sources
from .attention import fuse
from .folder import Folder
from .preprocess import Recipe
from .shared import once
from .tensors import digest_of

LONGEST_TEXT = 77
"""Maximum tokens of a prompt. BERT's tokenizer allows 512, but no prompt is that long.

The saved tokenizer has this limit too.
"""
MOST_TEXTS = 4096
"""Maximum number of prompts whose text features a reward remembers."""
ARCHITECTURES: dict[str, Any] = {"blip": BlipForImageTextRetrieval, "clip": CLIPModel, "siglip": SiglipModel}


class RewardModel(nn.Module):
    """A vision-language model as a function from pictures and prompts to one raw reward each.

    The function has three parts, so that what is computed from a picture alone can be shared: `image_features`,
    `pair_features`, which also takes the prompts, and `reward`.
    """

    def __init__(
        self,
        backbone: BlipForImageTextRetrieval | CLIPModel | SiglipModel,
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
        text: Any = backbone.config.text_config
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest_text, text.max_position_embeddings)
        self.tokenizer = tokenizer
        self.processor = processor
        self.recipe = recipe or Recipe.of(processor, where=where)

    @property
    def reads_apart(self) -> bool:
        """Whether the model embeds picture and prompt separately, as CLIP and SigLIP do."""
        return isinstance(self.backbone, CLIPModel | SiglipModel)

    def tokens(self, prompts: list[str]) -> dict[str, Tensor]:
        """Token ids and attention mask, each (B, L), padded to the longest prompt, or for a SigLIP to its limit.

        A SigLIP has no attention mask: it was trained with prompts of one length, and reads the padding, too.
        """
        padding = "max_length" if isinstance(self.backbone, SiglipModel) else True
        with hub.compute_errors(self.where):
            encoded = self.tokenizer(
                prompts, padding=padding, truncation=True, return_attention_mask=True, return_tensors="pt"
            )
            return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def is_truncated(self, prompt: str) -> bool:
        """Whether the model reads only the beginning of a prompt."""
        with hub.compute_errors(self.where):
            return bool(len(self.tokenizer(prompt, verbose=False).input_ids) > self.tokenizer.model_max_length)

    def train(self, mode: bool = True) -> Self:
        """Turn dropout on or off. It stays off in modules that are frozen as a whole: their outputs are constant."""
        super().train(mode)
        for module in self.backbone.modules():
            parameters = [*module.parameters()]
            if parameters and not any(one.requires_grad for one in parameters):
                module.eval()
        return self

    @property
    def frozen_layers(self) -> int:
        """How many of the lowest vision layers are frozen, as is everything before them."""
        vision: Any = self.backbone.vision_model
        before = [vision.embeddings, *([vision.pre_layrnorm] if hasattr(vision, "pre_layrnorm") else [])]
        if any(one.requires_grad for module in before for one in module.parameters()):
            return 0
        frozen = (not any(one.requires_grad for one in layer.parameters()) for layer in vision.encoder.layers)
        return sum(takewhile(bool, frozen))

    def _lower_layers(self, pixels: Tensor, layers: int) -> Tensor:
        """The hidden states (B, P, D) of pixels (B, 3, height, width) after so many vision layers."""
        vision: Any = self.backbone.vision_model
        with hub.compute_errors(self.where):
            hidden = vision.embeddings(pixels)
            if isinstance(self.backbone, CLIPModel):
                hidden = vision.pre_layrnorm(hidden)
            return _through(vision.encoder, slice(layers), hidden)

    def _upper_layers(self, hidden: Tensor, layers: int) -> Tensor:
        """The image features of hidden states (B, P, D) after so many vision layers; see `image_features`."""
        model: Any = self.backbone
        vision = model.vision_model
        with hub.compute_errors(self.where):
            hidden = _through(vision.encoder, slice(layers, None), hidden)
            if isinstance(model, CLIPModel):
                embedded: Tensor = model.visual_projection(vision.post_layernorm(hidden[:, 0]))
                return embedded
            patches: Tensor = vision.post_layernorm(hidden)
            if isinstance(model, SiglipModel):
                pooled: Tensor = vision.head(patches)
                return pooled
            return patches

    def image_features(self, inputs: Tensor) -> Tensor:
        """Image features: CLIP's embeddings (B, D), or BLIP's patches (B, P, D).

        `inputs` are pixels (B, 3, height, width), or what `after_frozen_layers` made of them, (B, P, D).
        """
        if inputs.ndim == 3:
            return self._upper_layers(inputs.to(next(self.parameters()).dtype), self.frozen_layers)
        return self._upper_layers(self._lower_layers(inputs, 0), 0)

    def after_frozen_layers(self, pixels: Tensor) -> Tensor:
        """The hidden states (B, P, D) of pixels (B, 3, height, width) after the frozen vision layers."""
        return self._lower_layers(pixels, self.frozen_layers)

    @property
    def hidden_shape(self) -> tuple[int, int]:
        """The shape (P, D) of the hidden states of a picture."""
        vision: Any = self.backbone.vision_model
        return vision.embeddings.num_positions, vision.config.hidden_size

    def identity_of_frozen_layers(self) -> str:
        """A text that changes with what `after_frozen_layers` makes of a picture."""
        vision: Any = self.backbone.vision_model
        layers = [f"encoder.layers.{layer}." for layer in range(self.frozen_layers)]
        weights = {
            name: values
            for name, values in vision.state_dict().items()
            if not name.startswith("encoder.") or any(map(name.startswith, layers))
        }
        return digest_of((self.recipe, vision.config.to_dict()), weights)

    def text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """CLIP's embeddings (B, D) of tokens (B, L)."""
        model: Any = self.backbone
        mask = {} if isinstance(model, SiglipModel) else {"attention_mask": attention_mask}
        with hub.compute_errors(self.where):
            embedded: Tensor = model.get_text_features(input_ids=input_ids, **mask).pooler_output
            return embedded

    def joined(self, images: Tensor, texts: Tensor) -> Tensor:
        """A CLIP's pair features (B, D) of image and text features, each (B, D), in at least float32.

        They are the elementwise product of the two, each scaled to a mean square of 1.
        """
        return F.normalize(_at_least_float32(images)) * F.normalize(_at_least_float32(texts)) * images.shape[-1]

    def pair_features(self, images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The features (B, D) that the reward is an affine function of, from image features and tokens (B, L).

        For a BLIP they are the text encoder's first token, which has seen the picture. For a CLIP see `joined`.
        """
        model: Any = self.backbone
        if self.reads_apart:
            return self.joined(images, self.text_features(input_ids, attention_mask))
        with hub.compute_errors(self.where):
            crossed: Tensor = model.text_encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                encoder_hidden_states=images,
                encoder_attention_mask=torch.ones(images.shape[:2], dtype=torch.long, device=images.device),
            ).last_hidden_state[:, 0]
            return crossed

    def reward(self, features: Tensor) -> Tensor:
        """Raw rewards (B,) of pair features (B, D)."""
        model: Any = self.backbone
        if self.reads_apart:
            bias = _at_least_float32(model.logit_bias) if isinstance(model, SiglipModel) else 0.0
            return features.mean(-1) * _at_least_float32(model.logit_scale).exp() + bias
        logits: Tensor = model.itm_head(_at_least_float32(features))
        return logits[:, 1] - logits[:, 0]

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Raw rewards (B,) of pixels (B, 3, height, width) and tokens (B, L).

        The reward is the scaled cosine for a CLIP, and the difference of the matching logits for a BLIP.
        """
        return self.reward(self.pair_features(self.image_features(pixels), input_ids, attention_mask))

    def affine(self) -> tuple[Tensor, Tensor]:
        """Weight (D,) and bias () of `reward`."""
        model: Any = self.backbone
        if self.reads_apart:
            text = model.config.text_config
            width = text.projection_size if isinstance(model, SiglipModel) else model.projection_dim
            weight: Tensor = (model.logit_scale.exp() / width).expand(width)
            return weight, self.reward(torch.zeros_like(weight)[None])[0]
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


def _through(encoder: Any, layers: slice, hidden: Tensor) -> Tensor:
    """The hidden states after some layers of an encoder."""
    part = copy.copy(encoder)  # shares the weights, and runs its layers as the whole encoder does
    part._modules = {**encoder._modules, "layers": encoder.layers[layers]}
    output: Tensor = part(inputs_embeds=hidden).last_hidden_state
    return output


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
        """The model is set up for scoring: no gradients for its weights, no dropout, and one step for BLIP's attention.

        `weights` are the files that the model was loaded from. `recipe` replaces that of the model.
        """
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

    def __call__(self, images: Sequence[Image.Image | Tensor] | Tensor, prompts: list[str]) -> Tensor:
        """Rewards (B,) in float32. Gradients flow to `images` if it is a tensor that requires them."""
        with torch.set_grad_enabled(isinstance(images, Tensor) and images.requires_grad):
            return (self._raw(self._features(images), prompts) - self._mean) / self._std

    def embeddings(self, images: Sequence[Image.Image | Tensor]) -> Tensor:
        """What the model sees in pictures alone (B, D), in float32: their embeddings, or BLIP's class tokens."""
        with torch.no_grad():
            features = self._features(images)
            return (features[:, 0] if features.ndim == 3 else features).float()

    def _features(self, images: Sequence[Image.Image | Tensor] | Tensor) -> Tensor:
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
        if self.model.reads_apart:
            return self.model.reward(self.model.joined(features, self._text_features(prompts)))
        return self.model.reward(self.model.pair_features(features, **self._tokens(prompts)))

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


_open: WeakValueDictionary[Hashable, RewardModel] = WeakValueDictionary()
"""Models in use, by folder and its stamp, device and precision. Two rewards with the same weights share one model."""


def load_score(source: str, *, option: str, device: str, dtype: str = "", mean: float = 0.0, std: float = 1.0) -> Score:
    """The model of a folder or a hub id as a reward. Raises `UserError` if it is none of the known kinds."""
    folder = sources.fetch("reward", source, option=option).resolve()
    where, precision = devices.resolve_device(device), devices.resolve_dtype(dtype)
    key = (folder, Folder(folder).stamp(), where, precision)
    model = _open.get(key)
    if model is None:
        model = _open[key] = placed(open_model(source, option=option), where, precision)
    return Score(model, mean=mean, std=std, weights=sorted(folder.glob("*.safetensors")))


def placed(model: RewardModel, device: torch.device, dtype: torch.dtype) -> RewardModel:
    """The model on a device and in a precision.

    What turns features into a reward stays in float32: the logit scale and bias of a CLIP or SigLIP, which rounded to
    bfloat16 would change every score by up to 1.6 %, and the matching head of a BLIP.
    """
    kept = {
        name: one.data for name, one in model.backbone.named_parameters() if name.startswith(("logit_", "itm_head"))
    }
    model.to(device, dtype)
    for name, values in kept.items():
        model.backbone.get_parameter(name).data = values.to(device, torch.float32)
    return model


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_model(source: str, *, option: str) -> RewardModel:
    """The model of a folder or a hub id, in float32. Raises `UserError` if it is none of the known kinds.

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


def open_imagereward(argument: str, *, option: str) -> tuple[RewardModel, Path]:
    """The published ImageReward in float32 with its own preprocessing, and the file that it was read from."""
    where, side = f"{option}{argument}", imagereward.SIDE
    file = imagereward.CHECKPOINT.fetch(argument, option=option)
    words = sources.fetch("tokenizer", imagereward.tokenizer(argument), option=option)
    model = RewardModel(
        layouts.blip(layouts.weights(hub.checkpoint(file, where=where), where=where), where=where),
        hub.tokenizer(words, where=where, kind=BertTokenizer),
        CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        where=where,
        recipe=Recipe(side, crop=(side, side), offsets="torchvision"),
        longest_text=imagereward.LONGEST_TEXT,
    )
    return model, file


def open_backbone(source: str, *, seed: int) -> RewardModel:
    """The model that train-rm starts from, in float32. Weights of a new one are random, by `seed`.

    `source` is what `backbones` knows. The published ImageReward is prepared as transformers does it, with its 35
    tokens: the image processor that is saved beside the trained model has no other way to crop.
    """
    backbones.check(source)
    option = backbones.OPTION
    if backbones.is_imagereward(source):
        published, _ = open_imagereward(source.partition(":")[2], option=f"{option}imagereward:")
        published.recipe = Recipe.of(published.processor, where=published.where)
        return published
    if source not in backbones.NEW:
        return open_model(source or str(backbones.PACKAGED), option=option)
    kind = source.removeprefix("new:")
    packaged = open_model(str(backbones.PACKAGED), option=option)
    like: Any = packaged.backbone.config
    torch.manual_seed(seed)
    fresh = ARCHITECTURES[kind](like if kind == "blip" else _small_clip(like))
    return RewardModel(fresh, packaged.tokenizer, packaged.processor, where=f"{option}{source}")


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
