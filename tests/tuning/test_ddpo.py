"""DDPO: its arithmetic by hand, and what must not change its result."""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageStat
from torch.distributions import Normal, kl_divergence

from tests.tuning.conftest import Killed, Mortal, disturb, new_policy, new_tuner
from vpctl.configs import DDPOConfig, PPOConfig, RoundConfig
from vpctl.contracts import Reward
from vpctl.errors import UserError
from vpctl.models.denoiser.schedule import noise_schedule
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.tuning.advantages import group_advantages
from vpctl.tuning.ddpo import DDPO, METRICS, measure_kl, ppo_loss, trained_steps, update
from vpctl.tuning.loop import train
from vpctl.tuning.objective import Objective
from vpctl.tuning.rollout import Rollout, roll_out_and_score
from vpctl.tuning.sampler import DDIM, open_sampler
from vpctl.tuning.spans import spans

PROMPTS = ["a red circle", "two blue stars", "a green cross left of a red star", "three orange squares"]
CPU = torch.device("cpu")


def brightness(pixels: list[Image.Image], prompts: list[str]) -> list[float]:
    return [ImageStat.Stat(picture).mean[0] / 255 for picture in pixels]


def objective(reward: Callable[..., Any] = brightness) -> Objective:
    return Objective({"brightness": cast(Reward, reward)}, {"brightness": 1.0})


class Drawn(NamedTuple):
    rollout: Rollout
    rewards: torch.Tensor


def rolled_out(policy: StableDiffusion, *, batch: int = 8, guidance: float = 1.0, together: int = 1) -> Drawn:
    """Eight pictures, drawn in batches."""
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    sampler, tuner = open_sampler(policy, 5, 1.0), new_tuner(policy, PPOConfig())
    [batches] = spans(len(prompts), 1, batch)
    found, rewards = roll_out_and_score(
        tuner,
        prompts,
        [*range(8)],
        batches,
        sampler,
        objective(),
        guidance=guidance,
        where="here",
        together=together,
    )
    assert [*found] == batches
    assert [len(found[start, stop].latents) for start, stop in batches] == [stop - start for start, stop in batches]
    parts = [found[one] for one in batches]
    latents, log_probs = (torch.cat([getattr(one, name) for one in parts]) for name in ("latents", "log_probs"))
    return Drawn(Rollout(prompts, latents, log_probs), rewards[:, 0])


def test_the_loss_by_hand() -> None:
    new = torch.log(torch.tensor([1.3, 1.3, 0.6, 0.6, 1.0]))
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    loss, ratio = ppo_loss(new, torch.zeros(5), advantages, clip=0.2)
    # Gains are cut at 1.2 and losses at 0.8; what is on the wrong side of the range is not cut.
    assert float(loss) == pytest.approx((-1.2 + 1.3 - 0.6 + 0.8 - 2.0) / 5, abs=1e-6)
    assert ratio.tolist() == pytest.approx([1.3, 1.3, 0.6, 0.6, 1.0])


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
    rewards = torch.tensor([1.0, 3.0, 10.0, 10.2, 5.0, 5.0])
    for weights in (None, torch.tensor([2.0])):
        found = group_advantages(rewards, 2, 5, weights, deviation="prompt").tolist()
        assert found == pytest.approx([-1, 1, -1, 1, 0, 0], abs=1e-4)


@given(st.lists(st.floats(-50, 50), min_size=4, max_size=24).filter(lambda values: len(values) % 4 == 0))
def test_advantages_are_blind_to_what_a_prompt_is_worth(values: list[float]) -> None:
    rewards = torch.tensor(values)
    shifts = torch.arange(len(values) // 4).repeat_interleave(4) * 7.0
    advantages = group_advantages(rewards, 4, 5)
    torch.testing.assert_close(group_advantages(rewards + shifts, 4, 5), advantages, atol=1e-2, rtol=1e-2)
    assert advantages.abs().max() <= 5


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0]), torch.tensor([-0.3])])
def test_rewards_that_are_all_the_same_teach_nothing(weights: torch.Tensor | None) -> None:
    assert group_advantages(torch.full((8,), 3.7), 4, 5, weights).abs().tolist() == [0.0] * 8
    rounding = 3.7 + 1e-9 * torch.tensor([1, -1, 1, -1, 0, 1, 0, -1], dtype=torch.float64)
    assert float(group_advantages(rounding, 4, 5, weights).abs().max()) < 0.2


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


def test_several_rewards_are_normalised_before_they_are_added_up() -> None:
    small = torch.tensor([1.0, 3.0, 2.0, 2.0], dtype=torch.float64)
    large = 1000 * torch.tensor([3.0, 1.0, 2.0, 4.0], dtype=torch.float64)
    both = torch.stack([small, large], 1)
    found = group_advantages(both, 2, 5, torch.tensor([1.0, 1.0]))
    # The first reward has the differences -1, 1, 0, 0, and the second 1, -1, -1, 1 (in thousands).
    sums = torch.tensor([-1, 1, 0, 0]) / math.sqrt(0.5) + torch.tensor([1, -1, -1, 1])
    assert found.tolist() == pytest.approx((sums / sums.square().mean().sqrt()).tolist(), abs=1e-5)
    alone = group_advantages(both, 2, 5, torch.tensor([1.0, 0.0]))
    assert alone.tolist() == pytest.approx(group_advantages(small, 2, 5).tolist(), abs=1e-5)
    assert group_advantages(small, 2, 5, torch.tensor([-3.0])).tolist() == pytest.approx((-alone).tolist(), abs=1e-5)


def test_the_last_steps_are_left_out_and_every_picture_has_steps_of_its_own() -> None:
    sampler = DDIM(noise_schedule(DDIMScheduler(clip_sample=False), 10), 1.0, CPU)
    steps = trained_steps(sampler, 2, 0.5, 60, torch.Generator().manual_seed(0))
    assert steps.shape == (60, 4)
    assert set(steps.flatten().tolist()) == set(range(8))
    assert all(len(set(row)) == 4 for row in steps.tolist())
    assert len({tuple(sorted(row)) for row in steps.tolist()}) > 10


def test_a_last_step_without_noise_is_not_trained_on() -> None:
    sampler = DDIM(noise_schedule(DDIMScheduler(clip_sample=False, set_alpha_to_one=True), 10), 1.0, CPU)
    [every] = trained_steps(sampler, 0, 1.0, 1, torch.Generator()).tolist()
    assert sorted(every) == list(range(9))
    assert (sampler.std[every] > 0).all()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_ratio_is_exactly_one_before_the_first_update(policy: StableDiffusion, guidance: float) -> None:
    disturb(policy)
    rollout, _ = rolled_out(policy, batch=4, guidance=guidance)
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
    torch.testing.assert_close(together.rollout.latents, singly.rollout.latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.rewards, singly.rewards, atol=1e-3, rtol=1e-3)


def test_pictures_do_not_depend_on_how_many_batches_are_drawn_together(policy: StableDiffusion) -> None:
    disturb(policy)
    alone, together = rolled_out(policy, batch=3), rolled_out(policy, batch=3, together=2)
    torch.testing.assert_close(together.rollout.latents, alone.rollout.latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.rewards, alone.rewards, atol=1e-3, rtol=1e-3)
    assert together.rollout.prompts == alone.rollout.prompts


def test_a_rollout_starts_from_noise_and_its_pictures_differ(policy: StableDiffusion) -> None:
    rollout, _ = rolled_out(policy)
    noise = rollout.latents[:, 0]
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    assert not torch.allclose(noise[0], noise[1])
    assert torch.isfinite(rollout.log_probs).all()


def gradients(
    policy: StableDiffusion, *, batch: int = 8, packed: int = 1, kl: float = 0.0
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The gradient of the LoRA on eight pictures at two steps each, and the sums of `METRICS`."""
    tuner = new_tuner(policy, PPOConfig())
    rollout, rewards = rolled_out(policy)
    advantages = group_advantages(rewards, 2, 5)
    sampler = open_sampler(policy, 5, 1.0)
    steps = torch.tensor([[0, 2], [2, 0], [1, 3], [3, 1]]).repeat(2, 1)
    sums = torch.zeros(len(METRICS))
    for start, stop in spans(8, 1, batch)[0]:
        part = Rollout(rollout.prompts[start:stop], rollout.latents[start:stop], rollout.log_probs[start:stop])
        here = advantages[start:stop], sampler, steps[start:stop]
        sums += update(tuner, part, *here, guidance=1.0, config=DDPOConfig(kl=kl), packed=packed, share=1 / 16)
    return [weight.grad.clone() for weight in policy.trainable if weight.grad is not None], sums


@pytest.mark.parametrize("options", [{"batch": 3}, {"packed": 2}, {"batch": 3, "packed": 5}])
def test_the_gradient_does_not_depend_on_the_batch_or_on_the_packing(
    packaged: StableDiffusionPipeline, options: dict[str, int]
) -> None:
    one, sums = gradients(new_policy(packaged))
    other, others = gradients(new_policy(packaged), **options)
    assert any(gradient.abs().max() > 0 for gradient in one)
    for ours, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(sums, others, atol=1e-4, rtol=1e-4)


def test_the_divergence_from_the_untuned_model_is_that_of_two_normals(packaged: StableDiffusionPipeline) -> None:
    same = new_policy(packaged)
    steps = torch.tensor([0, 2, 1, 3]).repeat(2)
    assert float(measure_kl(same, rolled_out(same).rollout, open_sampler(same, 5, 1.0), steps, 1.0)) == 0
    policy = new_policy(packaged)
    disturb(policy)
    rollout, _ = rolled_out(policy)
    sampler = open_sampler(policy, 5, 1.0)
    latents, embedded = rollout.latents[torch.arange(8), steps], policy.embed(rollout.prompts)
    with torch.no_grad():
        ours = sampler.mean(policy.predict(latents, sampler.timesteps[steps], embedded), latents, steps)
    with policy.reference():
        theirs = sampler.mean(policy.predict(latents, sampler.timesteps[steps], embedded), latents, steps)
    std = sampler.std[steps].view(8, 1, 1, 1)
    expected = float(kl_divergence(Normal(ours, std), Normal(theirs, std)).mean())
    assert expected > 0
    assert float(measure_kl(policy, rollout, sampler, steps, 1.0)) == pytest.approx(expected, rel=1e-3)


def test_a_penalty_on_the_divergence_pulls_back_to_the_untuned_model(packaged: StableDiffusionPipeline) -> None:
    policy = new_policy(packaged)
    disturb(policy)
    free, _ = gradients(policy)
    policy = new_policy(packaged)
    disturb(policy)
    held, _ = gradients(policy, kl=1.0)
    steps = torch.tensor([[0, 2], [2, 0], [1, 3], [3, 1]]).repeat(2, 1)
    rollout, _ = rolled_out(policy)
    sampler = open_sampler(policy, 5, 1.0)

    def divergence() -> float:
        return sum(float(measure_kl(policy, rollout, sampler, column, 1.0)) for column in steps.T)

    before = divergence()
    with torch.no_grad():
        for weight, with_penalty, without in zip(policy.trainable, held, free, strict=True):
            weight.sub_(1e-3 * (with_penalty - without))
    assert divergence() < before


def run_ppo(
    policy: StableDiffusion,
    folder: Path,
    last: int = 0,
    rounds: RoundConfig | None = None,
    own: DDPOConfig | None = None,
    reward: Callable[..., Any] = brightness,
    **config: Any,
) -> None:
    small = {"epochs": 4, "prompts_per_epoch": 4, "images": 4, "batch": 8, "preview_every": 0, "save_every": 1}
    settings = PPOConfig(**{**small, **config})
    with Mortal(folder, {"seed": 0}, last=last) as run, contextlib.suppress(Killed):
        tuner, aim = new_tuner(policy, settings), objective(reward)
        groups = rounds or RoundConfig(), own or DDPOConfig()
        algorithm = DDPO(tuner, PROMPTS, aim, settings, *groups, steps=5, guidance=1.0)
        train(algorithm, run, save_every=settings.save_every, evaluate=lambda _: {})


def test_it_raises_the_reward(packaged: StableDiffusionPipeline, tmp_path: Path) -> None:
    policy = new_policy(packaged)
    before = rolled_out(policy).rewards.mean()
    rounds, own = RoundConfig(timestep_fraction=1.0), DDPOConfig(clip=1e-2)
    run_ppo(policy, tmp_path, rounds=rounds, own=own, epochs=3, images=6, learning_rate=3e-3)
    assert rolled_out(policy).rewards.mean() > before + 0.02


def test_a_reward_that_is_no_number_ends_the_run_before_it_spoils_the_weights(
    packaged: StableDiffusionPipeline, tmp_path: Path
) -> None:
    policy = new_policy(packaged)
    before = [weight.clone() for weight in policy.trainable]
    with pytest.raises(UserError, match="--reward brightness: gave nan, which is not a valid reward"):
        run_ppo(policy, tmp_path, reward=lambda pictures, prompts: [math.nan] * len(pictures))
    assert all(torch.equal(weight, other) for weight, other in zip(policy.trainable, before, strict=True))


@pytest.mark.parametrize(
    ("pixels", "said"),
    [(math.nan, "the picture of 'a red circle' has pixels that are not finite"), (0.0, "all pictures are black")],
)
def test_a_broken_picture_ends_the_run_with_its_cause(
    packaged: StableDiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: float, said: str
) -> None:
    monkeypatch.setattr(StableDiffusion, "decode", lambda self, latents: torch.full((len(latents), 3, 8, 8), pixels))
    with pytest.raises(UserError, match=f"round 1: {said}"):
        run_ppo(new_policy(packaged), tmp_path, prompts_per_epoch=1)


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
