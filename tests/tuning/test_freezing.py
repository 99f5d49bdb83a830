"""What is frozen, by layer, and the same tensors as ImageReward's code freezes."""

from collections.abc import Callable, Iterator

import pytest
import torch
from transformers import BlipConfig, BlipForImageTextRetrieval

from vpctl.models.reward import RewardModel, open_backbone
from vpctl.tuning.freezing import freeze


@pytest.fixture(params=["new:blip", "new:clip"])
def fresh(request: pytest.FixtureRequest) -> Callable[[], RewardModel]:
    return lambda: open_backbone(request.param, seed=1)


def test_freezing_keeps_the_lower_layers_and_the_embeddings(fresh: Callable[[], RewardModel]) -> None:
    model = fresh()
    frozen = freeze(model.backbone, 0.5)
    names = {name: parameter.requires_grad for name, parameter in model.backbone.named_parameters()}
    assert frozen == sum(not trained for trained in names.values())
    for name, trained in names.items():
        if "embeddings" in name or ".layers.1." in name or ".layer.1." in name:
            assert not trained, name
        if ".layers.2." in name or ".layer.2." in name or "itm_head" in name or "logit_scale" in name:
            assert trained, name
    assert freeze(fresh().backbone, 0) == 0


@pytest.fixture(scope="module")
def full() -> BlipForImageTextRetrieval:
    """ImageReward's shapes, without memory."""
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    text = {"hidden_size": 768, "encoder_hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 12}
    with torch.device("meta"):
        return BlipForImageTextRetrieval(
            BlipConfig(
                vision_config={**vision, "image_size": 224, "patch_size": 16},
                text_config={**text, "intermediate_size": 3072, "vocab_size": 30524, "max_position_embeddings": 512},
            )
        )


def frozen_of(model: BlipForImageTextRetrieval, fraction: float, rule: str) -> set[str]:
    model.requires_grad_(True)
    number = freeze(model, fraction, rule)
    names = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert number == len(names)
    return names


def in_the_peers_order(layers: int, tower: str) -> Iterator[tuple[str, str]]:
    """The tensors of a tower in ImageReward's order: its name of each, and transformers' name.

    Written from the specification of the checkpoint: a vision layer has 12 tensors, and a text layer 26.
    """
    both = ("weight", "bias")
    if tower == "vision":
        own, theirs = "vision_model.embeddings.", ("cls_token", "pos_embed", "patch_embed.proj.weight")
        for name, other in zip(
            (*theirs, "patch_embed.proj.bias"),
            ("class_embedding", "position_embedding", "patch_embedding.weight", "patch_embedding.bias"),
            strict=True,
        ):
            yield name, own + other
        parts = {
            "norm1": "layer_norm1",
            "attn.qkv": "self_attn.qkv",
            "attn.proj": "self_attn.projection",
            "norm2": "layer_norm2",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        }
        for layer in range(layers):
            for part, other in parts.items():
                for kind in both:
                    yield f"blocks.{layer}.{part}.{kind}", f"vision_model.encoder.layers.{layer}.{other}.{kind}"
        for kind in both:
            yield f"norm.{kind}", f"vision_model.post_layernorm.{kind}"
        return
    for name in ("word_embeddings.weight", "position_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias"):
        yield f"embeddings.{name}", f"text_encoder.embeddings.{name}"
    attention = ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")
    parts_of_text = [
        *(f"{which}.{part}" for which in ("attention", "crossattention") for part in attention),
        *("intermediate.dense", "output.dense", "output.LayerNorm"),
    ]
    for layer in range(layers):
        for part in parts_of_text:
            for kind in both:
                name = f"encoder.layer.{layer}.{part}.{kind}"
                yield name, f"text_encoder.{name}"


def frozen_by_the_peer(tensors: list[tuple[str, str]], stop: str) -> set[str]:
    """Its rule: walk through the names, freeze each, and end after the first that contains `stop`."""
    frozen = set()
    for name, other in tensors:
        frozen.add(other)
        if stop in name:
            break
    return frozen


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_the_rule_of_imagereward_freezes_the_tensors_that_its_code_freezes(
    full: BlipForImageTextRetrieval, fraction: float
) -> None:
    text, vision = [*in_the_peers_order(12, "text")], [*in_the_peers_order(24, "vision")]
    assert (len(text), len(vision)) == (316, 294)
    expected = frozen_by_the_peer(text, f"layer.{int(12 * fraction)}") | frozen_by_the_peer(
        vision, f"blocks.{int(24 * fraction)}"
    )
    projections = {f"{name}_proj.{kind}" for name in ("vision", "text") for kind in ("weight", "bias")}
    assert frozen_of(full, fraction, "imagereward") == expected | projections


def test_the_counts_at_seven_tenths_are_those_of_imagereward(full: BlipForImageTextRetrieval) -> None:
    compatible, by_layer = (frozen_of(full, 0.7, rule) for rule in ("imagereward", "layers"))
    towers = ("text_encoder.", "vision_model.")
    assert [sum(name.startswith(tower) for name in compatible) for tower in towers] == [213, 197]
    assert [sum(name.startswith(tower) for name in by_layer) for tower in towers] == [212, 196]
    assert {name for name in compatible - by_layer if name.startswith(towers)} == {
        "text_encoder.encoder.layer.8.attention.self.query.weight",
        "vision_model.encoder.layers.16.layer_norm1.weight",
    }
    assert frozen_of(full, 0.0, "imagereward") == set()
