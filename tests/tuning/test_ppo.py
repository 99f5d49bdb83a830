"""DDPO: its arithmetic by hand, and what must not change its result."""

import contextlib
import math
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from tests.tuning.conftest import Killed, Mortal, disturb, new_policy
from vpctl.configs import PPOConfig
from vpctl.errors import UserError
from vpctl.models.denoiser.schedule import noise_schedule
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.tuning.loop import train
from vpctl.tuning.ppo import DDPO, group_advantages, ppo_loss, spans, trained_steps, update
from vpctl.tuning.rollout import Rollout, roll_out
from vpctl.tuning.sampler import DDIM, open_sampler

PROMPTS = ["a red circle", "two blue stars", "a green cross left of a red star", "three orange squares"]
CPU = torch.device("cpu")


def brightness(pixels: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    return pixels.mean((1, 2, 3))


def rolled_out(policy: StableDiffusion, *, batch: int = 4, guidance: float = 1.0, updates: int = 1) -> Rollout:
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    sampler = open_sampler(policy, 5, 1.0)
    batches = [one for part in spans(len(prompts), updates, batch) for one in part]
    generator = torch.Generator().manual_seed(0)
    return roll_out(policy, prompts, brightness, sampler, batches, guidance=guidance, generator=generator)


def test_the_loss_by_hand() -> None:
    new = torch.log(torch.tensor([1.3, 1.3, 0.6, 0.6, 1.0]))
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    loss, clipped, approximate = ppo_loss(new, torch.zeros(5), advantages, clip=0.2)
    # Gains are cut at 1.2 and losses at 0.8; what is on the wrong side of the range is not cut.
    assert float(loss) == pytest.approx((-1.2 + 1.3 - 0.6 + 0.8 - 2.0) / 5, abs=1e-6)
    assert float(clipped) == pytest.approx(4 / 5)
    expected = 0.5 * (2 * math.log(1.3) ** 2 + 2 * math.log(0.6) ** 2) / 5
    assert float(approximate) == pytest.approx(expected, rel=1e-5)


def test_a_clipped_gain_has_no_gradient_and_a_correction_has_one() -> None:
    new = torch.log(torch.tensor([1.5, 1.5])).requires_grad_()
    ppo_loss(new, torch.zeros(2), torch.tensor([1.0, -1.0]), clip=0.2).loss.backward()
    assert new.grad is not None
    assert float(new.grad[0]) == 0
    assert float(new.grad[1]) > 0


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([1.0, 3.0, 10.0, 10.0])
    # The prompts' means are 2 and 10; the squares of what is left are 1, 1, 0, 0.
    expected = [-1 / math.sqrt(0.5), 1 / math.sqrt(0.5), 0.0, 0.0]
    assert group_advantages(rewards, 2, 5).tolist() == pytest.approx(expected, abs=1e-5)
    assert group_advantages(rewards, 2, 1).tolist() == pytest.approx([-1, 1, 0, 0], abs=1e-5)


@given(st.lists(st.floats(-50, 50), min_size=4, max_size=24).filter(lambda values: len(values) % 4 == 0))
def test_advantages_are_blind_to_what_a_prompt_is_worth(values: list[float]) -> None:
    rewards = torch.tensor(values)
    shifts = torch.arange(len(values) // 4).repeat_interleave(4) * 7.0
    advantages = group_advantages(rewards, 4, 5)
    torch.testing.assert_close(group_advantages(rewards + shifts, 4, 5), advantages, atol=1e-2, rtol=1e-2)
    assert advantages.abs().max() <= 5


def test_rewards_that_are_all_the_same_teach_nothing() -> None:
    assert group_advantages(torch.full((8,), 3.7), 4, 5).tolist() == [0.0] * 8


@given(st.integers(1, 70), st.integers(1, 9), st.integers(1, 16))
def test_spans_cover_every_picture_once_and_steps_do_not_depend_on_the_batch(
    pictures: int, updates: int, batch: int
) -> None:
    parts = spans(pictures, updates, batch)
    covered = [index for part in parts for start, stop in part for index in range(start, stop)]
    assert covered == list(range(pictures))
    assert all(stop - start <= batch for part in parts for start, stop in part)
    others = spans(pictures, updates, batch + 3)
    assert [(part[0][0], part[-1][1]) for part in parts] == [(part[0][0], part[-1][1]) for part in others]


def test_the_last_steps_are_left_out() -> None:
    config = PPOConfig(timestep_fraction=0.5, skip_last=2)
    sampler = DDIM(noise_schedule(DDIMScheduler(clip_sample=False), 10), 1.0, CPU)
    seen = {step for seed in range(40) for step in trained_steps(sampler, config, torch.Generator().manual_seed(seed))}
    assert seen == set(range(8))
    assert len(trained_steps(sampler, config, torch.Generator())) == 4


def test_a_last_step_without_noise_is_not_trained_on() -> None:
    sampler = DDIM(noise_schedule(DDIMScheduler(clip_sample=False, set_alpha_to_one=True), 10), 1.0, CPU)
    every = trained_steps(sampler, PPOConfig(timestep_fraction=1.0, skip_last=0), torch.Generator())
    assert sorted(every) == list(range(9))
    assert (sampler.std[every] > 0).all()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_ratio_is_exactly_one_before_the_first_update(policy: StableDiffusion, guidance: float) -> None:
    disturb(policy)
    rollout = rolled_out(policy, guidance=guidance)
    sampler = open_sampler(policy, 5, 1.0)
    for start, stop in ((0, 4), (4, 8)):
        for step in range(5):
            index = torch.full((stop - start,), step)
            embedded = policy.embed(rollout.prompts[start:stop])
            with torch.no_grad():
                predicted = policy.predict(
                    rollout.latents[start:stop, step], sampler.timesteps[index], embedded, guidance
                )
            mean = sampler.mean(predicted, rollout.latents[start:stop, step], index)
            new = sampler.log_prob(rollout.latents[start:stop, step + 1], mean, index)
            assert torch.equal((new - rollout.log_probs[start:stop, step]).exp(), torch.ones(stop - start))


def test_pictures_do_not_depend_on_the_batch_they_are_drawn_in(policy: StableDiffusion) -> None:
    together, singly = rolled_out(policy, batch=8), rolled_out(policy, batch=1)
    torch.testing.assert_close(together.latents, singly.latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.rewards, singly.rewards, atol=1e-4, rtol=1e-4)


def test_a_rollout_starts_from_noise_and_its_pictures_differ(policy: StableDiffusion) -> None:
    rollout = rolled_out(policy)
    noise = rollout.latents[:, 0]
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    assert not torch.allclose(noise[0], noise[1])
    assert torch.isfinite(rollout.log_probs).all()


def gradients(policy: StableDiffusion, batch: int, kl: float = 0.0) -> tuple[list[torch.Tensor], dict[str, float]]:
    rollout = rolled_out(policy, batch=batch)
    advantages = group_advantages(rollout.rewards, 2, 5)
    sampler = open_sampler(policy, 5, 1.0)
    [part] = spans(8, 1, batch)
    numbers = update(policy, rollout, advantages, sampler, part, [0, 2], guidance=1.0, clip=1e-4, kl=kl)
    return [weight.grad.clone() for weight in policy.trainable if weight.grad is not None], numbers


def test_the_gradient_does_not_depend_on_the_batch(packaged: StableDiffusionPipeline) -> None:
    (one, _), (other, _) = gradients(new_policy(packaged), 8), gradients(new_policy(packaged), 3)
    assert one
    assert any(gradient.abs().max() > 0 for gradient in one)
    for ours, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_the_divergence_from_the_untuned_model_is_that_of_two_normals(packaged: StableDiffusionPipeline) -> None:
    same = new_policy(packaged)
    assert gradients(same, 8, kl=0.1)[1]["kl"] == 0
    policy = new_policy(packaged)
    disturb(policy)
    numbers = gradients(policy, 8, kl=0.1)[1]
    rollout = rolled_out(policy, batch=8)
    sampler = open_sampler(policy, 5, 1.0)
    expected = []
    for step in (0, 2):
        index = torch.full((8,), step)
        latents, embedded = rollout.latents[:, step], policy.embed(rollout.prompts)
        with torch.no_grad():
            ours = sampler.mean(policy.predict(latents, sampler.timesteps[index], embedded), latents, index)
        with policy.reference():
            theirs = sampler.mean(policy.predict(latents, sampler.timesteps[index], embedded), latents, index)
        std = sampler.std[step]
        expected.append(kl_divergence(Normal(ours, std), Normal(theirs, std)).mean())
    assert numbers["kl"] == pytest.approx(float(torch.stack(expected).mean()), rel=1e-3)


def run_ppo(policy: StableDiffusion, folder: Path, last: int = 0, **config: object) -> None:
    settings = PPOConfig(
        **{  # type: ignore[arg-type]
            "epochs": 4,
            "prompts_per_epoch": 4,
            "images": 4,
            "updates": 2,
            "batch": 8,
            "preview_every": 0,
            "save_every": 1,
            **config,
        }
    )
    with Mortal(folder, {"seed": 0}, last=last) as run, contextlib.suppress(Killed):
        algorithm = DDPO(policy, PROMPTS, brightness, settings, steps=5, guidance=1.0, seed=0)
        train(algorithm, run, save_every=settings.save_every, evaluate=lambda _: {})


def test_it_raises_the_reward(packaged: StableDiffusionPipeline, tmp_path: Path) -> None:
    policy = new_policy(packaged)
    before = rolled_out(policy).rewards.mean()
    run_ppo(policy, tmp_path, epochs=12, images=8, learning_rate=2e-3, clip=1e-2, timestep_fraction=1.0)
    assert rolled_out(policy).rewards.mean() > before + 0.02


def test_a_reward_that_is_no_number_ends_the_run_before_it_spoils_the_weights(
    packaged: StableDiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = new_policy(packaged)
    before = [weight.clone() for weight in policy.trainable]
    monkeypatch.setattr(
        "tests.tuning.test_ppo.brightness", lambda pixels, prompts: torch.full((len(pixels),), math.nan)
    )
    with pytest.raises(UserError, match="gave nan, which is not a valid reward"):
        run_ppo(policy, tmp_path)
    assert all(torch.equal(weight, other) for weight, other in zip(policy.trainable, before, strict=True))


def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(
    packaged: StableDiffusionPipeline, tmp_path: Path
) -> None:
    whole, cut, again = new_policy(packaged), new_policy(packaged), new_policy(packaged, seed=4)
    run_ppo(whole, tmp_path / "whole", save_every=2)
    run_ppo(cut, tmp_path / "cut", last=3, save_every=2)
    run_ppo(again, tmp_path / "cut", save_every=2)
    for ours, theirs in zip(again.trainable, whole.trainable, strict=True):
        assert torch.equal(ours, theirs)
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "cut" / "metrics.jsonl").read_bytes()
