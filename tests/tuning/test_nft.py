"""DiffusionNFT: its loss by hand and by an independent formula, and what must not change its result."""

import contextlib
import copy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageStat
from torch import Tensor

from tests.tuning.conftest import Killed, Mortal, disturb, new_policy, new_tuner
from vpctl.configs import NFTConfig, PPOConfig, RoundConfig
from vpctl.contracts import Reward
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.tuning.loop import train
from vpctl.tuning.nft import NFT, nft_loss
from vpctl.tuning.objective import Objective
from vpctl.tuning.rollout import roll_out, seeded_noise
from vpctl.tuning.sampler import open_sampler

PROMPTS = ["a red circle", "two blue stars", "a green cross left of a red star", "three orange squares"]


def brightness(pixels: list[Image.Image], prompts: list[str]) -> list[float]:
    return [ImageStat.Stat(picture).mean[0] / 255 for picture in pixels]


def objective(weight: float = 1.0) -> Objective:
    return Objective({"brightness": cast(Reward, brightness)}, {"brightness": weight})


def run_nft(
    policy: StableDiffusion, folder: Path, *, last: int = 0, weight: float = 1.0, packed: int = 1, **config: Any
) -> NFT:
    """Train for some rounds, or until a kill after the round `last`."""
    small = {"epochs": 3, "prompts_per_epoch": 2, "images": 2, "batch": 4, "eta": 0.0, "save_every": 1}
    settings = PPOConfig(**{**small, **config})
    rounds = RoundConfig(updates=1, timestep_fraction=0.4, packed=packed)
    own = NFTConfig(old_decay_rise=0.1)
    tuner = new_tuner(policy, settings)
    algorithm = NFT(tuner, PROMPTS, objective(weight), settings, rounds, own, steps=5, guidance=1.0)
    with Mortal(folder, {"seed": 0}, last=last) as run, contextlib.suppress(Killed):
        train(algorithm, run, save_every=settings.save_every, evaluate=lambda _: {})
    return algorithm


def test_the_loss_by_hand() -> None:
    """Of one element: old 1, clean 3. With β = 1/2 a new value of 2 gives x⁺ = 1.5 and x⁻ = 0.5."""
    new, old, clean = (torch.tensor([value, value]).view(2, 1, 1, 1) for value in (2.0, 1.0, 3.0))
    found = nft_loss(new, old, clean, torch.tensor([1.0, 0.25]), beta=0.5)
    # The squared error is divided by the error: 1.5²/1.5 and 2.5²/2.5.
    assert found.tolist() == pytest.approx([2 * 1.5, 2 * (0.25 * 1.5 + 0.75 * 2.5)])


@pytest.mark.parametrize(("goodness", "sign"), [(1.0, -1), (0.5, 0), (0.0, 1)])
def test_a_good_picture_attracts_and_a_bad_one_repels(goodness: float, sign: int) -> None:
    generator = torch.Generator().manual_seed(0)
    old, clean = torch.randn((2, 3, 4, 5, 5), generator=generator)
    new = old.clone().requires_grad_()
    nft_loss(new, old, clean, torch.full((3,), goodness), beta=0.7).sum().backward()
    assert new.grad is not None
    # The way of steepest descent from the old prediction leads along the difference from the clean latents.
    along = (new.grad * (clean - old)).sum((1, 2, 3))
    norms = new.grad.flatten(1).norm(dim=1) * (clean - old).flatten(1).norm(dim=1)
    assert along.tolist() == pytest.approx((sign * norms).tolist(), abs=1e-5)


def test_of_good_pictures_with_beta_one_the_loss_is_weighted_denoising() -> None:
    """The old policy is then not part of it."""
    generator = torch.Generator().manual_seed(0)
    new, old, clean = torch.randn((3, 6, 4, 5, 5), generator=generator)
    found = nft_loss(new, old, clean, torch.ones(6), beta=1.0)
    for row in range(6):
        error = new[row] - clean[row]
        assert float(found[row]) == pytest.approx(float(error.square().mean() / error.abs().mean()), rel=1e-6)


def test_a_prediction_that_is_right_divides_by_nothing() -> None:
    same = torch.ones(2, 1, 2, 2, requires_grad=True)
    loss = nft_loss(same, torch.ones(2, 1, 2, 2), torch.ones(2, 1, 2, 2), torch.tensor([0.0, 1.0]), beta=1.0)
    loss.sum().backward()
    assert loss.tolist() == [0, 0]
    assert same.grad is not None
    assert same.grad.isfinite().all()


def drawn_by(policy: StableDiffusion) -> float:
    """The mean brightness of eight pictures."""
    noise = seeded_noise(policy, [*range(8)], 6)
    with torch.no_grad():
        drawn = roll_out(policy, PROMPTS * 2, noise, open_sampler(policy, 5, 0.0), guidance=1.0)
        return float(policy.decode(drawn.latents[:, -1]).mean())


def test_the_reward_moves_the_way_of_its_weight(packaged: StableDiffusionPipeline, tmp_path: Path) -> None:
    found = {}
    for weight in (1.0, -1.0):
        policy = new_policy(packaged)
        run_nft(policy, tmp_path / str(weight), weight=weight, epochs=4, prompts_per_epoch=4, learning_rate=2e-3)
        found[weight] = drawn_by(policy)
    assert found[1.0] > found[-1.0] + 0.02


def test_the_old_policy_draws_and_follows_slowly(packaged: StableDiffusionPipeline, tmp_path: Path) -> None:
    policy = new_policy(packaged)
    expected = [weight.detach().clone() for weight in policy.trainable]
    algorithm = run_nft(policy, tmp_path, epochs=1)
    # After the first round the old policy keeps 0.1 of its weights.
    expected = [0.1 * old + 0.9 * new.detach() for old, new in zip(expected, policy.trainable, strict=True)]
    for ours, theirs in zip(algorithm.state_dict()["old"], expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    state = copy.deepcopy(algorithm.state_dict())
    drawn = algorithm.step(2)
    algorithm.load_state_dict(state)
    disturb(policy)
    again = algorithm.step(2)
    assert again["reward"] == drawn["reward"], "the trained policy does not draw"
    assert again["step_size"] > drawn["step_size"]


@pytest.mark.parametrize("options", [{"batch": 3}, {"packed": 2}])
def test_the_batch_and_the_packing_do_not_change_the_step(
    packaged: StableDiffusionPipeline, tmp_path: Path, options: dict[str, int]
) -> None:
    found: list[list[Tensor]] = []
    for name, given in (("one", {}), ("other", options)):
        policy = new_policy(packaged)
        disturb(policy)
        before = [weight.detach().clone() for weight in policy.trainable]
        run_nft(policy, tmp_path / name, epochs=1, **given)
        found.append([new.detach() - old for new, old in zip(policy.trainable, before, strict=True)])
    moved, difference = (sum(float(one.abs().sum()) for one in some) for some in (found[0], map(torch.sub, *found)))
    assert difference < 1e-2 * moved


def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(
    packaged: StableDiffusionPipeline, tmp_path: Path
) -> None:
    whole, cut, again = new_policy(packaged), new_policy(packaged), new_policy(packaged, seed=4)
    whole_run = run_nft(whole, tmp_path / "whole", ema=0.9)
    run_nft(cut, tmp_path / "cut", last=2, ema=0.9)
    resumed = run_nft(again, tmp_path / "cut", ema=0.9)
    for name in ("old", "average"):
        assert all(map(torch.equal, resumed.state_dict()[name], whole_run.state_dict()[name]))
    assert all(map(torch.equal, again.trainable, whole.trainable))
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "cut" / "metrics.jsonl").read_bytes()
