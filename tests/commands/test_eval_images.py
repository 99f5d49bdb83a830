"""eval images: what it says of pictures without a judge."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image as PIL
from transformers import CLIPConfig, CLIPImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor

from tests.commands.test_eval import reports
from tests.conftest import write_lines
from vpctl.commands.eval.images import images
from vpctl.errors import GateFailed, UserError

TINY: dict[str, Any] = {
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "image_size": 32,
    "patch_size": 16,
}  # fmt: skip


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two prompts with three pictures each; the last picture of q is a copy of the first one of p."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for number in range(6):
        name = f"{number}.png"
        PIL.new("RGB", (32, 32), (40 * number, 255 - 40 * number, 99)).save(name)
        rows.append({"prompt": "pq"[number // 3], "file_name": name})
    shutil.copy("0.png", "5.png")
    write_lines(tmp_path / "drawn.jsonl", rows)
    write_lines(tmp_path / "other.jsonl", [{**row, "prompt": "x"} for row in rows[:4]])
    return tmp_path


def values(path: Path) -> dict[str, tuple[float, int]]:
    return {one["metric"]: (one["value"], one["n"]) for one in reports(path)}


def test_pictures_are_measured_without_a_judge(drawn: Path) -> None:
    images(["drawn.jsonl"], "out.jsonl", reference="other.jsonl", batch=4)
    found = values(drawn / "out.jsonl")
    assert [*found] == ["diversity", "duplicates", "frechet_distance", "kernel_distance"]
    assert found["duplicates"][0] == pytest.approx(1 / 6)
    assert found["duplicates"][1] == 6
    assert 0 < found["diversity"][0] < 1
    images(["other.jsonl"], "same.jsonl", reference="drawn.jsonl")
    assert values(drawn / "same.jsonl")["frechet_distance"][1] == 4
    with pytest.raises(GateFailed):
        images(["drawn.jsonl"], "out.jsonl", fail_over=["duplicates=0.1"])


def classifier(folder: Path, *, unsafe: int) -> str:
    """A classifier that always names this label: 1 is nsfw."""
    model: Any = ViTForImageClassification(ViTConfig(**TINY, id2label={0: "normal", 1: "nsfw"}))
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 0.0]))
        model.classifier.bias[unsafe] = 1
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def checker(folder: Path, *, unsafe: bool) -> str:
    """A safety checker for which every picture is near a bad concept, or none is."""
    torch.manual_seed(1)
    model = StableDiffusionSafetyChecker(CLIPConfig(vision_config=TINY, text_config=None, projection_dim=8))
    model.concept_embeds_weights.data.fill_(-1.1 if unsafe else 1.1)
    model.special_care_embeds_weights.data.fill_(1.1)
    model.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("unsafe", [True, False])
def test_unsafe_pictures_are_counted_by_a_classifier_or_by_the_safety_checker(drawn: Path, unsafe: bool) -> None:
    for model in (classifier(drawn / "vit", unsafe=int(unsafe)), checker(drawn / "checker", unsafe=unsafe)):
        images(["drawn.jsonl"], "out.jsonl", unsafe_model=model)
        assert values(drawn / "out.jsonl")["unsafe"] == (float(unsafe), 6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reference": "drawn.jsonl"}, "drawn.jsonl: is named twice"),
        ({"features": "nothing/"}, "--features nothing/: "),
        ({"unsafe_model": "cats"}, "--unsafe-model cats: none of its labels means unsafe"),
        ({"fail_under": ["unsafe=0.1"]}, "--fail-under unsafe=0.1: this evaluation has no such metric"),
        ({"root": [], "files": ["missing.jsonl"]}, "{here}/6.png: there is no such picture"),
    ],
)
def test_what_cannot_be_measured_is_told(drawn: Path, options: Any, said: str) -> None:
    ViTForImageClassification(ViTConfig(**TINY, id2label={0: "cat", 1: "dog"})).save_pretrained(drawn / "cats")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(drawn / "cats")
    write_lines(drawn / "missing.jsonl", [{"prompt": "p", "file_name": "6.png"}])
    with pytest.raises(UserError) as raised:
        images(**{"files": ["drawn.jsonl"], "out": "out.jsonl", **options})
    assert str(raised.value).startswith(said.format(here=drawn))
