"""Rewards that are watched on held-out prompts, and the early stop."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import StableDiffusionPipeline

from tests.conftest import lines
from tests.tuning.conftest import Killed, Mortal, disturb, new_policy, new_tuner
from vpctl.configs import OptimizerConfig
from vpctl.contracts import Reward, Settings
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.tuning.loop import Algorithm, train
from vpctl.tuning.objective import Objective
from vpctl.tuning.tuner import Tuner
from vpctl.tuning.watch import Watched

VALUES = [3.0, 5.0, 9.0, 8.0, 8.5, 9.0, 10.0]
"""What the first reward gives, measurement by measurement."""


class Steps(Algorithm):
    """Moves the LoRA a little in every step."""

    def __init__(self, tuner: Tuner, total: int) -> None:
        self.total, self._tuner = total, tuner

    def step(self, number: int) -> dict[str, float]:
        disturb(self._tuner.policy, 0.01)
        return {"loss": 1.0}

    def state_dict(self) -> dict[str, Any]:
        return self._tuner.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self._tuner.load_state_dict(state)


def watched(
    policy: StableDiffusion, folder: Path, *, patience: int | None, last: int = 0, done: int = 0, total: int = 12
) -> Watched:
    """Train and measure after every second one. `done` measurements were made before."""
    values = iter(VALUES[done:])
    rewards = {
        "increased": lambda pictures, prompts: [float(len(prompt)) for prompt in prompts],
        "scripted": lambda pictures, prompts: [value] * len(prompts) if (value := next(values)) else [],
    }
    tuner = new_tuner(policy, OptimizerConfig())
    algorithm = Watched(
        Steps(tuner, total),
        tuner,
        ["a red circle", "two blue stars"],
        Objective(cast(dict[str, Reward], rewards), dict.fromkeys(rewards, 1.0)),
        Settings(guidance_scale=1.0, num_inference_steps=2),
        first="scripted",
        every=2,
        patience=patience,
        seed=0,
    )
    with Mortal(folder, {}, last=last) as run:
        train(algorithm, run, save_every=1, evaluate=algorithm.measure)
    return algorithm


def test_without_patience_nothing_is_stopped_or_chosen(packaged: StableDiffusionPipeline, tmp_path: Path) -> None:
    policy = new_policy(packaged)
    algorithm = watched(policy, tmp_path, patience=None)
    before = [weight.clone() for weight in policy.trainable]
    assert algorithm.finish() == "scripted on held-out prompts was best after round 12: 10"
    assert all(map(torch.equal, policy.trainable, before))
    found = [one for one in lines((tmp_path / "metrics.jsonl").read_text()) if "watched:scripted" in one]
    assert [(one["step"], one["watched:scripted"]) for one in found] == list(zip(range(0, 13, 2), VALUES, strict=True))
    assert {one["watched:increased"] for one in found} == {(12 + 14) / 2}


@pytest.mark.parametrize("patience", [None, 2, 9])
def test_more_steps_follow_unless_patience_has_ended_the_run(
    packaged: StableDiffusionPipeline, tmp_path: Path, patience: int | None
) -> None:
    watched(new_policy(packaged), tmp_path, patience=patience, total=8)
    again = watched(new_policy(packaged), tmp_path, patience=patience, total=12, done=5)
    assert again.total == (8 if patience == 2 else 12)


@pytest.mark.parametrize("last", [0, 5, 8])
def test_patience_ends_the_run_and_keeps_the_best_lora_also_after_a_kill(
    packaged: StableDiffusionPipeline, tmp_path: Path, last: int
) -> None:
    policy = new_policy(packaged)
    if last:
        with pytest.raises(Killed):
            watched(policy, tmp_path, patience=2, last=last)
        policy = new_policy(packaged, seed=9)
    algorithm = watched(policy, tmp_path, patience=2, done=last and (last - 1) // 2 + 1)
    assert algorithm.total == 8
    assert algorithm.finish() == (
        "scripted on held-out prompts was best after round 4: 9; these weights are kept; --patience ended the training "
        "after round 8"
    )
    expected = new_policy(packaged)
    for _ in range(4):
        disturb(expected, 0.01)
    assert all(map(torch.equal, policy.trainable, expected.trainable))
