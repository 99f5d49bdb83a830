"""Several processes train together as one does with that many times more forward passes in a step."""

import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from random import Random

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import HOME, PATIENCE, Run, lines, vpctl, write_lines
from tests.forks import Forks
from tests.launched import ended, launched
from tests.tuning import flows
from vpctl.generators.shapes import WEIGHTS
from vpctl.models.backbones import PACKAGED
from vpctl.shapes.grammar import describe, sample
from vpctl.shapes.render import render

OPTIONS = "--batch 3 --epochs 3 --learning-rate 1e-4 --device cpu --save-every 1".split()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen prompts with two pairs each. One pair is right and the other is wrong, so the loss stays large.

    The last step of an epoch has a batch for one of two processes only.
    """
    folder = tmp_path_factory.mktemp("processes")
    rng, records = Random(1), []
    for prompt in range(13):
        scene = sample(rng)
        for number in range(3):
            render(scene if number == 0 else sample(rng), rng).save(folder / f"{prompt}-{number}.png")
        for number in (1, 2):
            names = [f"{prompt}-0.png", f"{prompt}-{number}.png"][:: 1 if number == 1 else -1]
            files = {"chosen_file_name": names[0], "rejected_file_name": names[1]}
            part = "validation" if prompt > 10 else "train"
            text = f"{describe(scene)} {prompt}"
            records.append({"prompt_id": str(prompt), "prompt": text, **files, "margin": 0.5, "split": part})
    write_lines(folder / "pairs.jsonl", records)
    shutil.copytree(PACKAGED, folder / "reward")  # an untrained reward model
    return folder / "pairs.jsonl"


TRAIN = f"train-rm pairs.jsonl {' '.join(OPTIONS)} --freeze 0.5 --head mlp --weight-decay 0.1"
"""The head has dropout, so its random numbers must be the same, too."""


def kill(launcher: subprocess.Popen[bytes]) -> None:
    """Kill the launcher and the processes that it started, which are in groups of their own."""
    family = [*psutil.Process(launcher.pid).children(recursive=True), psutil.Process(launcher.pid)]
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=PATIENCE)
    launcher.communicate()


def kill_after_a_checkpoint(launcher: subprocess.Popen[bytes], folder: Path) -> None:
    """Kill the processes as soon as their run folder has a checkpoint."""
    until = time.monotonic() + PATIENCE
    while not (folder / "checkpoint.pt").exists():
        assert launcher.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    kill(launcher)


TUNINGS = {
    "dpo": "tune-dpo pairs.jsonl --batch 6 --max-steps 2 --learning-rate 1e-3 --warmup 0",
    "kto": "tune-dpo pairs.jsonl --algorithm kto --batch 3 --max-steps 3 --learning-rate 1e-3 --warmup 0",
    "d3po": "tune-dpo pairs.jsonl --algorithm d3po --batch 2 --max-steps 2 --steps 3 --guidance 1",
    "ddpo": "tune-ppo pairs.jsonl --prompts-per-epoch 2 --images 4 --batch 4 --updates 1 --epochs 2 --steps 3",
    "grpo": "tune-ppo pairs.jsonl --algorithm grpo -m diffusion:flow -r vp:reward --prompts-per-epoch 2 --images 4 "
    "--batch 4 --updates 1 --epochs 2 --steps 4 --learning-rate 1e-3 --watch shapes",
    "nft": "tune-ppo pairs.jsonl --algorithm nft --prompts-per-epoch 2 --images 4 --batch 4 --epochs 2 --steps 3 "
    "--timestep-fraction 0.3 --ema 0.5",
    "refl": "tune-ppo pairs.jsonl --algorithm refl -r vp:reward --prompts-per-epoch 8 --epochs 2 --steps 3 --batch 4",
}


SHARDED = ("dpo", "grpo")
"""A UNet and a transformer. Their measurements have an odd number of batches, and so one that does not count."""
FULL = "tune-dpo pairs.jsonl --full --ema 0.5 --batch 6 --max-steps 2 --learning-rate 1e-5 --warmup 0"
DIVIDED = {"dpo": 2, "full": 2, "ddpo": 2, "nft": 1}
"""Algorithms, and the stage of ZeRO in which the state of their optimizer is divided. nft has an average of weights."""
UNET = "model/unet/diffusion_pytorch_model.safetensors"
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
ALL = "--preview-every 0 --save-every 1 --device cpu"


def command(algorithm: str, out: str, forward_passes: int) -> str:
    """A tuning with so many forward passes in a step. The algorithms of tune-ppo draw their batches from a round."""
    model = "" if algorithm == "grpo" else "-m shapes:small"
    words = f"{TUNINGS.get(algorithm, FULL)} {model} {ALL} --out {out}-{algorithm}"
    return f"{words} --accumulate {forward_passes}" if words.startswith("tune-dpo") else words


@pytest.fixture(scope="module")
def tuned(pairs: Path, forks: Forks) -> Path:
    """The folder in which one process has run all trainings, and two processes have run them together.

    The two processes resume train-rm, in which others were killed. They have also run the tunings of `SHARDED` with the
    weights divided between them, and those of `DIVIDED` with DeepSpeed; a training of one step is given one more. They
    run all their commands one by one, because the libraries are slow to import.
    """
    kill_after_a_checkpoint(
        launched(pairs.parent, vpctl(*TRAIN.split(), "--out", "two-train-rm")), pairs.parent / "two-train-rm"
    )
    flows.sd3().save_pretrained(pairs.parent / "flow")
    with_full = ["full"] if find_spec("deepspeed") else []
    tunings = [command(one, "alone", 2) for one in (*TUNINGS, *with_full)]
    for alone in (f"{TRAIN} --accumulate 2 --out alone-train-rm", *tunings):
        done = forks(alone.split(), pairs.parent)
        assert done.code == 0, done.err
    script = [sys.executable, str(HOME / "tests" / "tuning" / "one_by_one.py")]
    together = [f"{TRAIN} --out two-train-rm", *(command(one, "two", 1) for one in TUNINGS)]
    resumed, switched = (command("full", out, 1) for out in ("resumed", "switched"))
    begun = [one.replace("--max-steps 2", "--max-steps 1") for one in (resumed, switched)]
    stages = [
        *((2, one) for one in (*begun, resumed)),
        *((n, command(one, "divided", 1)) for one, n in DIVIDED.items()),
    ]
    divided = [
        *(f"ACCELERATE_USE_DEEPSPEED=true ACCELERATE_DEEPSPEED_ZERO_STAGE={stage} {words}" for stage, words in stages),
        f"ACCELERATE_USE_DEEPSPEED=false {switched}",
    ]
    sharded = [
        f"ACCELERATE_USE_DEEPSPEED=false ACCELERATE_USE_FSDP=true {command(algorithm, 'sharded', 1)}"
        for algorithm in SHARDED
    ]
    some = [*together, *(divided if find_spec("deepspeed") else []), *sharded]
    said = ended(launched(pairs.parent, [*script, *some]))
    (pairs.parent / "said.txt").write_text(said)
    return pairs.parent


def test_two_processes_train_the_weights_of_one_and_resume_them_after_a_kill(run: Run, tuned: Path) -> None:
    two, alone = (tuned / f"{name}-train-rm" for name in ("two", "alone"))
    resumed = ["train-rm", *(["tune-dpo"] * 2 if find_spec("deepspeed") else [])]
    assert re.findall(r"vpctl (\S+): resuming at step", (tuned / "said.txt").read_text()) == resumed
    for file in ("model.safetensors", "metrics.jsonl", "reward.json"):
        assert (two / file).read_bytes() == (alone / file).read_bytes(), file
    losses = [one["loss"] for one in lines((two / "metrics.jsonl").read_text()) if "loss" in one]
    assert len({*losses}) == len(losses), "the weights change in every step"
    assert not (two / "cache").exists()
    other = run(*TRAIN.split(), "--out", "two-train-rm", cwd=tuned)
    assert other.code == 2
    assert "holds a run with processes 2, not 1" in other.err


@pytest.mark.parametrize("algorithm", [*TUNINGS])
def test_two_processes_tune_the_weights_of_one(tuned: Path, algorithm: str) -> None:
    """The algorithms that draw pictures divide the pictures of a round; the others have two batches in a step.

    A run that was killed is resumed with the same code, and in train-rm's test.
    """
    folders = [tuned / f"{name}-{algorithm}" for name in ("two", "alone")]
    assert not any((folder / "cache").exists() for folder in folders)
    two, one = (load_file(folder / "pytorch_lora_weights.safetensors") for folder in folders)
    learnt = [one[name] for name in one if name.endswith(("lora.up.weight", "lora_B.weight"))]
    assert any(weights.any() for weights in learnt)
    if algorithm in ("d3po", "grpo"):  # several gradients in a batch: their sum is rounded in another order
        for name in one:
            torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=1e-3)
    else:
        assert all(torch.equal(two[name], one[name]) for name in one)
        files = [(folder / "metrics.jsonl").read_bytes() for folder in folders]
        assert files[0] == files[1]


@pytest.mark.parametrize("algorithm", SHARDED)
def test_processes_that_divide_the_weights_tune_those_of_one(tuned: Path, algorithm: str) -> None:
    folders = [tuned / f"{name}-{algorithm}" for name in ("sharded", "alone")]
    shared, one = (load_file(folder / "pytorch_lora_weights.safetensors") for folder in folders)
    for name in one:
        torch.testing.assert_close(shared[name], one[name], atol=1e-5, rtol=1e-3)
    shared_metrics, metrics = (lines((folder / "metrics.jsonl").read_text()) for folder in folders)
    assert [[*line] for line in shared_metrics] == [[*line] for line in metrics]
    for line, other in zip(shared_metrics, metrics, strict=True):
        assert line == pytest.approx(other, rel=1e-3, abs=1e-5)


@needs_deepspeed
@pytest.mark.parametrize("algorithm", [*DIVIDED])
def test_processes_that_divide_the_optimizer_tune_the_weights_of_one(tuned: Path, algorithm: str) -> None:
    folders = [tuned / f"{name}-{algorithm}" for name in ("divided", "alone")]
    file = UNET if algorithm == "full" else "pytorch_lora_weights.safetensors"
    divided, one = (load_file(folder / file) for folder in folders)
    for name in one:
        torch.testing.assert_close(divided[name], one[name], atol=2e-5, rtol=1e-3)
    for line, other in zip(*(lines((folder / "metrics.jsonl").read_text()) for folder in folders), strict=True):
        assert line == pytest.approx(other, rel=1e-3, abs=1e-5)


@needs_deepspeed
def test_processes_that_divide_the_optimizer_resume_exactly_with_and_without_deepspeed(tuned: Path) -> None:
    resumed, switched, divided = (
        load_file(tuned / f"{name}-full" / UNET) for name in ("resumed", "switched", "divided")
    )
    assert all(torch.equal(resumed[name], divided[name]) for name in divided)
    for name in divided:
        torch.testing.assert_close(switched[name], divided[name], atol=1e-7, rtol=1e-4)


@needs_deepspeed
def test_the_checkpoint_of_a_divided_optimizer_is_that_of_a_whole_one(tuned: Path) -> None:
    divided, one = (
        torch.load(tuned / f"{name}-dpo" / "checkpoint.pt", weights_only=True)["optimizer"]
        for name in ("divided", "alone")
    )
    assert divided["param_groups"] == one["param_groups"]
    assert [*divided["state"]] == [*one["state"]]
    for place, moments in one["state"].items():
        assert divided["state"][place]["step"] == moments["step"] == 2
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(divided["state"][place][name], moments[name], atol=1e-7, rtol=1e-3)


def test_each_of_two_processes_holds_half_of_the_frozen_weights(tuned: Path) -> None:
    """The notes say what a process holds of the small shapes pipeline: all of it, or half of its UNet and the rest."""
    unet = load_file(WEIGHTS / "small" / "unet" / "diffusion_pytorch_model.safetensors")
    half = sum(weight.float().nbytes for weight in unet.values()) / 2
    held = [float(size) * 1e6 for size in re.findall(r"([\d.]+) MB for the model", (tuned / "said.txt").read_text())]
    assert max(held) - min(held) == pytest.approx(half, abs=0.02e6)


def test_a_run_of_two_processes_is_not_that_of_one(run: Run, tuned: Path) -> None:
    other = run(*command("dpo", "two", 1).split(), cwd=tuned)
    assert other.code == 2
    assert "holds a run with processes 2, not 1" in other.err
