"""A denoiser with a LoRA: predictions, guidance, embeddings, latents, and the LoRA put in and out."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from tests.tuning.conftest import disturb, new_policy
from vpctl.contracts import Settings
from vpctl.models.denoiser.sd import Policy
from vpctl.tuning.preview import grid, preview


def test_a_new_policy_is_its_reference_and_a_trained_one_is_not(policy: Policy) -> None:
    latents, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([400, 900])
    embedded = policy.embed(["a red circle", "two blue stars"])

    def predictions() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            ours = policy.predict(latents, timesteps, embedded)
        with policy.reference():
            return ours, policy.predict(latents, timesteps, embedded)

    ours, reference = predictions()
    assert torch.equal(ours, reference)
    disturb(policy)
    moved, still = predictions()
    assert torch.equal(still, reference)
    assert not torch.allclose(moved, reference)


def test_the_reference_is_left_even_through_an_error(policy: Policy) -> None:
    disturb(policy)
    arguments = torch.randn(1, 4, 8, 8), torch.tensor([500]), policy.embed(["a red circle"])
    before = policy.predict(*arguments)
    with pytest.raises(RuntimeError, match="on purpose"), policy.reference():
        raise RuntimeError("on purpose")
    after = policy.predict(*arguments)
    assert torch.equal(before, after)
    assert after.requires_grad


def test_only_the_lora_is_trained_and_it_is_in_float32(packaged: StableDiffusionPipeline) -> None:
    half = copy.deepcopy(packaged).to(torch.bfloat16)
    policy = Policy(half, rank=4, source="test", seed=0)
    assert {weight.dtype for weight in policy.trainable} == {torch.float32}
    names = {name for name, weight in policy.pipe.unet.named_parameters() if weight.requires_grad}
    assert names
    assert all("lora_" in name for name in names)
    assert not any(weight.requires_grad for weight in policy.pipe.text_encoder.parameters())


def test_nothing_is_trained_through_float16(packaged: StableDiffusionPipeline) -> None:
    halved = copy.deepcopy(packaged).to(dtype=torch.float16)
    policy = new_policy(halved)
    assert policy.pipe.unet.dtype == policy.pipe.vae.dtype == policy.pipe.text_encoder.dtype != torch.float16
    tiny = policy.predict(torch.randn(1, 4, 8, 8), torch.tensor([500]), policy.embed(["a red circle"])).mean() * 1e-7
    tiny.backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in policy.trainable)


def test_guidance_is_a_step_beyond_the_unguided_prediction(policy: Policy) -> None:
    latents, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([300, 300])
    given, nothing = policy.embed(["a red circle", "two blue stars"]), policy.embed(["", ""])
    with torch.no_grad():
        with_text = policy.predict(latents, timesteps, given)
        without = policy.predict(latents, timesteps, nothing)
        guided = policy.predict(latents, timesteps, given, guidance=3.0)
    torch.testing.assert_close(guided, without + 3 * (with_text - without), atol=1e-4, rtol=1e-4)


def test_prompts_are_embedded_as_the_pipeline_embeds_them_whatever_they_come_with(policy: Policy) -> None:
    theirs, _ = policy.pipe.encode_prompt(["a red circle"], policy.device, 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(policy.embed(["two blue stars", "a red circle", "a red circle"])[2:], theirs)


def test_decoding_undoes_encoding(policy: Policy, rendered: tuple[list[str], torch.Tensor]) -> None:
    _, pixels = rendered
    mean, deviation = policy.encode(pixels)
    again = policy.decode(mean * policy.pipe.vae.config.scaling_factor)
    assert (again - pixels).abs().mean() < 0.02
    assert (deviation > 0).all()


def test_a_saved_lora_draws_the_same_pictures_in_diffusers_alone(
    policy: Policy, packaged: StableDiffusionPipeline, tmp_path: Path
) -> None:
    disturb(policy)
    settings = Settings(guidance_scale=2.0, num_inference_steps=4)
    ours = preview(policy, ["a red circle", "two blue stars"], settings, seed=3)
    policy.save_lora(tmp_path)
    pipe = copy.deepcopy(packaged)
    pipe.load_lora_weights(tmp_path)
    noise = [torch.Generator().manual_seed(3 + number) for number in range(2)]
    pictures = pipe(
        ["a red circle", "two blue stars"], num_inference_steps=4, guidance_scale=2.0, generator=noise
    ).images
    assert ours.tobytes() == grid(pictures).tobytes()
    weights = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert all(name.startswith("unet.") for name in weights)
    assert any(weight.abs().sum() > 0 for name, weight in weights.items() if "lora_B" in name or "up" in name)


def test_a_lora_put_back_is_the_only_one_and_is_trained_on(packaged: StableDiffusionPipeline) -> None:
    trained = new_policy(packaged)
    disturb(trained)
    fresh = new_policy(packaged, seed=9)
    fresh.set_lora(trained.lora())
    assert list(fresh.pipe.unet.peft_config) == ["default"]
    for ours, theirs in zip(fresh.trainable, trained.trainable, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.requires_grad


def test_the_seed_decides_where_the_lora_starts(packaged: StableDiffusionPipeline) -> None:
    one, same, other = (new_policy(packaged, seed=seed).lora() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_weights_of_another_lora_are_refused_and_change_nothing(packaged: StableDiffusionPipeline) -> None:
    policy, other = new_policy(packaged, rank=4), new_policy(packaged, rank=2)
    before = [weight.clone() for weight in policy.trainable]
    missing = dict(list(policy.lora().items())[1:])
    for weights in (other.lora(), missing, {**policy.lora(), "another": torch.zeros(1)}):
        with pytest.raises(ValueError, match="another LoRA"):
            policy.set_lora(weights)
    assert all(torch.equal(weight, was) for weight, was in zip(policy.trainable, before, strict=True))
