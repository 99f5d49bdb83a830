"""Reward models as rewards: vp, clip, and the contract of every reward."""

import shutil
from pathlib import Path
from random import Random

import orjson
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval, CLIPModel

from vpctl import plugins
from vpctl.errors import UserError
from vpctl.models import preprocess
from vpctl.models.backbones import PACKAGED
from vpctl.models.reward import LONGEST_TEXT, RewardModel, open_backbone, open_model
from vpctl.models.tensors import from_pictures, to_pictures
from vpctl.rewards import clip, pickscore, vp
from vpctl.shapes.grammar import read
from vpctl.shapes.render import arrange, draw, render

PROMPTS = ["a red circle", "two blue stars on a black background", "a green cross left of an orange square"]


@pytest.fixture(scope="module")
def shown() -> list[Image.Image]:
    return [render(read(prompt), Random(number)) for number, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blip")
    open_model(str(PACKAGED), option="").save(folder)
    (folder / "reward.json").write_bytes(orjson.dumps({"mean": 0.25, "std": 2.0}))
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    open_backbone("new:clip", seed=0).save(folder)
    return folder


def test_a_blip_reward_is_the_matching_logits_difference_of_transformers_alone(
    blip: Path, shown: list[Image.Image]
) -> None:
    model = BlipForImageTextRetrieval.from_pretrained(blip).eval()
    pixels = AutoImageProcessor.from_pretrained(blip)(shown, return_tensors="pt").pixel_values
    text = AutoTokenizer.from_pretrained(blip)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        no, yes = model(text.input_ids, pixels, attention_mask=text.attention_mask).itm_score.unbind(1)
    ours = vp.load(str(blip), device="cpu")(shown, PROMPTS)
    torch.testing.assert_close(ours, (yes - no - 0.25) / 2, atol=1e-5, rtol=1e-4)
    assert (ours - vp.load(str(blip), device="cpu")(shown[::-1], PROMPTS)).abs().max() > 0.1, "it looks at the pictures"


def test_a_clip_reward_is_the_logit_of_transformers_alone(clip_folder: Path, shown: list[Image.Image]) -> None:
    model = CLIPModel.from_pretrained(clip_folder).eval()
    pixels = AutoImageProcessor.from_pretrained(clip_folder)(shown, return_tensors="pt").pixel_values
    text = AutoTokenizer.from_pretrained(clip_folder)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(text.input_ids, pixels, text.attention_mask).logits_per_image.diagonal()
    torch.testing.assert_close(vp.load(str(clip_folder), device="cpu")(shown, PROMPTS), logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        pickscore.load(str(clip_folder), device="cpu")(shown, PROMPTS), logits, atol=1e-5, rtol=1e-4
    )
    cosine = clip.load(str(clip_folder), device="cpu")(shown, PROMPTS)
    torch.testing.assert_close(cosine, logits / model.logit_scale.detach().exp(), atol=1e-5, rtol=1e-4)
    assert cosine.abs().max() <= 1


POSITIONS = "text_encoder.embeddings.position_embeddings.weight"


def test_a_saved_tokenizer_cuts_long_prompts_where_the_reward_model_does(tmp_path: Path) -> None:
    packaged = open_model(str(PACKAGED), option="")
    packaged.tokenizer.model_max_length = 512  # as in BERT's tokenizer
    model = RewardModel(packaged.backbone, packaged.tokenizer, packaged.processor, where="")
    model.save(tmp_path)
    long = "a red circle " * 100
    ids = AutoTokenizer.from_pretrained(tmp_path)(long, truncation=True).input_ids
    assert ids == model.tokens([long])["input_ids"][0].tolist()
    assert len(ids) == min(LONGEST_TEXT, packaged.backbone.get_parameter(POSITIONS).shape[0])


@pytest.mark.parametrize("kind", ["vp", "clip", "pickscore", "shapes", "shapes:aesthetic"])
def test_every_reward_keeps_the_contract(kind: str, clip_folder: Path, shown: list[Image.Image]) -> None:
    spec = kind if kind.startswith("shapes") else f"{kind}:{clip_folder}"
    reward = plugins.load("reward", spec, device="cpu")
    together = reward(shown, PROMPTS)
    assert together.shape == (3,)
    singly = torch.cat([reward([picture], [prompt]) for picture, prompt in zip(shown, PROMPTS, strict=True)])
    torch.testing.assert_close(together, singly, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(reward(shown[::-1], PROMPTS[::-1]), together.flip(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(reward(from_pictures(shown), PROMPTS), together, atol=1e-4, rtol=1e-3)
    assert isinstance(reward.differentiable, bool)


def test_gradients_reach_the_pictures_and_are_those_of_finite_differences(
    blip: Path, shown: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess, "_to_8_bits", lambda images: images)  # a difference of a rounding is 0, or large
    reward = vp.load(str(blip), device="cpu")
    reward.model.double()
    pixels = (0.1 + 0.8 * from_pictures(shown).double()).requires_grad_()
    reward(pixels, PROMPTS).sum().backward()
    assert pixels.grad is not None
    step = 1e-4 * pixels.grad / pixels.grad.abs().amax((1, 2, 3), keepdim=True)
    with torch.no_grad():
        rise = reward(pixels + step, PROMPTS) - reward(pixels - step, PROMPTS)
    torch.testing.assert_close(rise, 2 * (pixels.grad * step).sum((1, 2, 3)), rtol=1e-4, atol=0.0)
    assert (rise > 0).all()
    assert not reward(shown, PROMPTS).requires_grad


def test_pictures_of_other_sizes_are_resized(blip: Path, shown: list[Image.Image]) -> None:
    reward = vp.load(str(blip), device="cpu")
    large = [picture.resize((96, 96), Image.Resampling.BICUBIC) for picture in shown]
    assert reward(large, PROMPTS).shape == (3,)
    assert reward([large[0], shown[1], large[2].resize((40, 70))], PROMPTS).shape == (3,)
    torch.testing.assert_close(reward(from_pictures(large), PROMPTS), reward(large, PROMPTS), atol=0.002, rtol=0.002)


def test_the_packaged_backbone_knows_what_it_sees() -> None:
    model = open_model(str(PACKAGED), option="test").eval()
    pairs = {
        "a red circle left of a blue star": "a red circle right of a blue star",
        "two green squares on a white background": "two green squares on a black background",
        "an orange triangle": "an orange cross",
        "a purple star above a yellow circle": "a yellow star above a purple circle",
    }
    captions = [*pairs, *pairs.values()]
    others = [*pairs.values(), *pairs]
    right = 0
    for seed in range(5):
        pixels = torch.stack([model.recipe.pixels(render(read(caption), Random(seed))) for caption in captions])
        with torch.no_grad():
            right += int((model(pixels, **model.tokens(captions)) > model(pixels, **model.tokens(others))).sum())
    assert right >= 37, f"{right} of 40; guessing would be 20"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", b"cut off", "is not a whole safetensors file"),
        ("config.json", b"[]", "is not a JSON object"),
        ("reward.json", b'{"mean": 1}', "must be an object with the numbers mean and std"),
        ("reward.json", b'{"mean": 1', "must be an object with the numbers mean and std"),
    ],
)
def test_a_spoilt_folder_is_said_to_be_so(blip: Path, tmp_path: Path, file: str, content: bytes, message: str) -> None:
    folder = shutil.copytree(blip, tmp_path / "spoilt")
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        vp.load(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vp", "name the folder that train-rm wrote"),
        ("vp:./nowhere", "there is no such folder"),
    ],
)
def test_a_reward_without_a_model_says_what_to_do(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plugins.load("reward", spec, device="cpu")


def test_folders_that_are_no_reward_model_are_refused_in_one_line(tmp_path: Path, blip: Path) -> None:
    (tmp_path / "empty").mkdir()
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "config.json").write_text('{"model_type": "bert"}')
    broken = tmp_path / "broken"
    shutil.copytree(blip, broken)
    (broken / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    for folder in (tmp_path / "empty", bert, broken):
        with pytest.raises(UserError) as caught:
            vp.load(str(folder), device="cpu")
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)


def test_tensors_and_pictures_are_the_same_thing() -> None:
    pixels = from_pictures([draw(arrange(read("a red circle"), Random(0)), "white")])
    assert pixels.shape == (1, 3, 32, 32)
    assert torch.equal(from_pictures(to_pictures(pixels)), pixels)
