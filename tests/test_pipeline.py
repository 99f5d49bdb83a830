"""Runs all commands one after another on a small job, and uses their results in other tools."""

import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import datasets
import numpy as np
import orjson
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from tests.conftest import HOME, PATIENCE, code_of_card, lines, until, vpctl
from tests.forks import Forks
from tests.surroundings import ENVIRONMENT
from vpctl import plugins
from vpctl.shapes.prompts import raw_prompts

PROMPTS = 12


Work = Callable[[str], None]
"""Runs a command in the folder of the job."""


@pytest.fixture(scope="module")
def work(job: Path, forks: Forks) -> Work:
    return lambda command: fork(forks, job, command)


def fork(forks: Forks, folder: Path, command: str) -> None:
    done = forks(command.split(), folder)
    assert done.code == 0, done.err


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Path:
    """A folder with a reward model and two LoRAs after a short training."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "raw.txt").write_text("\n".join(raw_prompts(PROMPTS, Random(5))))
    steeply = "--learning-rate 0.01 --preview-every 0"  # A few steps must change the pictures visibly.
    commands = (
        "polish raw.txt --out prompts.jsonl",
        "generate prompts.jsonl -m shapes -m shapes:small --steps 10 --out images/metadata.jsonl",
        "annotate images/metadata.jsonl --out judgements.jsonl",
        "merge judgements.jsonl --split train:0.7,test:0.3 --out pairs.jsonl",
        "train-rm pairs.jsonl --epochs 1 --out vp-score",
        f"tune-dpo pairs.jsonl {steeply} --warmup 0 --max-steps 4 --out dpo-lora",
        f"tune-ppo prompts.jsonl {steeply} -r vp:vp-score --epochs 1 --prompts-per-epoch 8 --steps 10 --out ppo-lora",
    )
    for command in commands:
        fork(forks, folder, command)
    return folder


def test_load_dataset_opens_the_pictures(job: Path) -> None:
    opened = datasets.load_dataset(
        "imagefolder", data_dir=str(job / "images"), split="train", cache_dir=str(job / "cache")
    )
    records = lines((job / "images/metadata.jsonl").read_text())
    assert len(opened) == len(records)
    assert sorted(opened["image_id"]) == sorted(record["image_id"] for record in records)
    by_id = {record["image_id"]: record for record in records}
    with Image.open(job / "images" / by_id[opened[0]["image_id"]]["file_name"]) as picture:
        assert opened[0]["image"].tobytes() == picture.convert("RGB").tobytes()
    assert opened[0]["prompt"] == by_id[opened[0]["image_id"]]["prompt"]


def test_transformers_alone_gives_the_reward_that_score_gives(job: Path, work: Work) -> None:
    """With the code of the model card, except for the mean and standard deviation in reward.json."""
    work("score images/metadata.jsonl --reward vp:vp-score --out images/scored.jsonl")
    record = lines((job / "images/scored.jsonl").read_text())[0]
    folder = job / "vp-score"
    with Image.open(job / "images" / record["file_name"]) as picture:
        found: dict[str, Any] = {"FOLDER": folder, "picture": picture, "prompt": record["prompt"]}
        exec(code_of_card((folder / "README.md").read_text()), found)
    scale = orjson.loads((folder / "reward.json").read_bytes())
    reward = (found["reward"].item() - scale["mean"]) / scale["std"]
    assert reward == pytest.approx(record["scores"]["vp:vp-score"], abs=1e-3)


def test_the_model_card_says_the_accuracy_that_eval_measures(job: Path, work: Work) -> None:
    work("eval accuracy pairs.jsonl --reward vp:vp-score --split test --out measured.jsonl")
    measured = lines((job / "measured.jsonl").read_text())
    reports = [{key: value for key, value in one.items() if key != "split"} for one in measured]
    assert f"**{reports[0]['value']:.3f}**" in (job / "vp-score/README.md").read_text()
    assert lines((job / "vp-score/accuracy.jsonl").read_text()) == reports[:-1], "there are no ties for tie-aware"


@pytest.mark.parametrize("name", ["dpo-lora", "ppo-lora"])
def test_diffusers_alone_draws_with_the_lora_what_generate_draws(job: Path, work: Work, name: str) -> None:
    folder = job / f"drawn-with-{name}"
    (job / "two.txt").write_text("a red circle on a white background\na blue star above a green cross\n")
    work(f"generate two.txt -n 1 --steps 10 --adapter {name} --out {folder}/all.jsonl")
    pipe = StableDiffusionPipeline.from_pretrained(
        HOME / "vpctl/shapes/weights/base", dtype=torch.float32, safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    for adapted in (True, False):
        if adapted:
            pipe.load_lora_weights(job / name)
        else:
            pipe.unload_lora_weights()
        for record in lines((folder / "all.jsonl").read_text()):
            with Image.open(folder / record["file_name"]) as picture:
                ours = np.asarray(picture, np.int16)
            theirs = pipe(
                record["prompt"],
                num_inference_steps=record["num_inference_steps"],
                guidance_scale=record["guidance_scale"],
                generator=torch.Generator().manual_seed(record["seed"]),
            ).images[0]
            assert (np.abs(ours - np.asarray(theirs, np.int16)).max() <= 1) == adapted


def test_the_trained_reward_is_differentiable_and_finite(job: Path) -> None:
    reward = plugins.load("reward", f"vp:{job}/vp-score", device="cpu")
    pixels = torch.rand(2, 3, 32, 32, requires_grad=True)
    reward(pixels, ["a red circle", "a blue star"]).sum().backward()
    assert pixels.grad is not None
    assert torch.isfinite(pixels.grad).all()
    assert pixels.grad.any()


def test_in_a_pipe_the_first_judgement_is_there_before_the_last_picture(tmp_path: Path) -> None:
    """The second half of the prompts is sent only after the first judgement."""
    prompts = [f"{prompt}\n".encode() for prompt in raw_prompts(24, Random(3))]
    program = shlex.join(vpctl())
    pipe = subprocess.Popen(
        f"{program} polish - | {program} generate - -m shapes:small -n 2 --steps 10 --batch 4 | tee images.jsonl"
        f" | {program} annotate - | tee judgements.jsonl | {program} merge - > pairs.jsonl",
        shell=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    judgements, images = tmp_path / "judgements.jsonl", tmp_path / "images.jsonl"
    try:
        assert pipe.stdin
        pipe.stdin.write(b"".join(prompts[:12]))
        pipe.stdin.flush()
        until(lambda: judgements.exists() and judgements.stat().st_size, pipe)
        drawn = images.read_bytes().count(b"\n")
        pipe.stdin.write(b"".join(prompts[12:]))
        pipe.stdin.close()
        assert pipe.wait(PATIENCE) == 0
    finally:
        if pipe.poll() is None:
            os.killpg(pipe.pid, signal.SIGKILL)
        pipe.wait()
    total = images.read_bytes().count(b"\n")
    assert drawn < total
    assert len(lines(judgements.read_text())) == 4 * total / 2
    pairs = lines((tmp_path / "pairs.jsonl").read_text())
    assert pairs
    assert all((tmp_path / pair["chosen_file_name"]).is_file() for pair in pairs)
