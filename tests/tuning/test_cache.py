"""Frozen layers run once for a picture: the features are the whole model's, and damaged ones are not used."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from vpctl.errors import UserError
from vpctl.models.reward import RewardModel, open_backbone
from vpctl.tuning.cache import FrozenFeatures

SHAPE = (3, 2)
NAMES = ["a", "b", "c", "d"]


class Layers:
    """Frozen layers that count the pictures which they are computed for."""

    def __init__(self) -> None:
        self.computed: list[int] = []

    def __call__(self, numbers: list[int]) -> Tensor:
        self.computed += numbers
        return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1).expand(-1, *SHAPE) + 1 / 3


def expected(numbers: list[int]) -> Tensor:
    return Layers()(numbers).half()


def test_each_picture_is_computed_once_also_after_a_restart(tmp_path: Path) -> None:
    layers = Layers()
    cache = FrozenFeatures(tmp_path / "cache", NAMES, SHAPE)
    assert torch.equal(cache.load([2, 0, 2], layers), expected([2, 0, 2]))
    assert torch.equal(cache.load([0, 1, 2], layers), expected([0, 1, 2]))
    again = FrozenFeatures(tmp_path / "cache", NAMES, SHAPE)
    assert torch.equal(again.load([3, 1, 0], layers), expected([3, 1, 0]))
    assert layers.computed == [2, 0, 1, 3]
    again.remove()
    assert not (tmp_path / "cache").exists()


def test_a_picture_with_another_content_is_computed_again(tmp_path: Path) -> None:
    layers = Layers()
    FrozenFeatures(tmp_path / "cache", NAMES, SHAPE).load([0, 1], layers)
    changed = FrozenFeatures(tmp_path / "cache", ["a", "other"], SHAPE)
    changed.load([0, 1], layers)
    assert layers.computed == [0, 1, 1]


@pytest.mark.parametrize("file", ["features", "checksums"])
def test_a_damaged_byte_is_computed_again(tmp_path: Path, file: str) -> None:
    layers = Layers()
    FrozenFeatures(tmp_path / "cache", NAMES, SHAPE).load([0, 1, 2, 3], layers)
    whole = (tmp_path / "cache" / file).read_bytes()
    for place in range(len(whole)):
        (tmp_path / "cache" / file).write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        )
        cache = FrozenFeatures(tmp_path / "cache", NAMES, SHAPE)
        layers.computed.clear()
        assert torch.equal(cache.load([0, 1, 2, 3], layers), expected([0, 1, 2, 3]))
        assert len(layers.computed) == 1
    (tmp_path / "cache" / file).write_bytes(whole[: len(whole) // 2])
    layers.computed.clear()
    assert torch.equal(
        FrozenFeatures(tmp_path / "cache", NAMES, SHAPE).load([0, 1, 2, 3], layers), expected([0, 1, 2, 3])
    )
    assert layers.computed == [2, 3]


@pytest.mark.parametrize("stored", [False, True])
def test_the_features_are_those_of_float16_with_and_without_a_file(tmp_path: Path, stored: bool) -> None:
    cache = FrozenFeatures(tmp_path / "cache" if stored else None, NAMES, SHAPE)
    layers = Layers()
    for _ in range(2):
        found = cache.load([1, 3], layers)
        assert found.dtype == torch.float16
        assert torch.equal(found, expected([1, 3]))
    assert layers.computed == ([1, 3] if stored else [1, 3, 1, 3])


def test_a_full_disk_costs_time_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = FrozenFeatures(tmp_path / "cache", NAMES, SHAPE)
    layers = Layers()

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        assert torch.equal(cache.load([0, 1], layers), expected([0, 1]))
    assert layers.computed == [0, 1, 0, 1]
    assert capfd.readouterr().err.count("no space left on device") == 1


def test_too_little_space_is_seen_before_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=40))
    cache = FrozenFeatures(tmp_path / "cache", NAMES, SHAPE)
    assert torch.equal(cache.load([0], Layers()), expected([0]))
    assert "too little space for a cache of 0.0 GB" in capfd.readouterr().err
    assert not (tmp_path / "cache" / "features").exists()


def test_values_beyond_float16_are_an_error(tmp_path: Path) -> None:
    cache = FrozenFeatures(None, NAMES, SHAPE)
    with pytest.raises(UserError, match="too large for float16; train with --freeze 0"):
        cache.load([0], lambda _: torch.full((1, *SHAPE), 70000.0))


@pytest.mark.parametrize("kind", ["new:blip", "new:clip"])
def test_the_layers_in_two_parts_are_the_whole_model(kind: str) -> None:
    model = open_backbone(kind, seed=0).eval()
    backbone: Any = model.backbone
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if kind == "new:clip":
            wanted = backbone.get_image_features(pixel_values=pixels).pooler_output
        else:
            wanted = backbone.vision_model(pixels).last_hidden_state
        depth = len(backbone.vision_model.encoder.layers)
        assert depth > 1
        for layers in range(depth + 1):
            assert torch.equal(model._upper_layers(model._lower_layers(pixels, layers), layers), wanted)
        assert torch.equal(model.image_features(pixels), wanted)
    assert len(backbone.vision_model.encoder.layers) == depth


def frozen(model: RewardModel, keep: Callable[[str], bool]) -> int:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(keep(name))
    return model.frozen_layers


@pytest.mark.parametrize("kind", ["new:blip", "new:clip"])
def test_only_layers_without_a_trained_weight_below_them_count_as_frozen(kind: str) -> None:
    model = open_backbone(kind, seed=0)
    depth = len(model.backbone.vision_model.encoder.layers)
    assert frozen(model, lambda name: True) == 0
    assert frozen(model, lambda name: "text" in name) == depth
    assert frozen(model, lambda name: "vision_model.encoder.layers.1.layer_norm1.bias" in name) == 1
    assert frozen(model, lambda name: "vision_model.embeddings.class_embedding" in name) == 0


def test_dropout_stays_off_in_frozen_layers_and_only_there() -> None:
    model = open_backbone("new:blip", seed=0)
    frozen(model, lambda name: "vision_model.encoder.layers.0" not in name and "embeddings" not in name)
    model.train()
    first, second = model.backbone.vision_model.encoder.layers[:2]
    assert not any(module.training for module in first.modules())
    assert all(module.training for module in second.modules())
    assert model.backbone.training
    assert not model.eval().backbone.training
