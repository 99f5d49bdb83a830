"""The diffusers generator, with the packaged pipeline and with folders that are not pipelines."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.utils.dummy_torch_and_transformers_and_sentencepiece_objects import KolorsPipeline
from PIL import Image

from tests.hostile.folders import change, sound
from vpctl.contracts import Settings
from vpctl.errors import RecordFailed, UserError
from vpctl.generators import diffusion, shapes
from vpctl.generators._pipeline import Diffusion
from vpctl.models import hub

SETTINGS = Settings(2.0, 4)


@pytest.fixture(scope="module")
def small() -> Diffusion:
    return shapes.load("small", device="cpu")


def levels(one: Image.Image | RecordFailed, other: Image.Image | RecordFailed) -> int:
    """The largest difference of any pixel, in levels from 0 to 255."""
    assert not isinstance(one, RecordFailed)
    assert not isinstance(other, RecordFailed)
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


def test_a_picture_is_the_same_in_any_batch(small: Diffusion) -> None:
    prompts, seeds = ["a red circle", "two blue stars", "a green cross"], [5, 6, 7]
    together = small(prompts, seeds, SETTINGS)
    singly = [small([prompt], [seed], SETTINGS)[0] for prompt, seed in zip(prompts, seeds, strict=True)]
    backwards = small(prompts[::-1], seeds[::-1], SETTINGS)[::-1]
    for one, other, another in zip(together, singly, backwards, strict=True):
        assert levels(one, other) <= 1
        assert levels(one, another) <= 1
    assert levels(together[0], together[1]) > 50


def test_the_seed_and_nothing_else_is_the_difference(small: Diffusion) -> None:
    one, same, other = small(["a red circle"] * 3, [1, 1, 2], SETTINGS)
    assert levels(one, same) <= 1
    assert levels(one, other) > 20


def test_a_text_that_a_batch_has_several_times_is_read_once(small: Diffusion) -> None:
    """The prompts, and the empty negative prompt of all pictures. The pictures are those of diffusers."""
    read: list[int] = []
    encoder = small.pipeline.text_encoder
    prompts, seeds = ["a red circle", "a green cross", "a red circle", "a red circle"], [1, 2, 3, 4]
    noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    plain = small.pipeline(prompts, guidance_scale=2.0, num_inference_steps=4, generator=noise).images
    embeddings = encoder.get_input_embeddings().register_forward_hook(lambda _, __, found: read.append(len(found)))
    try:
        drawn = small(prompts, seeds, SETTINGS)
    finally:
        embeddings.remove()
    assert read == [2, 1]
    assert max(levels(*two) for two in zip(drawn, plain, strict=True)) <= 1


def test_a_picture_is_rounded_as_diffusers_rounds_it(small: Diffusion) -> None:
    noise = torch.Generator("cpu").manual_seed(5)
    plain = small.pipeline("a red circle", guidance_scale=2.0, num_inference_steps=4, generator=noise).images[0]
    assert levels(small(["a red circle"], [5], SETTINGS)[0], plain) == 0


def test_a_picture_of_nan_is_a_failure_and_its_neighbour_is_not(
    small: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = small.pipeline.vae.decode

    def broken(latents: torch.Tensor, **more: Any) -> Any:
        pictures = decode(latents, **more)
        pictures[0][1, 0, 3, 3] = torch.nan
        return pictures

    monkeypatch.setattr(small.pipeline.vae, "decode", broken)
    whole, failed = small(["a red circle", "a blue star"], [5, 6], SETTINGS)
    assert isinstance(whole, Image.Image)
    assert isinstance(failed, RecordFailed)
    assert "not numbers" in str(failed)


def test_a_picture_that_a_safety_checker_replaced_is_a_failure(
    small: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checked(picture: Any, *more: Any) -> tuple[Any, list[bool]]:
        return picture, [True]

    monkeypatch.setattr(small.pipeline, "run_safety_checker", checked)
    (failed,) = small(["a red circle"], [5], SETTINGS)
    assert isinstance(failed, RecordFailed)
    assert "safety checker" in str(failed)


def test_settings_of_its_own_are_those_of_the_pipeline(tmp_path: Path) -> None:
    folder = tmp_path / "pipe"
    shutil.copytree(shapes.WEIGHTS / "small", folder)
    generator = diffusion.load(str(folder), device="cpu")
    assert generator.settings.guidance_scale == 7.5
    assert generator.settings.num_inference_steps == 50


def test_the_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    folder = tmp_path / "pipe"
    shutil.copytree(shapes.WEIGHTS / "small", folder)
    before = diffusion.load(str(folder), device="cpu").fingerprint
    assert before == diffusion.load(str(folder), device="cpu").fingerprint
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-7] ^= 1
    file.write_bytes(content)
    assert diffusion.load(str(folder), device="cpu").fingerprint != before


def test_long_prompts_are_drawn_and_reported_once(small: Diffusion, capfd: pytest.CaptureFixture[str]) -> None:
    long = "a red circle " + "and a blue star " * 20
    small([long], [1], SETTINGS)
    small([long], [2], SETTINGS)
    said = capfd.readouterr().err
    assert said.count("warning: prompts of more than 24 tokens are cut off, for example") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a diffusers pipeline"),
        ("{", "model_index.json: is not valid JSON"),
        ("[]", "model_index.json: is not a JSON object"),
        ('{"_class_name": "DDIMScheduler"}', "DDIMScheduler is not a text-to-image pipeline"),
        ('{"_class_name": "NoSuchPipeline"}', "NoSuchPipeline is not a text-to-image pipeline"),
    ],
)
def test_a_folder_that_is_no_pipeline_is_refused_in_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        diffusion.load(str(tmp_path), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        diffusion.load(str(tmp_path / "missing"), device="cpu")


def test_a_folder_without_a_lora_is_no_adapter(small: Diffusion, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no pytorch_lora_weights"):
        small.adapt(str(tmp_path))


def test_a_lora_that_cannot_be_read_is_named_in_one_line(small: Diffusion, tmp_path: Path) -> None:
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match=f"--adapter {tmp_path}: pytorch_lora_weights.safetensors: is not a whole"):
        small.adapt(str(tmp_path))


def test_other_models_of_the_shapes_world_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="known: shapes:base, shapes:small"):
        shapes.load("huge", device="cpu")


def test_a_pipeline_that_needs_another_library_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sound("pipeline", tmp_path / "pipe")
    change(folder / "model_index.json", _class_name="KolorsPipeline")
    monkeypatch.setattr(diffusers, "KolorsPipeline", KolorsPipeline)
    monkeypatch.setattr(
        hub, "find_spec", lambda name: None if name == "sentencepiece" else importlib.util.find_spec(name)
    )
    with pytest.raises(UserError, match=r"pipe: a KolorsPipeline needs sentencepiece; install it first$"):
        diffusion.load(str(folder), device="cpu")
