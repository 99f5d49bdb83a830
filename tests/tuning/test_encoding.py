"""Pictures and prompts are encoded once: what a resumed run reads from disk, and what it must not believe."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from tests.tuning.conftest import Killed, Mortal, new_policy, new_tuner
from vpctl.configs import DPOConfig
from vpctl.errors import UserError
from vpctl.images.pictures import Pictures
from vpctl.models.denoiser.conditioning import Conditioning
from vpctl.models.denoiser.latents import Posteriors
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.models.devices import join_world
from vpctl.models.tensors import to_pictures
from vpctl.tuning.dpo import DiffusionDPO, Preference
from vpctl.tuning.encoding import EncodedPictures, keep_prompts
from vpctl.tuning.loop import train

ALONE = join_world("cpu")
EVERY = torch.arange(6)


@pytest.fixture
def names(rendered: tuple[list[str], torch.Tensor], tmp_path: Path) -> list[str]:
    """Six pictures in files."""
    found = [str(tmp_path / f"{number}.png") for number in range(6)]
    for name, picture in zip(found, to_pictures(rendered[1]), strict=False):
        picture.save(name)
    return found


class Counted:
    """Counts what the frozen encoders of a policy encode."""

    def __init__(self, policy: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures, self.prompts = 0, list[str]()
        encode, embed = policy.encode, policy.embeddings.encode

        def encoded(pixels: torch.Tensor, sizes: torch.Tensor | None = None) -> Posteriors:
            self.pictures += len(pixels)
            return encode(pixels, sizes)

        def embedded(prompt: str) -> Conditioning:
            self.prompts.append(prompt)
            return embed(prompt)

        monkeypatch.setattr(policy, "encode", encoded)
        monkeypatch.setattr(policy.embeddings, "encode", embedded)


def opened(names: list[str], policy: StableDiffusion, folder: Path | None) -> EncodedPictures:
    found = EncodedPictures(names, policy, Pictures([os.path.dirname(names[0])]), folder)
    found.encode(ALONE)
    return found


def equal(one: Posteriors, other: Posteriors) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("mean", "std", "sizes"))


def test_a_resumed_run_encodes_nothing_again(
    policy: StableDiffusion, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(policy, monkeypatch)
    cold = opened(names, policy, tmp_path)
    assert counted.pictures == 6
    first = cold[EVERY]
    assert equal(opened(names, policy, tmp_path)[EVERY], first)
    assert counted.pictures == 6
    assert equal(opened(names, policy, None)[EVERY], first), "without a cache they are the same"


def test_an_interrupted_encoding_goes_on_where_it_was(
    policy: StableDiffusion, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(policy, monkeypatch)
    EncodedPictures(names, policy, Pictures([str(tmp_path)]), tmp_path)[EVERY[:4]]
    opened(names, policy, tmp_path)
    assert counted.pictures == 6


def test_a_picture_that_has_changed_under_its_name_is_encoded_again(
    policy: StableDiffusion, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = opened(names, policy, tmp_path)[EVERY]
    Image.effect_noise((40, 20), 64).convert("RGB").save(names[2])
    counted = Counted(policy, monkeypatch)
    after = opened(names, policy, tmp_path)[EVERY]
    assert counted.pictures == 1
    assert [torch.equal(*both) for both in zip(before.mean, after.mean, strict=True)] == [*([True] * 2), False] + (
        [True] * 3
    )
    assert after.sizes[2].tolist() == [20, 40, 0, 16, 32, 32]


def test_files_with_the_same_content_are_one_picture(policy: StableDiffusion, names: list[str], tmp_path: Path) -> None:
    Path(names[3]).write_bytes(Path(names[1]).read_bytes())
    found = opened(names, policy, tmp_path)
    assert [*found.places.values()] == [0, 1, 2, 1, 3, 4]
    assert len(found[torch.arange(5)].mean) == 5


@pytest.mark.parametrize("file", ["latents/tensors", "latents/checksums", "contents"])
def test_a_damaged_cache_is_not_believed(policy: StableDiffusion, names: list[str], tmp_path: Path, file: str) -> None:
    before = opened(names, policy, tmp_path)[EVERY]
    path = tmp_path / "cache" / file
    path.write_bytes(bytes(byte ^ 0x55 for byte in path.read_bytes()))
    assert equal(opened(names, policy, tmp_path)[EVERY], before)


def test_the_cache_of_another_model_is_not_used(
    packaged: StableDiffusionPipeline, names: list[str], tmp_path: Path
) -> None:
    one, other = new_policy(packaged), new_policy(packaged)
    before = opened(names, one, tmp_path)[EVERY]
    with torch.no_grad():
        other.pipe.vae.encoder.conv_in.weight.mul_(1.5)
        next(other.pipe.text_encoder.parameters()).mul_(1.5)
    assert equal(opened(names, other, tmp_path)[EVERY], opened(names, other, None)[EVERY])
    assert not equal(opened(names, other, tmp_path)[EVERY], before)
    keep_prompts(["a red circle"], one, tmp_path)
    ours = one.embed(["a red circle"]).tensors[0]
    keep_prompts(["a red circle"], other, tmp_path)
    assert not torch.equal(other.embed(["a red circle"]).tensors[0], ours)


def test_a_cache_that_is_a_file_is_said_and_costs_only_time(
    policy: StableDiffusion, names: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("mine")
    assert len(opened(names, policy, tmp_path)[EVERY].mean) == 6
    assert "a picture is encoded whenever it is used" in capfd.readouterr().err
    assert (tmp_path / "cache").read_text() == "mine"


def test_latents_are_not_held_in_memory(policy: StableDiffusion, names: list[str], tmp_path: Path) -> None:
    def alive() -> int:
        gc.collect()
        tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor]  # others warn
        return sum(tuple(one.shape[-3:]) == policy.latent_shape for one in tensors)

    before = alive()
    encoded = opened(names, policy, tmp_path)
    assert alive() == before
    held = encoded[EVERY[:2]]
    assert alive() == before + 2
    assert held.mean.dtype == held.std.dtype == torch.float16


def test_pictures_that_cannot_be_encoded_are_named(policy: StableDiffusion, names: list[str], tmp_path: Path) -> None:
    Path(names[4]).write_text("text")
    with pytest.raises(UserError, match=r"4\.png: not a picture; restore this picture, or leave out the records"):
        opened(names, policy, tmp_path)
    Path(names[4]).unlink()
    with pytest.raises(UserError, match=r"4\.png: there is no such picture; restore this picture"):
        opened(names, policy, tmp_path)
    with torch.no_grad():
        policy.pipe.vae.encoder.conv_in.weight.fill_(torch.inf)
    with pytest.raises(UserError, match=r"0\.png: its latents are not finite; the weights of the model are broken"):
        opened(names[:1], policy, tmp_path)


def test_prompts_are_encoded_once_and_others_still_work(
    packaged: StableDiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["a red circle", "two blue stars"]
    plain = new_policy(packaged)
    for run in range(2):
        policy = new_policy(packaged)
        counted = Counted(policy, monkeypatch)
        keep_prompts(prompts, policy, tmp_path)
        for wanted in (["two blue stars", "", "a red circle", ""], ["a green cross"]):
            assert torch.equal(policy.embed(wanted).tensors[0], plain.embed(wanted).tensors[0])
        # The shape is that of the empty prompt's embeddings.
        assert counted.prompts == (["", "two blue stars", "", "a red circle"] if run == 0 else [""]) + ["a green cross"]


@contextmanager
def training(
    policy: StableDiffusion, names: list[str], rendered: tuple[list[str], torch.Tensor], folder: Path, last: int = 0
) -> Iterator[None]:
    config = DPOConfig(max_steps=4, batch=3, accumulate=1, warmup=0, preview_every=0, prompt_dropout=0.3)
    pairs = [Preference(one, (one + 1) % 6, rendered[0][one]) for one in range(6)]
    with Mortal(folder, {"seed": 0}, last=last) as run:
        encoded = opened(names, policy, run.folder)
        keep_prompts((pair.prompt for pair in pairs), policy, run.folder)
        yield
        train(DiffusionDPO(new_tuner(policy, config), encoded, pairs, config), run, save_every=1, evaluate=lambda _: {})


def test_a_run_with_a_warm_cache_has_the_weights_of_one_with_a_cold_cache(
    packaged: StableDiffusionPipeline,
    names: list[str],
    rendered: tuple[list[str], torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, cut, again = new_policy(packaged), new_policy(packaged), new_policy(packaged, seed=3)
    with training(whole, names, rendered, tmp_path / "whole"):
        pass
    with pytest.raises(Killed), training(cut, names, rendered, tmp_path / "cut", last=2):
        pass
    counted = Counted(again, monkeypatch)
    with training(again, names, rendered, tmp_path / "cut"):
        assert counted.pictures == 0
    assert counted.pictures == 0
    assert set(counted.prompts) <= {"", *rendered[0][:6]}
    for ours, theirs in zip(again.trainable, whole.trainable, strict=True):
        assert torch.equal(ours, theirs)
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut")]
    assert metrics[0] == metrics[1]
