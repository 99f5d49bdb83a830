"""Scorers of the field a second time, in plain torch, and checkpoints with random weights in their authors' layouts.

The formulas are written from the papers and from descriptions of the checkpoints, without transformers: a scorer of
vpctl must agree with them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
VOCABULARY = [
    *("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *"a red blue green circle star square left of on the two ##s ##es , . - black white background".split(),
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"),
]
"""A vocabulary of BERT, with the tokens for the beginning and end of a text."""


class _Weights:
    """Random weights by name."""

    def __init__(self, seed: int, scale: float = 0.2) -> None:
        self.state: State = {}
        self._generator = torch.Generator().manual_seed(seed)
        self._scale = scale

    def random(self, name: str, *shape: int) -> None:
        self.state[name] = torch.randn(*shape, generator=self._generator) * self._scale

    def linear(self, name: str, into: int, out: int) -> None:
        self.random(f"{name}.weight", out, into)
        self.random(f"{name}.bias", out)

    def norm(self, name: str, width: int) -> None:
        self.random(f"{name}.weight", width)
        self.state[f"{name}.weight"] += 1
        self.random(f"{name}.bias", width)


def imagereward(seed: int = 0, *, vision: int = 64, text: int = 48, depth: int = 2, words: int = 0) -> State:
    """A small checkpoint of ImageReward. Its pictures have 224 pixels and its patches 16."""
    made = _Weights(seed)
    vit = "blip.visual_encoder"
    made.random(f"{vit}.cls_token", 1, 1, vision)
    made.random(f"{vit}.pos_embed", 1, 197, vision)
    made.random(f"{vit}.patch_embed.proj.weight", vision, 3, 16, 16)
    made.random(f"{vit}.patch_embed.proj.bias", vision)
    for n in range(depth):
        for norm in ("norm1", "norm2"):
            made.norm(f"{vit}.blocks.{n}.{norm}", vision)
        made.linear(f"{vit}.blocks.{n}.attn.qkv", vision, 3 * vision)
        made.linear(f"{vit}.blocks.{n}.attn.proj", vision, vision)
        made.linear(f"{vit}.blocks.{n}.mlp.fc1", vision, 4 * vision)
        made.linear(f"{vit}.blocks.{n}.mlp.fc2", 4 * vision, vision)
    made.norm(f"{vit}.norm", vision)
    bert = "blip.text_encoder"
    made.state[f"{bert}.embeddings.position_ids"] = torch.arange(512)[None]
    made.random(f"{bert}.embeddings.word_embeddings.weight", words or len(VOCABULARY) + 2, text)
    made.random(f"{bert}.embeddings.position_embeddings.weight", 512, text)
    made.norm(f"{bert}.embeddings.LayerNorm", text)
    for n in range(depth):
        layer = f"{bert}.encoder.layer.{n}"
        for part, into in (("attention", text), ("crossattention", vision)):
            made.linear(f"{layer}.{part}.self.query", text, text)
            made.linear(f"{layer}.{part}.self.key", into, text)
            made.linear(f"{layer}.{part}.self.value", into, text)
            made.linear(f"{layer}.{part}.output.dense", text, text)
            made.norm(f"{layer}.{part}.output.LayerNorm", text)
        made.linear(f"{layer}.intermediate.dense", text, 4 * text)
        made.linear(f"{layer}.output.dense", 4 * text, text)
        made.norm(f"{layer}.output.LayerNorm", text)
    made.linear("blip.vision_proj", vision, 32)
    made.linear("blip.text_proj", text, 32)
    return made.state | head(seed + 1, text)


def head(seed: int, width: int, prefix: str = "mlp.layers") -> State:
    """Five linear layers without activations, as ImageReward and LAION Aesthetic v2 have them."""
    made = _Weights(seed)
    sizes = [width, 1024, 128, 64, 16, 1]
    for number, into, out in zip((0, 2, 4, 6, 7), sizes[:-1], sizes[1:], strict=True):
        made.linear(f"{prefix}.{number}", into, out)
        made.state[f"{prefix}.{number}.weight"] *= 1.5 / into**0.5 / 0.3
    return made.state


def run_head(state: State, features: Tensor, prefix: str = "mlp.layers") -> Tensor:
    for number in (0, 2, 4, 6, 7):
        features = F.linear(features, state[f"{prefix}.{number}.weight"], state[f"{prefix}.{number}.bias"])
    return features[:, 0]


def run_imagereward(state: State, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Rewards (B,) of pixels (B, 3, 224, 224) and tokens (B, L)."""
    vit = {name.removeprefix("blip.visual_encoder."): one for name, one in state.items()}
    patches = F.conv2d(pixels, vit["patch_embed.proj.weight"], vit["patch_embed.proj.bias"], stride=16)
    hidden = torch.cat([vit["cls_token"].expand(len(pixels), -1, -1), patches.flatten(2).mT], 1) + vit["pos_embed"]
    for n in range(_depth(vit, "blocks")):
        x = _norm(vit, f"blocks.{n}.norm1", hidden, 1e-6)
        q, k, v = _linear(vit, f"blocks.{n}.attn.qkv", x).chunk(3, -1)
        hidden = hidden + _linear(vit, f"blocks.{n}.attn.proj", _attention(q, k, v, 16))
        x = _linear(vit, f"blocks.{n}.mlp.fc1", _norm(vit, f"blocks.{n}.norm2", hidden, 1e-6))
        hidden = hidden + _linear(vit, f"blocks.{n}.mlp.fc2", F.gelu(x))
    seen = _norm(vit, "norm", hidden, 1e-6)

    bert = {name.removeprefix("blip.text_encoder."): one for name, one in state.items()}
    words = bert["embeddings.word_embeddings.weight"][ids]
    words = words + bert["embeddings.position_embeddings.weight"][: ids.shape[1]]
    hidden = _norm(bert, "embeddings.LayerNorm", words, 1e-12)
    hidden_from = (1.0 - mask[:, None, None].to(hidden.dtype)) * torch.finfo(hidden.dtype).min
    for n in range(_depth(bert, "encoder.layer")):
        layer = f"encoder.layer.{n}"
        for part, source, bias in (("attention", None, hidden_from), ("crossattention", seen, None)):
            q = _linear(bert, f"{layer}.{part}.self.query", hidden)
            k, v = (
                _linear(bert, f"{layer}.{part}.self.{one}", hidden if source is None else source)
                for one in ("key", "value")
            )
            x = _linear(bert, f"{layer}.{part}.output.dense", _attention(q, k, v, 12, bias))
            hidden = _norm(bert, f"{layer}.{part}.output.LayerNorm", x + hidden, 1e-12)
        x = F.gelu(_linear(bert, f"{layer}.intermediate.dense", hidden))
        hidden = _norm(bert, f"{layer}.output.LayerNorm", _linear(bert, f"{layer}.output.dense", x) + hidden, 1e-12)
    return (run_head(state, hidden[:, 0]) - 0.16717362830052426) / 1.0333394966054072


def open_clip(
    seed: int = 0, *, vision: int = 128, text: int = 64, depth: int = 2, patch: int = 56, words: int = 49408
) -> State:
    """A small checkpoint of open_clip. Its pictures have 224 pixels, and its attention heads 64 channels."""
    made = _Weights(seed, 0.1)
    made.random("visual.class_embedding", vision)
    made.random("visual.positional_embedding", (224 // patch) ** 2 + 1, vision)
    made.random("visual.conv1.weight", vision, 3, patch, patch)
    made.norm("visual.ln_pre", vision)
    made.norm("visual.ln_post", vision)
    made.random("visual.proj", vision, 32)
    made.random("token_embedding.weight", words, text)
    made.random("positional_embedding", 77, text)
    made.norm("ln_final", text)
    made.random("text_projection", text, 32)
    made.state["logit_scale"] = torch.tensor(4.6052)
    for stack, width in (("visual.transformer", vision), ("transformer", text)):
        for n in range(depth):
            block = f"{stack}.resblocks.{n}"
            made.norm(f"{block}.ln_1", width)
            made.norm(f"{block}.ln_2", width)
            made.random(f"{block}.attn.in_proj_weight", 3 * width, width)
            made.random(f"{block}.attn.in_proj_bias", 3 * width)
            made.linear(f"{block}.attn.out_proj", width, width)
            made.linear(f"{block}.mlp.c_fc", width, 4 * width)
            made.linear(f"{block}.mlp.c_proj", 4 * width, width)
    return made.state


def run_open_clip(
    state: State, pixels: Tensor, ids: Tensor, activation: Callable[[Tensor], Tensor] = F.gelu
) -> tuple[Tensor, Tensor]:
    """Image and text embeddings, each (B, D) and of length 1. A text ends at its largest token."""
    patches = F.conv2d(pixels, state["visual.conv1.weight"], stride=state["visual.conv1.weight"].shape[-1])
    first = state["visual.class_embedding"].expand(len(pixels), 1, -1)
    hidden = torch.cat([first, patches.flatten(2).mT], 1) + state["visual.positional_embedding"]
    hidden = _norm(state, "visual.ln_pre", hidden, 1e-5)
    hidden = _blocks(state, "visual.transformer", hidden, activation, None)
    image = _norm(state, "visual.ln_post", hidden[:, 0], 1e-5) @ state["visual.proj"]

    length = ids.shape[1]
    words = state["token_embedding.weight"][ids] + state["positional_embedding"][:length]
    later = torch.full((length, length), float("-inf"), dtype=words.dtype).triu(1)
    hidden = _norm(state, "ln_final", _blocks(state, "transformer", words, activation, later), 1e-5)
    text = hidden[torch.arange(len(ids)), ids.argmax(1)] @ state["text_projection"]
    return F.normalize(image, dim=-1), F.normalize(text, dim=-1)


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _blocks(
    state: State, stack: str, hidden: Tensor, activation: Callable[[Tensor], Tensor], bias: Tensor | None
) -> Tensor:
    for n in range(_depth(state, f"{stack}.resblocks")):
        block = f"{stack}.resblocks.{n}"
        x = _norm(state, f"{block}.ln_1", hidden, 1e-5)
        q, k, v = F.linear(x, state[f"{block}.attn.in_proj_weight"], state[f"{block}.attn.in_proj_bias"]).chunk(3, -1)
        x = _attention(q, k, v, hidden.shape[-1] // 64, bias)
        hidden = hidden + _linear(state, f"{block}.attn.out_proj", x)
        x = activation(_linear(state, f"{block}.mlp.c_fc", _norm(state, f"{block}.ln_2", hidden, 1e-5)))
        hidden = hidden + _linear(state, f"{block}.mlp.c_proj", x)
    return hidden


def _depth(state: State, stack: str) -> int:
    return len({name.removeprefix(f"{stack}.").split(".")[0] for name in state if name.startswith(f"{stack}.")})


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    def split(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], heads, -1).transpose(1, 2)

    scores = split(q) @ split(k).mT / (q.shape[-1] // heads) ** 0.5
    if bias is not None:
        scores = scores + bias
    mixed: Tensor = scores.softmax(-1) @ split(v)
    return mixed.transpose(1, 2).flatten(2)
