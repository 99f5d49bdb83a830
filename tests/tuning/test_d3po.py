"""D3PO: its arithmetic by hand, and what must not change its result."""

import contextlib
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageStat

from tests.tuning.conftest import Killed, Mortal, new_policy, new_tuner
from vpctl.configs import D3POConfig, DPOConfig
from vpctl.contracts import Reward
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.tuning.d3po import D3PO, d3po_loss
from vpctl.tuning.loop import train
from vpctl.tuning.objective import Objective
from vpctl.tuning.rollout import roll_out, seeded_noise
from vpctl.tuning.sampler import open_sampler

PROMPTS = ["a red circle", "two blue stars", "a green cross left of a red star", "three orange squares"]


def brightness(pixels: list[Image.Image], prompts: list[str]) -> list[float]:
    return [ImageStat.Stat(picture).mean[0] / 255 for picture in pixels]


def run_d3po(policy: StableDiffusion, folder: Path, *, last: int = 0, weight: float = 1.0, **config: Any) -> None:
    small = {"max_steps": 4, "batch": 2, "accumulate": 2, "beta": 0.1, "warmup": 0, "save_every": 1}
    settings = DPOConfig(**{**small, **config})
    objective = Objective({"brightness": cast(Reward, brightness)}, {"brightness": weight})
    with Mortal(folder, {"seed": 0}, last=last) as run, contextlib.suppress(Killed):
        tuner = new_tuner(policy, settings)
        algorithm = D3PO(tuner, PROMPTS, objective, settings, D3POConfig(), steps=5, guidance=1.0)
        train(algorithm, run, save_every=settings.save_every, evaluate=lambda _: {})


def test_the_loss_by_hand() -> None:
    new = torch.log(torch.tensor([[1.05, 0.97], [1.5, 0.5], [1.2, 1.2]])).requires_grad_()
    preferred = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.0, 0.0]])
    losses, logits = d3po_loss(new, torch.zeros(3, 2), preferred, beta=0.1, clip=0.1)
    by_hand = [0.1 * math.log(1.05 / 0.97), 0.1 * math.log(0.9 / 1.1), 0.0]
    assert logits.tolist() == pytest.approx(by_hand, abs=1e-6)
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-one)) for one in by_hand], abs=1e-6)
    losses.sum().backward()
    assert new.grad is not None
    # The second pair is out of the range, and the third has no preference: they have no gradient.
    assert (new.grad != 0).tolist() == [[True, True], [False, False], [False, False]]
    assert float(new.grad[0, 0]) < 0 < float(new.grad[0, 1])


def test_both_pictures_of_a_pair_begin_with_the_same_noise(policy: StableDiffusion) -> None:
    noise = seeded_noise(policy, [1, 2, 3, 4], 3, first=[7, 7, 8, 8])
    assert torch.equal(noise[0, 0], noise[1, 0])
    assert torch.equal(noise[2, 0], noise[3, 0])
    assert not torch.equal(noise[0, 0], noise[2, 0])
    assert torch.equal(noise[:, 1:], seeded_noise(policy, [1, 2, 3, 4], 3)[:, 1:])
    assert len({float(one) for one in noise[:, 1].sum((1, 2, 3))}) == 4


def test_the_first_loss_is_log_two_and_the_reward_moves_towards_what_is_preferred(
    packaged: StableDiffusionPipeline, tmp_path: Path
) -> None:
    def drawn_by(policy: StableDiffusion) -> float:
        sampler = open_sampler(policy, 5, 1.0)
        noise = seeded_noise(policy, [*range(16)], 6)
        with torch.no_grad():
            latents = roll_out(policy, PROMPTS * 4, noise, sampler, guidance=1.0).latents[:, -1]
            return float(policy.decode(latents).mean())

    found = {}
    for weight in (1.0, -1.0):
        policy = new_policy(packaged)
        folder = tmp_path / str(weight)
        run_d3po(policy, folder, weight=weight, max_steps=4, batch=4, accumulate=1, learning_rate=2e-3)
        found[weight] = drawn_by(policy)
        first = (folder / "metrics.jsonl").read_text().splitlines()[0]
        assert float(first.split('"loss":')[1].split(",")[0]) == pytest.approx(math.log(2), abs=1e-6)
        assert '"implicit_accuracy":0.5' in first
        assert '"kl":0.0' in first
    assert found[1.0] > found[-1.0] + 0.02


def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(
    packaged: StableDiffusionPipeline, tmp_path: Path
) -> None:
    whole, cut, again = new_policy(packaged), new_policy(packaged), new_policy(packaged, seed=4)
    run_d3po(whole, tmp_path / "whole", save_every=2)
    run_d3po(cut, tmp_path / "cut", last=3, save_every=2)
    run_d3po(again, tmp_path / "cut", save_every=2)
    for ours, theirs in zip(again.trainable, whole.trainable, strict=True):
        assert torch.equal(ours, theirs)
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "cut" / "metrics.jsonl").read_bytes()


def test_the_batch_does_not_change_the_step(packaged: StableDiffusionPipeline, tmp_path: Path) -> None:
    together, singly = new_policy(packaged), new_policy(packaged)
    run_d3po(together, tmp_path / "together", max_steps=1, batch=4, accumulate=1)
    run_d3po(singly, tmp_path / "singly", max_steps=1, batch=1, accumulate=4)
    differences = [(a - b).detach().abs() for a, b in zip(together.trainable, singly.trainable, strict=True)]
    assert any(bool(one.any()) for one in together.trainable)
    assert sum(float(one.mean()) for one in differences) / len(differences) < 2e-6
