"""Turns checkpoints in the layouts of their authors into models of transformers.

The sizes of a model are read from the shapes of its weights. Every weight must be known: one that is missing, or that
no model here has a place for, is an error, because a scorer with a random layer gives plausible scores. Weights that
scoring does not use, such as those of BLIP's decoder, are dropped by name.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import BlipConfig, BlipForImageTextRetrieval, CLIPConfig, CLIPModel

from ..errors import UserError
from . import hub

State = Mapping[str, Tensor]

_WRAPPERS = ("state_dict", "model", "params")
"""Keys under which a checkpoint of a training holds its weights."""
_PREFIXES = ("module.", "model.")
"""Prefixes of all names, from modules that wrapped the model when it was saved."""

_BLIP_UNUSED = re.compile(r"(.*\.)?position_ids|temp|\w*queue\w*|itm_head\..*|(text_decoder|\w+_m)\..*")
"""BLIP's buffers, its momentum copies, and its decoder."""
_BLIP_NAMES = (
    (r"visual_encoder\.cls_token", "vision_model.embeddings.class_embedding"),
    (r"visual_encoder\.pos_embed", "vision_model.embeddings.position_embedding"),
    (r"visual_encoder\.patch_embed\.proj\.(.+)", r"vision_model.embeddings.patch_embedding.\1"),
    (r"visual_encoder\.blocks\.(\d+)\.norm([12])\.(.+)", r"vision_model.encoder.layers.\1.layer_norm\2.\3"),
    (r"visual_encoder\.blocks\.(\d+)\.attn\.qkv\.(.+)", r"vision_model.encoder.layers.\1.self_attn.qkv.\2"),
    (r"visual_encoder\.blocks\.(\d+)\.attn\.proj\.(.+)", r"vision_model.encoder.layers.\1.self_attn.projection.\2"),
    (r"visual_encoder\.blocks\.(\d+)\.mlp\.(.+)", r"vision_model.encoder.layers.\1.mlp.\2"),
    (r"visual_encoder\.norm\.(.+)", r"vision_model.post_layernorm.\1"),
    (r"((text_encoder|vision_proj|text_proj)\..+)", r"\1"),
)
_BLIP_VISION_HEADS, _BLIP_TEXT_HEADS = 16, 12
"""Numbers of attention heads of BLIP's large model, which the shapes of weights do not show."""

_OPEN_CLIP_UNUSED = re.compile(r"(.*\.)?attn_mask")
_OPEN_CLIP_NAMES = (
    (r"visual\.class_embedding", "vision_model.embeddings.class_embedding"),
    (r"visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"visual\.conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
    (r"visual\.ln_pre\.(.+)", r"vision_model.pre_layrnorm.\1"),  # transformers spells it so
    (r"visual\.ln_post\.(.+)", r"vision_model.post_layernorm.\1"),
    (r"visual\.proj", "visual_projection.weight"),
    (r"token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
    (r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (r"ln_final\.(.+)", r"text_model.final_layer_norm.\1"),
    (r"text_projection", "text_projection.weight"),
    (r"logit_scale", "logit_scale"),
    (r"visual\.transformer\.resblocks\.(\d+)\.(.+)", r"vision_model.encoder.layers.\1.\2"),
    (r"transformer\.resblocks\.(\d+)\.(.+)", r"text_model.encoder.layers.\1.\2"),
)
_OPEN_CLIP_IN_LAYER = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "attn.out_proj.": "self_attn.out_proj.",
}
_HEAD_WIDTH = {1280: 80}
"""Channels of an attention head by width of the model: 80 in ViT-H, and 64 in all other CLIP models."""


def weights(loaded: Any, *, where: str) -> State:
    """The weights in a checkpoint, without wrappers. `where` names the option and the source in errors."""
    for _ in _WRAPPERS:
        inner = [loaded[key] for key in _WRAPPERS if _is_state(loaded.get(key))] if _is_state(loaded) else []
        loaded = inner[0] if inner else loaded
    if not _is_state(loaded) or not all(isinstance(one, Tensor) for one in loaded.values()):
        raise UserError(f"{where}: is not a checkpoint: it does not hold weights by name")
    state = dict(loaded)
    for name, value in state.items():
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UserError(
                f"{where}: {name[:80]!r} has the shape {tuple(value.shape)}, and the file holds fewer numbers"
            )
    while prefix := next((one for one in _PREFIXES if all(name.startswith(one) for name in state)), ""):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(name, str) for name in value)


def blip(state: State, *, where: str) -> BlipForImageTextRetrieval:
    """The model of an ImageReward checkpoint, in float32.

    ImageReward's head is five linear layers without activations between them. They are one affine function r of the
    text encoder's first token. The result computes it as the difference of its matching logits: the logits are (0, r).
    """
    state = {name.removeprefix("blip."): value for name, value in state.items()}
    layers = sorted({int(name.split(".")[2]) for name in state if re.fullmatch(r"mlp\.layers\.\d+\.weight", name)})
    if not layers:
        raise UserError(f"{where}: is not an ImageReward checkpoint: it has no head (mlp.layers)")
    with _shapes(where):
        weight, bias = affine([(state[f"mlp.layers.{n}.weight"], state[f"mlp.layers.{n}.bias"]) for n in layers])
        rest = {name: value for name, value in state.items() if not name.startswith("mlp.layers.")}
        found = _renamed(rest, _BLIP_NAMES, _BLIP_UNUSED, where=where)
        found["itm_head.weight"] = torch.stack([torch.zeros_like(weight[0]), weight[0]])
        found["itm_head.bias"] = torch.stack([torch.zeros_like(bias[0]), bias[0]])
        config = _blip_config(found)
    model: BlipForImageTextRetrieval = hub.filled(BlipForImageTextRetrieval, config, found, where=where)
    return model


def _blip_config(state: State) -> BlipConfig:
    patches = state["vision_model.embeddings.patch_embedding.weight"]
    words = state["text_encoder.embeddings.word_embeddings.weight"]
    positions = state["vision_model.embeddings.position_embedding"].shape[1]
    return BlipConfig(
        image_text_hidden_size=state["text_proj.weight"].shape[0],
        vision_config={
            "hidden_size": patches.shape[0],
            "intermediate_size": state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": _count(state, r"vision_model\.encoder\.layers\.(\d+)\."),
            "num_attention_heads": _BLIP_VISION_HEADS,
            "image_size": patches.shape[-1] * round((positions - 1) ** 0.5),
            "patch_size": patches.shape[-1],
            "layer_norm_eps": 1e-6,  # not the default of transformers
        },
        text_config={
            "vocab_size": words.shape[0],
            "hidden_size": words.shape[1],
            "encoder_hidden_size": patches.shape[0],
            "intermediate_size": state["text_encoder.encoder.layer.0.intermediate.dense.weight"].shape[0],
            "num_hidden_layers": _count(state, r"text_encoder\.encoder\.layer\.(\d+)\."),
            "num_attention_heads": _BLIP_TEXT_HEADS,  # not the default of transformers
            "max_position_embeddings": state["text_encoder.embeddings.position_embeddings.weight"].shape[0],
            "layer_norm_eps": 1e-12,
        },
    )


def open_clip(state: State, *, where: str) -> CLIPModel:
    """The model of an open_clip checkpoint with the activation GELU, such as LAION's ViT-H and HPS, in float32."""
    with _shapes(where):
        found: dict[str, Tensor] = {}
        for name, value in _renamed(state, _OPEN_CLIP_NAMES, _OPEN_CLIP_UNUSED, where=where).items():
            if ".attn.in_proj_" in name:  # queries, keys and values in one
                layer, kind = name.split(".attn.in_proj_")
                for letter, part in zip("qkv", value.chunk(3), strict=True):
                    found[f"{layer}.self_attn.{letter}_proj.{kind}"] = part
            else:
                for theirs, ours in _OPEN_CLIP_IN_LAYER.items():
                    name = name.replace(f".{theirs}", f".{ours}")
                found[name] = value.T if name.endswith("_projection.weight") else value
        config = _clip_config(found)
    model: CLIPModel = hub.filled(CLIPModel, config, found, where=where)
    return model


def _clip_config(state: State) -> CLIPConfig:
    patches = state["vision_model.embeddings.patch_embedding.weight"]
    tokens = state["text_model.embeddings.token_embedding.weight"]
    positions = state["vision_model.embeddings.position_embedding.weight"].shape[0]
    projection = state["text_projection.weight"].shape[0]
    common = {"hidden_act": "gelu", "projection_dim": projection}
    end = tokens.shape[0] - 1  # the end of a text is the last token of CLIP's vocabulary
    return CLIPConfig(
        projection_dim=projection,
        vision_config={
            **common,
            "hidden_size": patches.shape[0],
            "intermediate_size": state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": _count(state, r"vision_model\.encoder\.layers\.(\d+)\."),
            "num_attention_heads": patches.shape[0] // _HEAD_WIDTH.get(patches.shape[0], 64),
            "image_size": patches.shape[-1] * round((positions - 1) ** 0.5),
            "patch_size": patches.shape[-1],
        },
        text_config={
            **common,
            "vocab_size": tokens.shape[0],
            "hidden_size": tokens.shape[1],
            "intermediate_size": state["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": _count(state, r"text_model\.encoder\.layers\.(\d+)\."),
            "num_attention_heads": tokens.shape[1] // 64,
            "max_position_embeddings": state["text_model.embeddings.position_embedding.weight"].shape[0],
            "bos_token_id": end - 1,
            "eos_token_id": end,
            "pad_token_id": end,
        },
    )


def aesthetic(state: State, *, where: str) -> tuple[Tensor, Tensor]:
    """Weight (D,) and bias () of a LAION Aesthetic head, v1 or v2, in float64.

    v1 is one linear layer. v2 is five without activations between them, so it is one affine function as well.
    """
    if {*state} == {"weight", "bias"}:
        layers = [(state["weight"], state["bias"])]
    else:
        numbers = sorted({int(found[1]) for name in state if (found := re.fullmatch(r"layers\.(\d+)\.weight", name))})
        if numbers == [0, 3, 6, 9, 11]:
            raise UserError(f"{where}: is the head with ReLU; name the linear one, sac+logos+ava1-l14-linearMSE.pth")
        expected = {f"layers.{number}.{kind}" for number in numbers for kind in ("weight", "bias")}
        if not numbers or {*state} != expected:
            raise UserError(f"{where}: is not a head of LAION Aesthetic: its first weight is {min(state)[:80]!r}")
        layers = [(state[f"layers.{number}.weight"], state[f"layers.{number}.bias"]) for number in numbers]
    with _shapes(where):
        weight, bias = affine(layers)
        return weight[0], bias[0]


def affine(layers: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Weight (1, in) and bias (1,) of linear layers that follow each other, in float64.

    Raises `ValueError` if the layers do not fit together, or if the last one has more than one output.
    """
    sizes = [tuple(weight.shape) for weight, _ in layers]
    fits = all(len(size) == 2 for size in sizes) and all(a[0] == b[1] for a, b in pairwise(sizes))
    if (
        not fits
        or sizes[-1][0] != 1
        or any(tuple(bias.shape) != size[:1] for (_, bias), size in zip(layers, sizes, strict=True))
    ):
        raise ValueError(f"the layers of the head have the shapes {sizes}")
    weight, bias = (one.double() for one in layers[0])
    for next_weight, next_bias in layers[1:]:
        weight, bias = next_weight.double() @ weight, next_weight.double() @ bias + next_bias.double()
    return weight, bias


def _renamed(
    state: State, names: tuple[tuple[str, str], ...], unused: re.Pattern[str], *, where: str
) -> dict[str, Tensor]:
    """The weights under their names in transformers. Raises `UserError` for a name that the layout does not have."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if unused.fullmatch(name):
            continue
        ours = next((re.sub(theirs, new, name) for theirs, new in names if re.fullmatch(theirs, name)), None)
        if ours is None:
            raise UserError(f"{where}: has weights of another model: {name[:80]!r}")
        found[ours] = value
    return found


def _count(state: State, pattern: str) -> int:
    """The number of layers, from the names of their weights."""
    return 1 + max(int(found[1]) for name in state if (found := re.match(pattern, name)))


@contextmanager
def _shapes(where: str) -> Iterator[None]:
    """A context that reads shapes. A weight that is missing, or has an impossible shape, becomes a `UserError`."""
    try:
        yield
    except KeyError as error:
        raise UserError(f"{where}: its weights are incomplete: {error.args[0]!r} is missing") from None
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{where}: its weights do not fit together: {str(error).splitlines()[0][:200]}") from None
