"""GRPO: what it adds to DDPO, which is a window of noisy steps."""

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning import flows
from tests.tuning.conftest import Killed, Mortal, disturb, new_tuner
from tests.tuning.flows import PROMPTS
from tests.tuning.test_ddpo import objective
from vpctl.configs import DDPOConfig, GRPOConfig, PPOConfig, RoundConfig
from vpctl.models.denoiser.conditioning import Conditioning
from vpctl.models.denoiser.sd3 import StableDiffusion3
from vpctl.tuning.ddpo import measure_kl
from vpctl.tuning.grpo import GRPO, noise_window
from vpctl.tuning.loop import train
from vpctl.tuning.rollout import roll_out, seeded_noise
from vpctl.tuning.sampler import open_sampler


@pytest.fixture(scope="module")
def pipe() -> Any:
    """Take a copy before you change it."""
    return flows.sd3()


class Brief(StableDiffusion3):
    """A model that reads eight tokens of a prompt, which is faster."""

    def _encode_prompt(self, prompt: str) -> Conditioning:
        embedded, pooled = super()._encode_prompt(prompt).tensors
        return Conditioning((embedded[:, :8], pooled))


def new_policy(pipe: Any, seed: int = 0, targets: str = "") -> StableDiffusion3:
    return Brief(copy.deepcopy(pipe), rank=4, seed=seed, targets=targets)


@pytest.mark.parametrize(
    ("steps", "size", "skip_last", "windows"),
    [
        (10, 2, 1, {(0, 1), (1, 2), (2, 3), (3, 4)}),
        (10, 5, 0, {(0, 1, 2, 3, 4)}),
        (5, 1, 1, {(0,), (1,), (2,)}),
        (10, 2, 7, {(0, 1), (1, 2)}),
        (4, 9, 1, {(0, 1, 2)}),
        (2, 2, 1, {(0,)}),
    ],
)
def test_the_window_lies_in_the_first_half_and_moves(
    steps: int, size: int, skip_last: int, windows: set[tuple[int, ...]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    assert {(*noise_window(steps, size, skip_last, generator),) for _ in range(60)} == windows


def test_a_window_of_all_steps_takes_no_random_number() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert [noise_window(10, 0, skip_last, generator) for skip_last in (0, 3)] == [range(9), range(7)]
    assert torch.equal(generator.get_state(), before)


def algorithm(policy: StableDiffusion3, own: GRPOConfig | None = None, **options: Any) -> GRPO:
    config = {"epochs": 4, "prompts_per_epoch": 2, "images": 4, "batch": 8, "eta": 0.8, "learning_rate": 1e-3}
    settings = PPOConfig(**{**config, **options})
    rounds, shared = RoundConfig(updates=2, timestep_fraction=1.0), DDPOConfig(clip=1e-2)
    tuner = new_tuner(policy, settings)
    return GRPO(tuner, PROMPTS, objective(), settings, rounds, shared, own or GRPOConfig(), steps=6, guidance=1.0)


@pytest.mark.parametrize("sde", ["cps", "flow"])
def test_outside_the_window_the_pictures_follow_the_ode(pipe: Any, sde: str) -> None:
    policy = new_policy(pipe)
    disturb(policy)
    sampler = algorithm(policy, GRPOConfig(sde=sde, window=1))._round_sampler()
    [noisy] = (sampler.std > 0).nonzero().flatten().tolist()
    euler = open_sampler(policy, 6, 0.0)
    drawn = roll_out(policy, PROMPTS, seeded_noise(policy, [1, 2], 7), sampler, guidance=1.0).latents
    for step in range(6):
        here = torch.tensor([step, step])
        with torch.no_grad():
            predicted = policy.predict(drawn[:, step], euler.timesteps[here], policy.embed(PROMPTS))
        difference = drawn[:, step + 1] - euler.mean(predicted, drawn[:, step], here)
        assert bool(difference.abs().max() > 1e-4) is (step == noisy)


def test_the_divergence_is_measured_in_the_window(pipe: Any) -> None:
    policy = new_policy(pipe)
    training = algorithm(policy)
    sampler = training._round_sampler()
    rollout = roll_out(policy, PROMPTS, seeded_noise(policy, [1, 2], 7), sampler, guidance=1.0)
    steps = (sampler.std > 0).nonzero().flatten()
    assert float(measure_kl(policy, rollout, sampler, steps, 1.0)) == 0
    disturb(policy)
    assert 0 < float(measure_kl(policy, rollout, sampler, steps, 1.0)) < 1
    # A round that took a step without noise would divide by its std, which is 0.
    assert 0 < training.step(1)["kl"] < 1


def run_grpo(policy: StableDiffusion3, folder: Path, last: int = 0, **options: Any) -> GRPO:
    with Mortal(folder, {"seed": 0}, last=last) as run, contextlib.suppress(Killed):
        training = algorithm(policy, **options)
        train(training, run, save_every=2, evaluate=lambda _: {})
    return training


def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(pipe: Any, tmp_path: Path) -> None:
    whole, cut, again = new_policy(pipe), new_policy(pipe), new_policy(pipe, seed=4)
    one = run_grpo(whole, tmp_path / "whole")
    run_grpo(cut, tmp_path / "cut", last=3)
    other = run_grpo(again, tmp_path / "cut")
    for ours, theirs in zip(again.trainable, whole.trainable, strict=True):
        assert torch.equal(ours, theirs)
    moments, others = (some.state_dict()["optimizer"]["state"] for some in (one, other))
    for key, state in moments.items():
        assert all(torch.equal(value, others[key][name]) for name, value in state.items())
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "cut" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("sde", ["cps", "flow"])
def test_it_raises_the_reward(pipe: Any, tmp_path: Path, sde: str) -> None:
    policy = new_policy(pipe, targets="proj_out")

    def brightness() -> torch.Tensor:
        noise = seeded_noise(policy, [*range(16)], 7)
        drawn = roll_out(policy, PROMPTS * 8, noise, open_sampler(policy, 6, 0.0), guidance=1.0)
        with torch.no_grad():
            return policy.decode(drawn.latents[:, -1]).mean((1, 2, 3))

    before = brightness()
    run_grpo(policy, tmp_path, own=GRPOConfig(sde=sde), epochs=6, images=8, learning_rate=2e-2)
    assert (brightness() > before).all()
