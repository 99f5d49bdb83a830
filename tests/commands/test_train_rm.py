"""train-rm's own part: which pairs are for what, and how pictures get there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.conftest import code_of_card
from vpctl.commands.train_rm import USE, Store, card, divided, grouped
from vpctl.errors import UserError
from vpctl.images.pictures import Pictures
from vpctl.models.reward import SHAPES_BACKBONE, open_backbone, open_model
from vpctl.records import Pair
from vpctl.rewards import vp


def pair(prompt: str, chosen: str = "a.png", rejected: str = "b.png", split: str = "") -> Pair:
    record: Pair = {
        "prompt_id": prompt,
        "prompt": prompt,
        "chosen_file_name": chosen,
        "rejected_file_name": rejected,
        "margin": 0.5,
    }
    return {**record, "split": split} if split else record


def test_pairs_go_where_their_split_says_and_to_training_without_one() -> None:
    parts = divided([pair("p", split="test"), pair("q"), pair("r", split="validation"), pair("s", split="train")], "f")
    assert {name: [one["prompt"] for one in part] for name, part in parts.items()} == {
        "train": ["q", "s"],
        "validation": ["r"],
        "test": ["p"],
    }


def test_without_any_split_a_tenth_of_the_prompts_is_held_out_and_no_prompt_is_on_both_sides() -> None:
    parts = divided([pair(f"prompt {number % 500}") for number in range(2000)], "f")
    prompts = {name: {one["prompt"] for one in part} for name, part in parts.items()}
    assert not prompts["train"] & prompts["test"]
    assert not parts["validation"]
    assert len(prompts["test"]) == pytest.approx(50, abs=3 * (500 * 0.1 * 0.9) ** 0.5)


@pytest.mark.parametrize(
    ("pairs", "said"), [([], "f: there are no pairs to train on$"), ([pair("p", split="test")], "in split train$")]
)
def test_nothing_to_train_on_is_told(pairs: list[Pair], said: str) -> None:
    with pytest.raises(UserError, match=said):
        divided(pairs, "f")


def test_a_picture_is_one_however_many_pairs_it_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, colour in {"a.png": "red", "b.png": "blue", "c.png": "green"}.items():
        Image.new("RGB", (32, 32), colour).save(tmp_path / name)
    store = Store(open_model(str(SHAPES_BACKBONE), option=""), Pictures([str(tmp_path)]))
    pairs = [pair("p"), pair("p", "c.png", "a.png"), pair("q", "b.png", "c.png")]
    first, second = grouped(pairs, store)
    assert (first.prompt, first.pictures, first.pairs) == ("p", [0, 1, 2], [(0, 1), (2, 0)])
    assert (second.prompt, second.pictures, second.pairs) == ("q", [1, 2], [(0, 1)])
    pixels = store.load([1, 0, 1])
    assert torch.equal(pixels[0], pixels[2])
    assert not torch.equal(pixels[0], pixels[1])
    (tmp_path / "a.png").unlink()
    assert torch.equal(store.load([0])[0], pixels[1]), "it is remembered"


@pytest.mark.parametrize("kind", USE)
@pytest.mark.parametrize("times", [1, 50], ids=["short", "cut-off"])
def test_the_code_of_the_card_gives_the_reward(tmp_path: Path, kind: str, times: int) -> None:
    open_backbone(f"new:{kind}", seed=0).save(tmp_path)
    shown = card({"backbone": f"new:{kind}"}, {"train": [pair("p")]}, None, kind)
    picture, prompt = Image.linear_gradient("L").resize((40, 30)).convert("RGB"), "a red circle " * times
    found: dict[str, Any] = {"FOLDER": tmp_path, "picture": picture, "prompt": prompt}
    exec(code_of_card(shown), found)
    reward = vp.load(str(tmp_path), device="cpu")
    assert found["reward"].item() == pytest.approx(float(reward([picture], [prompt])), abs=1e-4)
    assert found["reward"].item() != pytest.approx(float(reward([picture], ["a blue star"])), abs=1e-3)


def test_a_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    store = Store(open_model(str(SHAPES_BACKBONE), option=""), Pictures([str(tmp_path)]))
    store.number("gone.png")
    with pytest.raises(UserError, match=r"gone\.png: there is no such picture"):
        store.load([0])
