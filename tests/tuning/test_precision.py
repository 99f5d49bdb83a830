"""A model that computes in 16 bits: what stays in float32, and how small gradients survive."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from tests.tuning import flows
from tests.tuning.conftest import Killed, Mortal, disturb, new_policy, new_tuner
from tests.tuning.test_dpo import Rendered, true_pairs
from tests.tuning.test_sdxl import pipeline_of
from vpctl.configs import DPOConfig, OptimizerConfig
from vpctl.contracts import Settings
from vpctl.errors import UserError
from vpctl.models.denoiser import Denoiser, open_denoiser
from vpctl.models.denoiser.pipeline import PipelineDenoiser
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.models.denoiser.sd3 import StableDiffusion3
from vpctl.tuning.asked import warn_of_rounding
from vpctl.tuning.dpo import DiffusionDPO
from vpctl.tuning.loop import train
from vpctl.tuning.rollout import check_finite, roll_out, seeded_noise, step_mean
from vpctl.tuning.sampler import open_sampler

HALVES = [torch.bfloat16, torch.float16]
PROMPTS = ["a red circle", "two blue stars"]


def halved(pipe: Any, dtype: torch.dtype, lora: str = "") -> StableDiffusion:
    return StableDiffusion(copy.deepcopy(pipe), rank=4, seed=0, dtype=dtype, lora=lora)


def predicted(policy: Denoiser) -> torch.Tensor:
    latents = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(7))
    return policy.predict(latents, torch.tensor([400, 900]), policy.embed(PROMPTS), 2.0)


@pytest.mark.parametrize("dtype", HALVES)
def test_only_the_frozen_weights_and_their_computation_have_16_bits(
    packaged: StableDiffusionPipeline, dtype: torch.dtype
) -> None:
    exact = [new_policy(packaged), StableDiffusion3(flows.sd3(), rank=4, seed=0)]
    policies = [halved(packaged, dtype), StableDiffusion3(flows.sd3(), rank=4, seed=0, dtype=dtype)]
    for policy, like in zip(policies, exact, strict=True):
        assert {one.dtype for one in policy.model.parameters() if not one.requires_grad} == {dtype}
        assert {one.dtype for one in policy.trainable} == {torch.float32}
        assert {one.dtype for one in policy.pipe.vae.parameters()} == {torch.float32}
        disturb(like, 0.2)
        policy.trained.load(like.trained.weights())
        ours, theirs = predicted(policy).detach(), predicted(like).detach()
        assert ours.dtype == torch.float32
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
        assert 0 < difference < 16 * torch.finfo(dtype).eps
        drawn = policy.draw(PROMPTS[:1], [torch.Generator().manual_seed(0)], Settings(3.0, 2))
        assert drawn.dtype == torch.float32
        assert drawn.isfinite().all()


def inside(policy: Any, kind: str) -> list[torch.dtype]:
    """A list that gets the precision in which the first linear layer of a part computes, whenever it does."""
    found: list[torch.dtype] = []
    layer = next(one for one in getattr(policy.pipe, kind).modules() if isinstance(one, torch.nn.Linear))
    layer.register_forward_hook(lambda module, given, output: found.append(output.dtype))
    return found


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_a_drawing_computes_as_the_training_does(
    packaged: StableDiffusionPipeline, family: str, dtype: torch.dtype
) -> None:
    """Only the part that predicts has 16 bits: neither the embeddings, nor guidance and latents between two steps."""
    makers: dict[str, Any] = {
        "sd": lambda: packaged, "sdxl": lambda: pipeline_of("epsilon"), "sd3": flows.sd3, "flux": flows.flux
    }  # fmt: skip
    pipe = makers[family]()
    policy, exact = (open_denoiser(copy.deepcopy(pipe), rank=4, source="x", seed=0, dtype=one) for one in (dtype, None))
    assert isinstance(policy, PipelineDenoiser)
    encoded, predicted = inside(policy, "text_encoder"), inside(policy, policy.part)
    given: list[torch.Tensor] = []
    scheduler = policy.pipe.scheduler
    step = scheduler.step

    def watched(output: torch.Tensor, time: Any, latents: torch.Tensor, *args: Any, **options: Any) -> Any:
        given.extend([output, latents])
        return step(output, time, latents, *args, **options)

    scheduler.step = watched
    found = [one.draw(PROMPTS, noise(2), Settings(3.0, 3)) for one in (policy, exact)]
    assert {*encoded} == {torch.float32}
    assert {*predicted} == {dtype}
    assert {one.dtype for one in (*given, *found)} == {torch.float32}
    assert len(given) >= 6
    assert 0 < float((found[0] - found[1]).abs().mean()) < torch.finfo(dtype).eps


def noise(number: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(number)]


@pytest.mark.parametrize("dtype", HALVES)
def test_the_probabilities_of_a_drawing_are_those_before_the_first_update(
    packaged: StableDiffusionPipeline, dtype: torch.dtype
) -> None:
    policy = halved(packaged, dtype)
    disturb(policy)
    sampler = open_sampler(policy, 3, 1.0)
    drawn = roll_out(policy, PROMPTS, seeded_noise(policy, [1, 2], 4), sampler, guidance=3.0)
    here = torch.full((2,), 1)
    mean = step_mean(policy, sampler, drawn.latents[:, 1], policy.embed(PROMPTS), here, 3.0)
    assert torch.equal(sampler.log_prob(drawn.latents[:, 2], mean, here), drawn.log_probs[:, 1])
    assert drawn.log_probs.dtype == torch.float32


def test_a_lora_to_start_from_keeps_its_bits(packaged: StableDiffusionPipeline, tmp_path: Path) -> None:
    policy = new_policy(packaged)
    disturb(policy)
    policy.trained.save(tmp_path)
    started = halved(packaged, torch.bfloat16, str(tmp_path))
    for ours, theirs in zip(started.trainable, policy.trainable, strict=True):
        assert torch.equal(ours, theirs)


def test_gradients_that_float16_cannot_hold_are_those_of_float32(packaged: StableDiffusionPipeline) -> None:
    found = []
    for dtype, scaled in ((torch.float32, False), (torch.float16, True), (torch.float16, False)):
        policy = halved(packaged, dtype)
        disturb(policy)
        tuner = new_tuner(policy, OptimizerConfig(dtype=str(dtype).removeprefix("torch.")))
        loss = predicted(policy).square().mean() * 1e-6
        if scaled:
            tuner.backward(loss)
        else:
            loss.backward()
        scale = tuner.state_dict()["scaler"]["scale"] if scaled else 1.0
        found.append(torch.cat([one.grad.flatten() / scale for one in policy.trainable if one.grad is not None]))
    exact, ours, lost = found
    assert float((ours - exact).norm() / exact.norm()) < 0.02
    assert float((lost - exact).norm() / exact.norm()) > 0.1


def test_a_gradient_that_overflows_moves_nothing_and_halves_the_scale(packaged: StableDiffusionPipeline) -> None:
    policy = halved(packaged, torch.float16)
    tuner = new_tuner(policy, OptimizerConfig(dtype="float16"))
    scale = tuner.state_dict()["scaler"]["scale"]
    before = [one.detach().clone() for one in policy.trainable]
    tuner.backward(predicted(policy).square().mean() * 1e6)
    tuner.step("here")
    assert all(map(torch.equal, before, policy.trainable))
    assert tuner.state_dict()["scaler"]["scale"] == scale / 2
    assert tuner.state_dict()["steps"] == 0, "for --warmup and --ema"
    assert tuner.skipped() == {"skipped": 1}
    assert tuner.skipped() == {"skipped": 0}
    again = new_tuner(halved(packaged, torch.float16), OptimizerConfig(dtype="float16"))
    again.load_state_dict(tuner.state_dict())
    assert again.state_dict()["scaler"]["scale"] == scale / 2


@pytest.mark.parametrize(("dtype", "ways"), [("float16", ", or name --dtype bfloat16 or float32"), ("bfloat16", "")])
def test_a_model_that_always_overflows_is_told_with_its_precision(
    packaged: StableDiffusionPipeline, dtype: str, ways: str
) -> None:
    policy = halved(packaged, getattr(torch, dtype))
    tuner = new_tuner(policy, OptimizerConfig(dtype=dtype, ema=0.5))
    before = [one.detach().clone() for one in policy.trainable]

    def always() -> None:
        for _ in range(20):
            tuner.backward(predicted(policy).square().mean() * float("inf"))
            tuner.step("step 9")

    said = f"step 9: training has diverged, its gradient is nan; lower --learning-rate{ways}"
    with pytest.raises(UserError, match=f"^{said}"):
        always()
    assert tuner.skipped() == ({"skipped": 17} if ways else {})
    with tuner.averaged():
        assert all(map(torch.equal, before, policy.trainable))
    with pytest.raises(UserError, match=f"so lower --learning-rate{ways}"):
        check_finite(torch.full((1, 3, 2, 2), torch.nan), ["a star"], "round 2", tuner.way_out)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dpo_begins_with_log_2_and_resumes_exactly(
    packaged: StableDiffusionPipeline, rendered: Rendered, tmp_path: Path, dtype: str
) -> None:
    config = DPOConfig(max_steps=2, batch=4, accumulate=1, warmup=0, learning_rate=1e-3, beta=20.0, dtype=dtype)
    found = []
    for name, last in (("whole", 0), ("cut", 1), ("cut", 0)):
        policy = halved(packaged, getattr(torch, dtype))
        algorithm = DiffusionDPO(new_tuner(policy, config), policy.encode(rendered[1]), true_pairs(rendered), config)
        with Mortal(tmp_path / name, {"max_steps": 2}, last=last) as run:
            try:
                train(algorithm, run, save_every=1, evaluate=lambda _: {})
            except Killed:
                continue
        found.append(torch.cat([one.detach().flatten() for one in policy.trainable]))
    assert torch.equal(*found)
    first, second = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert '"loss":0.693147' in first
    assert '"loss":0.693147' not in second


def test_whoever_compares_small_differences_in_bfloat16_is_warned(capsys: pytest.CaptureFixture[str]) -> None:
    for dtype, algorithm in (("float32", "dpo"), ("float16", "dpo"), ("bfloat16", "nft"), ("bfloat16", "refl")):
        warn_of_rounding(dtype, algorithm)
    assert capsys.readouterr().err == ""
    for algorithm in ("dpo", "kto", "ddpo", "grpo", "d3po"):
        warn_of_rounding("bfloat16", algorithm)
        [said] = capsys.readouterr().err.splitlines()
        assert "--dtype bfloat16: " in said
        assert "--dtype float16 or float32" in said
