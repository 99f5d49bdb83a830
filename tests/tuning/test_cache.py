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

from vpctl.models.reward import RewardModel, open_backbone
from vpctl.tuning.cache import Part, TensorCache

SHAPE = (3, 2)
NAMES = ["a", "b", "c", "d"]


class Layers:
    """Frozen layers that count the pictures which they are computed for."""

    def __init__(self) -> None:
        self.computed: list[int] = []

    def __call__(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        self.computed += numbers
        values = torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1).expand(-1, *SHAPE) + 1 / 3
        return values.half(), values[:, 0]


PARTS = [Part(torch.float16, SHAPE), Part(torch.float32, SHAPE[1:])]


def opened(folder: Path | None, names: list[str] = NAMES) -> TensorCache:
    return TensorCache(folder, names, PARTS, otherwise="they are computed again")


def same(found: tuple[Tensor, ...], numbers: list[int]) -> bool:
    """Whether these are the tensors of the numbers, to the bit."""
    return all(
        one.dtype == other.dtype and torch.equal(one, other)
        for one, other in zip(found, Layers()(numbers), strict=True)
    )


def test_each_picture_is_computed_once_also_after_a_restart(tmp_path: Path) -> None:
    layers = Layers()
    cache = opened(tmp_path / "cache")
    assert same(cache.load([2, 0, 2], layers), [2, 0, 2])
    assert same(cache.load([0, 1, 2], layers), [0, 1, 2])
    again = opened(tmp_path / "cache")
    assert same(again.load([3, 1, 0], layers), [3, 1, 0])
    assert layers.computed == [2, 0, 1, 3]


def test_two_processes_share_the_files(tmp_path: Path) -> None:
    layers = Layers()
    first, second = opened(tmp_path / "cache"), opened(tmp_path / "cache")
    first.load([0, 2], layers)
    second.load([1, 3], layers)
    for cache in (first, second):
        assert same(cache.load([0, 1, 2, 3], layers), [0, 1, 2, 3])
    assert layers.computed == [0, 2, 1, 3]


def test_a_picture_with_another_content_is_computed_again(tmp_path: Path) -> None:
    layers = Layers()
    opened(tmp_path / "cache").load([0, 1], layers)
    opened(tmp_path / "cache", ["a", "other"]).load([0, 1], layers)
    assert layers.computed == [0, 1, 1]


@pytest.mark.parametrize("file", ["tensors", "checksums"])
def test_a_damaged_byte_is_computed_again(tmp_path: Path, file: str) -> None:
    layers = Layers()
    opened(tmp_path / "cache").load([0, 1, 2, 3], layers)
    whole = (tmp_path / "cache" / file).read_bytes()
    for place in range(len(whole)):
        (tmp_path / "cache" / file).write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        )
        layers.computed.clear()
        assert same(opened(tmp_path / "cache").load([0, 1, 2, 3], layers), [0, 1, 2, 3])
        assert len(layers.computed) == 1
    (tmp_path / "cache" / file).write_bytes(whole[: len(whole) // 2])
    layers.computed.clear()
    assert same(opened(tmp_path / "cache").load([0, 1, 2, 3], layers), [0, 1, 2, 3])
    assert layers.computed == [2, 3]


def test_a_file_that_is_cut_while_it_is_read_is_computed_again(tmp_path: Path) -> None:
    """A file that is mapped into memory would end the process here."""
    layers = Layers()
    cache = opened(tmp_path / "cache")
    cache.load([0, 1], layers)
    os.truncate(tmp_path / "cache" / "tensors", 0)
    assert same(cache.load([0, 1], layers), [0, 1])
    assert layers.computed == [0, 1, 0, 1]


@pytest.mark.parametrize("planted", ["link", "pipe", "folder"])
def test_what_is_not_a_file_of_its_own_is_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], planted: str
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "cache").mkdir()
    file = tmp_path / "cache" / "tensors"
    if planted == "link":
        file.symlink_to(tmp_path / "mine.txt")
    elif planted == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    cache = opened(tmp_path / "cache")
    assert same(cache.load([0], Layers()), [0])
    assert not cache.stores
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert capfd.readouterr().err.endswith("they are computed again\n")


@pytest.mark.parametrize("stored", [False, True])
def test_the_tensors_are_the_same_with_and_without_a_file(tmp_path: Path, stored: bool) -> None:
    cache = opened(tmp_path / "cache" if stored else None)
    layers = Layers()
    for _ in range(2):
        assert same(cache.load([1, 3], layers), [1, 3])
    assert layers.computed == ([1, 3] if stored else [1, 3, 1, 3])


def test_a_full_disk_costs_time_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = opened(tmp_path / "cache")
    layers = Layers()

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        assert same(cache.load([0, 1], layers), [0, 1])
    assert layers.computed == [0, 1, 0, 1]
    assert capfd.readouterr().err.count("no space left on device") == 1


def test_too_little_space_is_seen_before_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=40))
    cache = opened(tmp_path / "cache")
    assert same(cache.load([0], Layers()), [0])
    assert "too little space for a cache of 0.096 kB" in capfd.readouterr().err
    assert not (tmp_path / "cache" / "tensors").exists()


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
