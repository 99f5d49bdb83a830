"""Diffusion-DPO: its arithmetic by hand, and what must not change its result."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from tests.conftest import lines
from tests.tuning.conftest import Killed, Mortal, disturb, new_policy, new_tuner
from vpctl.configs import DPOConfig
from vpctl.models.denoiser.conditioning import Conditioning
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.models.devices import join_world
from vpctl.tuning.dpo import (
    DiffusionDPO,
    HeldOutPairs,
    Preference,
    dpo_logits,
    dpo_loss,
    four_errors,
    noised_pairs,
    pair_weights,
)
from vpctl.tuning.loop import train
from vpctl.tuning.run import Run

ALONE = join_world("cpu")

Rendered = tuple[list[str], torch.Tensor]


def true_pairs(rendered: Rendered) -> list[Preference]:
    """The true picture of a prompt is preferred to the true picture of the next prompt."""
    prompts, _ = rendered
    return [Preference(index, (index + 1) % len(prompts), prompt) for index, prompt in enumerate(prompts)]


def run_dpo(
    policy: StableDiffusion, rendered: Rendered, folder: Path, pairs: list[Preference] | None = None, **config: Any
) -> None:
    settings = replace(DPOConfig(max_steps=4, batch=4, accumulate=2, warmup=0, preview_every=0), **config)
    asked = {"max_steps": settings.max_steps}
    with Run(str(folder), asked, ALONE) as run:
        tuner = new_tuner(policy, settings)
        algorithm = DiffusionDPO(tuner, policy.encode(rendered[1]), pairs or true_pairs(rendered), settings)
        train(algorithm, run, save_every=settings.save_every, evaluate=lambda _: {})


def test_where_policy_and_reference_agree_the_loss_is_log_two() -> None:
    chosen, rejected = torch.rand(7), torch.rand(7)
    logits = dpo_logits(chosen, rejected, chosen, rejected, beta=5000)
    assert dpo_loss(logits).tolist() == pytest.approx([math.log(2)] * 7, abs=1e-7)
    assert (logits == 0).all()


def test_the_loss_by_hand() -> None:
    # The policy fits the chosen picture better by 0.002 and the rejected one worse by 0.001.
    chosen, rejected, ref_chosen, ref_rejected = torch.tensor([[0.098], [0.201], [0.1], [0.2]])
    logits = dpo_logits(chosen, rejected, ref_chosen, ref_rejected, beta=2000)
    assert float(logits) == pytest.approx(-0.5 * 2000 * (-0.002 - 0.001), rel=1e-4)
    assert float(dpo_loss(logits)) == pytest.approx(math.log(1 + math.exp(-3)), rel=1e-4)


def test_the_other_losses_by_hand() -> None:
    logits = torch.tensor([-1.0, 0.25, 2.0])
    assert dpo_loss(logits, "ipo").tolist() == [2.25, 0.0625, 2.25]
    assert dpo_loss(logits, "hinge").tolist() == [2.0, 0.75, 0.0]
    smooth = [0.9 * math.log(1 + math.exp(-x)) + 0.1 * math.log(1 + math.exp(x)) for x in logits.tolist()]
    assert dpo_loss(logits, "dpo", 0.1).tolist() == pytest.approx(smooth, rel=1e-5)


def test_pairs_with_a_larger_margin_weigh_more() -> None:
    margins = torch.tensor([0.1, 0.2, 0.9])
    assert pair_weights(margins, 0.0).tolist() == [1.0, 1.0, 1.0]
    assert pair_weights(margins, 1.0).tolist() == pytest.approx([0.25, 0.5, 2.25])
    assert float(pair_weights(margins, 0.3).mean()) == pytest.approx(1)


def test_a_step_logs_the_mean_of_the_logarithms_weighted_and_with_the_chosen_error(
    packaged: StableDiffusionPipeline, rendered: Rendered, tmp_path: Path
) -> None:
    """Before the first update policy and reference agree, so the loss is log 2 for each pair."""
    pairs = [pair._replace(margin=margin) for pair, margin in zip(true_pairs(rendered), [0.1, 0.5] * 6, strict=True)]
    for name, config in (("plain", {}), ("mixed", {"margin_weight": 1.0, "sft": 3.0})):
        run_dpo(new_policy(packaged), rendered, tmp_path / name, pairs, max_steps=1, batch=12, accumulate=1, **config)
    plain, mixed = (lines((tmp_path / name / "metrics.jsonl").read_text())[0] for name in ("plain", "mixed"))
    assert plain["loss"] == pytest.approx(math.log(2), abs=1e-6)
    policy = new_policy(packaged)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(12, generator=generator).tolist()
    shown = noised_pairs(policy, policy.encode(rendered[1]), [pairs[one] for one in order], 0.0, generator)
    with torch.no_grad():
        errors = four_errors(policy, shown)[0]
    weights = torch.tensor([pairs[one].margin for one in order]) / 0.3
    expected = float((weights * (math.log(2) + 3 * errors)).mean())
    assert mixed["loss"] == pytest.approx(expected, rel=1e-4)


def test_the_squared_error_holds_the_chosen_pictures_and_the_advice_says_so(
    packaged: StableDiffusionPipeline, rendered: Rendered
) -> None:
    """With swapped pairs, DPO learns from the true pictures as rejected ones, and gets worse on the others."""
    swapped = [Preference(b, a, prompt) for a, b, prompt, _ in true_pairs(rendered)]
    rise = {}
    for sft in (0.0, 300.0):
        config = DPOConfig(max_steps=10, batch=12, accumulate=1, warmup=0, learning_rate=2e-3, beta=2000.0, sft=sft)
        policy = new_policy(packaged)
        algorithm = DiffusionDPO(new_tuner(policy, config), policy.encode(rendered[1]), swapped, config)
        metrics = [algorithm.step(number) for number in range(1, 11)]
        rise[sft] = sum(one["chosen_error"] - one["chosen_error_reference"] for one in metrics)
        worse = sum(one["chosen_error"] > one["chosen_error_reference"] for one in metrics)
        assert (f"in {worse} of 10 steps the error on the chosen pictures was above" in algorithm.advice) == (worse > 5)
    assert rise[300.0] < rise[0.0]


def test_both_pictures_of_a_pair_share_noise_timestep_and_dropped_prompt(
    policy: StableDiffusion, rendered: Rendered
) -> None:
    same = [Preference(index, index, prompt) for index, prompt in enumerate(rendered[0])]
    posteriors = policy.encode(rendered[1])
    exact = replace(posteriors, std=torch.zeros_like(posteriors.std))
    disturb(policy)
    asked = noised_pairs(policy, exact, same, 0.5, torch.Generator().manual_seed(0))
    assert "" in asked.prompts
    assert set(asked.prompts) != {""}
    chosen, rejected, ref_chosen, ref_rejected = four_errors(policy, asked)
    torch.testing.assert_close(chosen, rejected)
    torch.testing.assert_close(ref_chosen, ref_rejected)
    assert not torch.allclose(chosen, ref_chosen)


def test_errors_are_squared_and_a_mean_over_the_latent(policy: StableDiffusion, rendered: Rendered) -> None:
    asked = noised_pairs(
        policy, policy.encode(rendered[1]), true_pairs(rendered)[:2], 0.0, torch.Generator().manual_seed(0)
    )
    chosen, *_ = four_errors(policy, asked)
    alpha = policy.scheduler.alphas_cumprod[asked.timesteps].view(2, 1, 1, 1)
    noisy = alpha.sqrt() * asked.chosen + (1 - alpha).sqrt() * asked.noise
    with torch.no_grad():
        predicted = policy.pipe.unet(noisy, asked.timesteps, *policy.embed(asked.prompts).tensors).sample
    torch.testing.assert_close(chosen, ((predicted - asked.noise) ** 2).mean((1, 2, 3)), atol=1e-5, rtol=1e-4)


def test_one_by_one_accumulated_is_the_same_as_all_at_once(
    packaged: StableDiffusionPipeline, rendered: Rendered, tmp_path: Path
) -> None:
    together, singly = new_policy(packaged), new_policy(packaged)
    run_dpo(together, rendered, tmp_path / "together", batch=8, accumulate=1, max_steps=2)
    run_dpo(singly, rendered, tmp_path / "singly", batch=1, accumulate=8, max_steps=2)
    # AdamW divides by the size of the gradient: of one near zero, rounding alone may turn a step of 1e-4 a little.
    differences = [
        (ours - theirs).detach().abs() for ours, theirs in zip(together.trainable, singly.trainable, strict=True)
    ]
    assert max(float(one.max()) for one in differences) < 3e-5
    assert sum(float(one.mean()) for one in differences) / len(differences) < 2e-7


def test_it_learns_what_is_preferred_and_not_what_is_not(
    packaged: StableDiffusionPipeline, rendered: Rendered, tmp_path: Path
) -> None:
    pairs = true_pairs(rendered)
    learnt = {}
    for name, shown in (("true", pairs), ("swapped", [Preference(b, a, prompt) for a, b, prompt, _ in pairs])):
        policy = new_policy(packaged)
        run_dpo(
            policy,
            rendered,
            tmp_path / name,
            shown,
            max_steps=12,
            batch=12,
            accumulate=1,
            learning_rate=1e-3,
            beta=500.0,
        )
        asked = noised_pairs(policy, policy.encode(rendered[1]), pairs * 4, 0.0, torch.Generator().manual_seed(77))
        with torch.no_grad():
            learnt[name] = float(dpo_logits(*four_errors(policy, asked), beta=500).mean())
    assert learnt["true"] > 0.05
    assert learnt["swapped"] < -0.05


def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(
    packaged: StableDiffusionPipeline, rendered: Rendered, tmp_path: Path
) -> None:
    whole, first = new_policy(packaged), new_policy(packaged)
    run_dpo(whole, rendered, tmp_path / "whole", max_steps=6, save_every=2)

    config = DPOConfig(max_steps=6, batch=4, accumulate=2, warmup=0, preview_every=0, save_every=2)
    arguments = first.encode(rendered[1]), true_pairs(rendered), config
    with pytest.raises(Killed), Mortal(tmp_path / "cut", {"max_steps": 6}, last=5) as run:
        train(DiffusionDPO(new_tuner(first, config), *arguments), run, save_every=2, evaluate=lambda _: {})
    again = new_policy(packaged, seed=5)
    with Run(str(tmp_path / "cut"), {"max_steps": 6}, ALONE) as run:
        assert run.resumes
        assert run.saved == 4
        train(DiffusionDPO(new_tuner(again, config), *arguments), run, save_every=2, evaluate=lambda _: {})
    for ours, theirs in zip(again.trainable, whole.trainable, strict=True):
        assert torch.equal(ours, theirs)
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut")]
    assert metrics[0] == metrics[1]


class TwoEmbeddings(StableDiffusion):
    """Its conditioning has a second tensor, like the pooled embedding of SDXL."""

    def _encode_prompt(self, prompt: str) -> Conditioning:
        [embedded] = super()._encode_prompt(prompt).tensors
        return Conditioning((embedded, embedded.mean(1)))

    def _run(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        embedded, pooled = conditioning.tensors
        assert torch.equal(pooled, embedded.mean(1))
        return super()._run(latents, timesteps, Conditioning((embedded,)))


def test_training_does_not_know_what_a_conditioning_is_made_of(
    packaged: StableDiffusionPipeline, rendered: Rendered, tmp_path: Path
) -> None:
    plain, other = new_policy(packaged), TwoEmbeddings(copy.deepcopy(packaged), rank=4, seed=0)
    for name, policy in (("plain", plain), ("other", other)):
        run_dpo(policy, rendered, tmp_path / name, max_steps=2)
    for ours, theirs in zip(other.trainable, plain.trainable, strict=True):
        assert torch.equal(ours, theirs)


def test_held_out_pairs_are_measured_in_every_quarter_of_the_noise(
    packaged: StableDiffusionPipeline, rendered: Rendered, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = new_policy(packaged)
    pairs, posteriors = true_pairs(rendered)[:4], policy.encode(rendered[1])
    config = DPOConfig(batch=5, beta=3000.0)
    others = HeldOutPairs(new_tuner(policy, config), posteriors, pairs, config, seed=3)
    assert others.measure()["held_out_accuracy"] == 0.5, "an untuned policy favours no picture"
    disturb(policy)
    monkeypatch.setattr(policy, "reference", None)  # its errors are known
    found = others.measure()
    assert others.measure() == found
    monkeypatch.undo()
    # The same by hand, pair by pair.
    shown = noised_pairs(policy, posteriors, pairs * 4, 0.0, torch.Generator().manual_seed(3))
    levels, logits = sorted(shown.timesteps.tolist()), []
    for row, level in enumerate(levels):
        one = replace(shown[row : row + 1], timesteps=torch.tensor([level]))
        with torch.no_grad():
            logits.append(float(dpo_logits(*four_errors(policy, one), 3000.0)))
    for quarter in range(4):
        by_hand = sum(logits[4 * quarter : 4 * quarter + 4]) / 4
        assert found[f"held_out_margin_quarter_{quarter + 1}"] == pytest.approx(by_hand, rel=1e-2, abs=1e-3)
    assert found["held_out_margin"] == pytest.approx(sum(logits) / 16, rel=1e-2, abs=1e-3)
    assert found["held_out_accuracy"] == pytest.approx(sum(one > 0 for one in logits) / 16)
