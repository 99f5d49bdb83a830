"""A denoiser with a LoRA: predictions, guidance, embeddings, latents, and the LoRA put in and out."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import get_peft_model
from safetensors.torch import load_file

from tests.hostile.folders import change
from tests.tuning.conftest import disturb, new_policy
from vpctl.contracts import Settings
from vpctl.errors import UserError
from vpctl.generators import shapes
from vpctl.models import sources
from vpctl.models.denoiser import open_denoiser
from vpctl.models.denoiser.conditioning import Conditioning, Embeddings
from vpctl.models.denoiser.latents import Posteriors
from vpctl.models.denoiser.lora import FusedLinear, lora_config
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.tuning.preview import grid, preview


def test_a_new_policy_is_its_reference_and_a_trained_one_is_not(policy: StableDiffusion) -> None:
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


def test_the_reference_is_left_even_through_an_error(policy: StableDiffusion) -> None:
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
    policy = StableDiffusion(half, rank=4, seed=0)
    assert {weight.dtype for weight in policy.trainable} == {torch.float32}
    names = {name for name, weight in policy.pipe.unet.named_parameters() if weight.requires_grad}
    assert names
    assert all("lora_" in name for name in names)
    assert not any(weight.requires_grad for weight in policy.pipe.text_encoder.parameters())


def test_nothing_is_trained_through_float16(packaged: StableDiffusionPipeline) -> None:
    halved = copy.deepcopy(packaged).to(dtype=torch.float16)
    policy = new_policy(halved)
    assert policy.pipe.unet.dtype == policy.pipe.vae.dtype == policy.pipe.text_encoder.dtype == torch.float32
    tiny = policy.predict(torch.randn(1, 4, 8, 8), torch.tensor([500]), policy.embed(["a red circle"])).mean() * 1e-7
    tiny.backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in policy.trainable)


def test_checkpointing_changes_no_gradient(packaged: StableDiffusionPipeline) -> None:
    found = []
    for checkpointing in (False, True):
        policy = StableDiffusion(copy.deepcopy(packaged), rank=4, seed=0, checkpointing=checkpointing)
        disturb(policy)
        given = policy.embed(["a red circle"])
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        predicted = policy.predict(latents, torch.tensor([300]), given)
        with policy.reference():
            policy.predict(latents, torch.tensor([300]), given)
        policy.decode(predicted).square().sum().backward()
        found.append([weight.grad for weight in policy.trainable])
        assert policy.pipe.unet.is_gradient_checkpointing == checkpointing
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None
        assert ours.any()
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_guidance_is_a_step_beyond_the_unguided_prediction(policy: StableDiffusion) -> None:
    latents, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([300, 300])
    given, nothing = policy.embed(["a red circle", "two blue stars"]), policy.embed(["", ""])
    with torch.no_grad():
        with_text = policy.predict(latents, timesteps, given)
        without = policy.predict(latents, timesteps, nothing)
        guided = policy.predict(latents, timesteps, given, guidance=3.0)
    torch.testing.assert_close(guided, without + 3 * (with_text - without), atol=1e-4, rtol=1e-4)


def test_prompts_are_embedded_as_the_pipeline_embeds_them_whatever_they_come_with(policy: StableDiffusion) -> None:
    theirs, _ = policy.pipe.encode_prompt(["a red circle"], policy.device, 1, do_classifier_free_guidance=False)
    ours = policy.embed(["two blue stars", "a red circle", "a red circle"])[2:]
    torch.testing.assert_close(ours.tensors, (theirs,))


def test_decoding_undoes_encoding(policy: StableDiffusion, rendered: tuple[list[str], torch.Tensor]) -> None:
    _, pixels = rendered
    posteriors = policy.encode(pixels)
    again = policy.decode(posteriors.scale(posteriors.mean.float()))
    assert (again - pixels).abs().mean() < 0.02
    assert (posteriors.std > 0).all()


def test_a_saved_lora_draws_the_same_pictures_in_diffusers_alone(
    policy: StableDiffusion, packaged: StableDiffusionPipeline, tmp_path: Path
) -> None:
    disturb(policy)
    settings = Settings(guidance_scale=2.0, num_inference_steps=4)
    ours = preview(policy, ["a red circle", "two blue stars"], settings, seed=3)
    policy.trained.save(tmp_path)
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
    fresh.trained.load(trained.trained.weights())
    assert list(fresh.pipe.unet.peft_config) == ["default"]
    for ours, theirs in zip(fresh.trainable, trained.trainable, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.requires_grad


def test_the_seed_decides_where_the_lora_starts(packaged: StableDiffusionPipeline) -> None:
    one, same, other = (new_policy(packaged, seed=seed).trained.weights() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_weights_of_another_lora_are_refused_and_change_nothing(packaged: StableDiffusionPipeline) -> None:
    policy, other = new_policy(packaged, rank=4), new_policy(packaged, rank=2)
    before = [weight.clone() for weight in policy.trainable]
    missing = dict(list(policy.trained.weights().items())[1:])
    for weights in (other.trained.weights(), missing, {**policy.trained.weights(), "another": torch.zeros(1)}):
        with pytest.raises(ValueError, match="another model"):
            policy.trained.load(weights)
    assert all(torch.equal(weight, was) for weight, was in zip(policy.trainable, before, strict=True))


@pytest.mark.parametrize("shapes_of_a_row", [[(7, 5)], [(7, 5), (3,)]], ids=["tokens", "tokens-and-pooled"])
def test_conditioning_is_indexed_repeated_and_joined_by_prompt(shapes_of_a_row: list[tuple[int, ...]]) -> None:
    rows = torch.arange(4.0)
    conditioning = Conditioning(tuple(rows.view(4, *[1] * len(shape)).expand(4, *shape) for shape in shapes_of_a_row))
    assert len(conditioning) == 4
    doubled = conditioning[1:3].repeat(2)
    joined = Conditioning.cat([doubled, conditioning[:1]])
    for tensor, whole in zip(joined.tensors, conditioning.tensors, strict=True):
        assert tensor.shape[1:] == whole.shape[1:]
        assert tensor.flatten(1)[:, 0].tolist() == [1, 2, 1, 2, 0]


def test_a_prompt_is_encoded_once_until_too_many_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []

    def encode(prompt: str) -> Conditioning:
        encoded.append(prompt)
        return Conditioning((torch.tensor([[float(len(prompt))]], dtype=torch.bfloat16),))

    monkeypatch.setattr("vpctl.models.denoiser.conditioning.REMEMBERED", 2)
    embed = Embeddings(encode, torch.device("cpu"))
    assert embed(["a", "bbb", "a"]).tensors[0].flatten().tolist() == [1, 3, 1]
    assert embed(["cc", "bbb"]).tensors[0].dtype == torch.float32
    embed(["bbb"])
    embed(["a"])
    assert encoded == ["a", "bbb", "cc", "a"]


def test_the_posterior_of_a_picture_is_drawn_from_and_scaled(policy: StableDiffusion) -> None:
    posteriors = policy.encode(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert posteriors.mean.dtype == posteriors.std.dtype == torch.float16
    both = Posteriors.cat([posteriors, posteriors[torch.tensor([2, 0])]])
    drawn = both.draw(torch.Generator().manual_seed(1))
    noise = torch.randn(5, *policy.latent_shape, generator=torch.Generator().manual_seed(1))
    mean, std = (part[[0, 1, 2, 2, 0]].float() for part in (posteriors.mean, posteriors.std))
    assert torch.equal(drawn, (mean + std * noise) * policy.pipe.vae.config.scaling_factor)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_pictures_are_noised_and_the_target_is_what_the_model_predicts(
    packaged: StableDiffusionPipeline, prediction: str
) -> None:
    pipe = copy.deepcopy(packaged)
    pipe.scheduler.register_to_config(prediction_type=prediction)
    policy = StableDiffusion(pipe, rank=1, seed=0)
    clean, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    timesteps = torch.tensor([10, 900])
    noisy, target = policy.noised(clean, noise, timesteps)
    alpha = policy.scheduler.alphas_cumprod[timesteps].view(2, 1, 1, 1)
    torch.testing.assert_close(noisy, alpha.sqrt() * clean + (1 - alpha).sqrt() * noise)
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    torch.testing.assert_close(target, noise if prediction == "epsilon" else velocity)


def test_a_pipeline_that_cannot_be_tuned_is_refused_before_and_after_it_is_loaded(
    packaged: StableDiffusionPipeline, tmp_path: Path
) -> None:
    said = r"^--model diffusion:\S+: a PixArtAlphaPipeline; only Stable Diffusion 1, 2, XL and 3, FLUX.1"
    folder = shutil.copytree(shapes.WEIGHTS / "small", tmp_path / "pipe")
    sources.check_tunable(str(folder), option="--model diffusion:")
    assert open_denoiser(copy.deepcopy(packaged), rank=1, targets="to_q", source="x", seed=0).trainable
    change(folder / "scheduler" / "scheduler_config.json", prediction_type="sample")
    with pytest.raises(UserError, match="pipe: predicts sample; only models that predict epsilon or"):
        sources.check_tunable(str(folder), option="--model diffusion:")
    pipe = copy.deepcopy(packaged)
    pipe.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(UserError, match=r"^--model x: predicts sample; only models that predict epsilon or"):
        open_denoiser(pipe, rank=1, targets="to_q", source="x", seed=0)
    change(folder / "model_index.json", _class_name="PixArtAlphaPipeline")
    with pytest.raises(UserError, match=said):
        sources.check_tunable(str(folder), option="--model diffusion:")
    other = type("PixArtAlphaPipeline", (), {})()
    with pytest.raises(UserError, match=said):
        open_denoiser(other, rank=1, targets="to_q", source="diffusion:x", seed=0)


def test_a_fused_lora_is_that_of_peft_with_its_gradients() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(6, 5))
    results = []
    for fused in (False, True):
        config = lora_config(2, ["0"])
        config.lora_alpha = 3
        if not fused:
            config._custom_modules = None
        torch.manual_seed(1)
        model = get_peft_model(copy.deepcopy(plain), config)
        assert isinstance(model.base_model.model[0], FusedLinear) == fused
        trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
        for one in trained.values():
            torch.nn.init.normal_(one)
        x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2)).requires_grad_()
        model(x).square().sum().backward()
        with model.disable_adapter():
            assert torch.equal(model(x), plain(x))
        model.add_adapter("second", config)
        model.base_model.set_adapter(["default", "second"])
        results.append([model(x), x.grad, *(one.grad for one in trained.values())])
    assert len(results[0]) == 4
    for ours, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_layer_that_the_model_does_not_have_is_told(packaged: StableDiffusionPipeline) -> None:
    with pytest.raises(
        UserError, match=r"--lora-targets to_x: the model has no such layer; it has, for example, conv_out"
    ):
        StableDiffusion(copy.deepcopy(packaged), rank=4, seed=0, targets="to_q,to_x")
