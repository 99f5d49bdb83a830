"""ReFL: its arithmetic by hand and by finite differences, and what must not change its result."""

import contextlib
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from tests.tuning.conftest import Killed, Mortal, disturb, new_policy, new_tuner
from vpctl.configs import PPOConfig, ReFLConfig
from vpctl.contracts import Reward
from vpctl.errors import UserError
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.models.tensors import from_pictures
from vpctl.tuning.loop import train
from vpctl.tuning.objective import Objective
from vpctl.tuning.refl import Pretraining, ReFL, predicted_latents, refl_loss
from vpctl.tuning.rollout import roll_out, seeded_noise
from vpctl.tuning.sampler import open_sampler

PROMPTS = ["a red circle", "two blue stars", "a green cross left of a red star", "three orange squares"]


class Brightness:
    """How bright pictures are, with a gradient."""

    differentiable = True

    def __call__(self, images: Any, prompts: list[str]) -> Tensor:
        pixels = images if isinstance(images, Tensor) else from_pictures(images)
        return pixels.mean((1, 2, 3))


def objective(reward: Any = None) -> Objective:
    return Objective({"brightness": cast(Reward, reward or Brightness())}, {"brightness": 1.0})


def run_refl(
    policy: StableDiffusion,
    folder: Path,
    own: ReFLConfig,
    *,
    last: int = 0,
    pretraining: Pretraining | None = None,
    reward: Any = None,
    **config: Any,
) -> None:
    small = {"epochs": 4, "prompts_per_epoch": 4, "images": 2, "batch": 4, "eta": 0.5, "save_every": 1}
    settings = PPOConfig(**{**small, **config})
    with Mortal(folder, {"seed": 0}, last=last) as run, contextlib.suppress(Killed):
        tuner = new_tuner(policy, settings)
        how: dict[str, Any] = {"steps": 5, "guidance": 1.0, "pretraining": pretraining}
        algorithm = ReFL(tuner, PROMPTS, objective(reward), settings, own, **how)
        train(algorithm, run, save_every=settings.save_every, evaluate=lambda _: {})


def test_the_loss_is_what_is_missing_to_the_threshold() -> None:
    rewards = torch.tensor([-1.0, 0.5, 2.0, 3.0], requires_grad=True)
    losses = refl_loss(rewards, 2.0)
    assert losses.tolist() == [3.0, 1.5, 0.0, 0.0]
    losses.sum().backward()
    assert rewards.grad is not None
    assert rewards.grad.tolist() == [-1.0, -1.0, 0.0, 0.0]


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_prediction_is_that_of_a_rollout_at_the_same_step(policy: StableDiffusion, eta: float) -> None:
    disturb(policy)
    sampler = open_sampler(policy, 5, eta)
    noise = seeded_noise(policy, [1, 2, 3], 6)
    trail = roll_out(policy, PROMPTS[:3], noise, sampler, guidance=1.0).latents
    stops = torch.tensor([4, 0, 2])
    for grad_steps in (1, 3, 9):
        found = predicted_latents(
            policy, PROMPTS[:3], noise[:, :5], stops, sampler, guidance=1.0, grad_steps=grad_steps
        )
        before = trail[torch.arange(3), stops]
        with torch.no_grad():
            predicted = policy.predict(before, sampler.timesteps[stops], policy.embed(PROMPTS[:3]))
        alpha = policy.scheduler.alphas_cumprod[sampler.timesteps[stops]].view(3, 1, 1, 1)
        expected = (before - (1 - alpha).sqrt() * predicted) / alpha.sqrt()
        torch.testing.assert_close(found.detach(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("grad_steps", [1, 2, 5])
def test_the_gradient_goes_through_so_many_steps_and_no_more(policy: StableDiffusion, grad_steps: int) -> None:
    """Against finite differences, in which only the last steps see the change of the weights."""
    disturb(policy)
    sampler = open_sampler(policy, 5, 0.0)
    noise = seeded_noise(policy, [3], 5)
    stop = torch.tensor([4])
    weight = policy.trainable[5]

    def value() -> Tensor:
        latents = predicted_latents(policy, PROMPTS[:1], noise, stop, sampler, guidance=1.0, grad_steps=grad_steps)
        return latents.square().mean()

    value().backward()
    assert weight.grad is not None
    direction = weight.grad / weight.grad.norm()
    start = noise[:, 0]
    with torch.no_grad():
        for step in range(5 - grad_steps):
            here = torch.tensor([step])
            predicted = policy.predict(start, sampler.timesteps[here], policy.embed(PROMPTS[:1]))
            start = sampler.mean(predicted, start, here)

    def moved(amount: float) -> float:
        with torch.no_grad():
            weight.add_(amount * direction)
            latents = start
            for step in range(5 - grad_steps, 5):
                here = torch.tensor([step])
                predicted = policy.predict(latents, sampler.timesteps[here], policy.embed(PROMPTS[:1]))
                original = sampler.original(predicted, latents, here)
                latents = sampler.mean(predicted, latents, here)
            weight.sub_(amount * direction)
        return float(original.square().mean())

    slope = (moved(1e-2) - moved(-1e-2)) / 2e-2
    assert float(weight.grad.norm()) == pytest.approx(slope, rel=0.05)


def test_it_raises_the_reward(packaged: StableDiffusionPipeline, tmp_path: Path) -> None:
    policy = new_policy(packaged)
    sampler = open_sampler(policy, 5, 0.0)
    noise = seeded_noise(policy, [*range(8)], 6)

    @torch.no_grad()
    def brightness() -> float:
        drawn = roll_out(policy, PROMPTS * 2, noise, sampler, guidance=1.0)
        return float(policy.decode(drawn.latents[:, -1]).mean())

    before = brightness()
    run_refl(policy, tmp_path, ReFLConfig(late_share=0.4), epochs=8, learning_rate=1e-3)
    assert brightness() > before + 0.02


def test_rewards_are_measured_in_deviations_of_the_untuned_model(
    packaged: StableDiffusionPipeline, tmp_path: Path
) -> None:
    """The scale and the offset of a reward change nothing."""

    class Other(Brightness):
        def __call__(self, images: Any, prompts: list[str]) -> Tensor:
            return 250 * super().__call__(images, prompts).double() - 1000

    plain, scaled = new_policy(packaged), new_policy(packaged)
    run_refl(plain, tmp_path / "plain", ReFLConfig(), epochs=2)
    run_refl(scaled, tmp_path / "scaled", ReFLConfig(), epochs=2, reward=Other())
    for ours, theirs in zip(plain.trainable, scaled.trainable, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-3)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_does_not_change_the_step(packaged: StableDiffusionPipeline, tmp_path: Path, batch: int) -> None:
    one, other = new_policy(packaged), new_policy(packaged)
    run_refl(one, tmp_path / "one", ReFLConfig(), epochs=1, batch=8)
    run_refl(other, tmp_path / "other", ReFLConfig(), epochs=1, batch=batch)
    losses = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("one", "other")]
    first, second = (float(one.split('"loss":')[1].split("}")[0]) for one in losses)
    assert first == pytest.approx(second, rel=1e-3)
    differences = [(a - b).detach().abs() for a, b in zip(one.trainable, other.trainable, strict=True)]
    assert sum(float(one.mean()) for one in differences) / len(differences) < 2e-6


def test_the_pretraining_loss_is_the_models_own_and_holds_it_back(
    packaged: StableDiffusionPipeline, tmp_path: Path, rendered: tuple[list[str], Tensor]
) -> None:
    prompts, pixels = rendered
    free, held = new_policy(packaged), new_policy(packaged)
    data = Pretraining(free.encode(pixels), [*range(len(prompts))], prompts)
    run_refl(free, tmp_path / "free", ReFLConfig(), epochs=4, learning_rate=1e-3)
    strong = ReFLConfig(pretrain_weight=1000.0)
    run_refl(held, tmp_path / "held", strong, epochs=4, learning_rate=1e-3, pretraining=data)

    @torch.no_grad()
    def error(policy: StableDiffusion) -> float:
        generator = torch.Generator().manual_seed(5)
        clean = data.posteriors[torch.arange(len(prompts))].draw(generator).repeat(8, 1, 1, 1)
        noise, timesteps = torch.randn(clean.shape, generator=generator), torch.arange(0, 960, 10)
        noisy, target = policy.noised(clean, noise, timesteps)
        return float((policy.predict(noisy, timesteps, policy.embed(prompts * 8)) - target).square().mean())

    assert error(held) < error(free)
    assert '"pretraining_loss":' in (tmp_path / "held" / "metrics.jsonl").read_text()


def test_a_reward_without_a_gradient_is_refused(policy: StableDiffusion, tmp_path: Path) -> None:
    class Without:
        def __call__(self, images: Any, prompts: list[str]) -> list[float]:
            return [0.0] * len(prompts)

    class Pretends(Brightness):
        def __call__(self, images: Any, prompts: list[str]) -> Tensor:
            return super().__call__(images, prompts).detach()

    for reward in (Without(), Pretends()):
        with pytest.raises(UserError, match="--reward brightness: has no gradient, which this algorithm needs"):
            run_refl(policy, tmp_path / type(reward).__name__, ReFLConfig(), reward=reward)


def test_a_reward_that_is_always_the_same_is_refused(policy: StableDiffusion, tmp_path: Path) -> None:
    class Constant(Brightness):
        def __call__(self, images: Any, prompts: list[str]) -> Tensor:
            return super().__call__(images, prompts) * 0

    with pytest.raises(UserError, match="--reward brightness: gives all pictures the same reward"):
        run_refl(policy, tmp_path, ReFLConfig(), reward=Constant())


def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(
    packaged: StableDiffusionPipeline, tmp_path: Path, rendered: tuple[list[str], Tensor]
) -> None:
    whole, cut, again = new_policy(packaged), new_policy(packaged), new_policy(packaged, seed=4)
    prompts, pixels = rendered
    data = Pretraining(whole.encode(pixels), [*range(len(prompts))], prompts)
    own = ReFLConfig(grad_steps=2, late_share=0.6)
    run_refl(whole, tmp_path / "whole", own, save_every=2, pretraining=data)
    run_refl(cut, tmp_path / "cut", own, last=3, save_every=2, pretraining=data)
    run_refl(again, tmp_path / "cut", own, save_every=2, pretraining=data)
    for ours, theirs in zip(again.trainable, whole.trainable, strict=True):
        assert torch.equal(ours, theirs)
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "cut" / "metrics.jsonl").read_bytes()
