"""Stable Diffusion XL, as a tiny random pipeline: what its UNet is given, and what each algorithm does with it."""

import copy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image, ImageStat
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.conftest import Run as Command
from tests.conftest import write_lines
from tests.hostile.folders import change
from tests.tuning.conftest import disturb, new_policy, new_tuner
from vpctl.configs import D3POConfig, DDPOConfig, DPOConfig, KTOConfig, PPOConfig, ReFLConfig, RoundConfig
from vpctl.contracts import Reward, Settings
from vpctl.errors import UserError
from vpctl.images.pictures import Pictures
from vpctl.models import hub, sources
from vpctl.models.denoiser import Denoiser, open_denoiser
from vpctl.models.denoiser.sdxl import StableDiffusionXL
from vpctl.models.denoiser.unet import UNetDenoiser
from vpctl.models.tensors import from_pictures
from vpctl.shapes.pretraining.text import MAX_LENGTH, new_tokenizer
from vpctl.tuning.d3po import D3PO
from vpctl.tuning.ddpo import DDPO
from vpctl.tuning.dpo import DiffusionDPO, Preference, dpo_logits, four_errors, noised_pairs
from vpctl.tuning.encoding import EncodedPictures
from vpctl.tuning.kto import DiffusionKTO, RatedPicture
from vpctl.tuning.loop import Algorithm
from vpctl.tuning.objective import Objective
from vpctl.tuning.preview import grid, preview
from vpctl.tuning.refl import Pretraining, ReFL
from vpctl.tuning.rollout import roll_out, seeded_noise
from vpctl.tuning.sampler import open_sampler

PROMPTS = ["a red circle", "two blue stars"]
SIDE = 32


def pipeline_of(prediction: str, **config: Any) -> StableDiffusionXLPipeline:
    """A random pipeline whose text encoders are 32 and 64 wide, and whose pictures are 32 × 32."""
    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    encoders = [
        kind(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=width,
                num_hidden_layers=2,
                num_attention_heads=2,
                projection_dim=24,
                max_position_embeddings=MAX_LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        for kind, width in ((CLIPTextModel, 32), (CLIPTextModelWithProjection, 64))
    ]
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=96,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
    )
    with torch.no_grad():  # random embeddings hardly change a random UNet; make it listen to them
        for layer in (unet.add_embedding.linear_1, unet.add_embedding.linear_2):
            layer.weight.mul_(4)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        scaling_factor=0.13025,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=tokenizer,
        tokenizer_2=copy.deepcopy(tokenizer),
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
        **config,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def xl() -> StableDiffusionXLPipeline:
    """Take a copy before you change it."""
    return pipeline_of("epsilon")


@pytest.fixture
def xl_policy(xl: StableDiffusionXLPipeline) -> StableDiffusionXL:
    return StableDiffusionXL(copy.deepcopy(xl), rank=4, seed=0)


@pytest.fixture(scope="module")
def xl_folder(xl: StableDiffusionXLPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("xl")
    xl.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("zeros", [True, False])
def test_a_run_without_noise_ends_where_the_pipeline_ends(prediction: str, guidance: float, zeros: bool) -> None:
    """The pipeline's own loop with DDIM, from the same first latents, is the measure of every input of the UNet."""
    pipe = pipeline_of(prediction, force_zeros_for_empty_prompt=zeros)
    policy = StableDiffusionXL(copy.deepcopy(pipe), rank=4, seed=0)
    disturb(policy)
    pipe.unet = policy.pipe.unet
    noise = seeded_noise(policy, [1, 2], 5)
    theirs = pipe(
        PROMPTS, num_inference_steps=4, guidance_scale=guidance, latents=noise[:, 0].clone(), output_type="latent"
    ).images
    ours = roll_out(policy, PROMPTS, noise, open_sampler(policy, 4, 0.0), guidance=guidance).latents[:, -1]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    if guidance > 1:  # the other notion of an empty prompt gives other latents
        other = StableDiffusionXL(pipeline_of(prediction, force_zeros_for_empty_prompt=not zeros), rank=4, seed=0)
        other.trained.load(policy.trained.weights())
        wrong = roll_out(other, PROMPTS, noise, open_sampler(other, 4, 0.0), guidance=guidance).latents[:, -1]
        assert (wrong - theirs).abs().max() > 1e-2


def unet_inputs(pipe: Any, compute: Callable[[], object]) -> list[dict[str, Any]]:
    """What the UNet is called with in `compute`, each time."""
    seen: list[dict[str, Any]] = []

    def remember(_: object, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        names = dict(zip(("sample", "timestep", "encoder_hidden_states"), positional, strict=False))
        seen.append({**names, **named})

    handle = pipe.unet.register_forward_pre_hook(remember, with_kwargs=True)
    compute()
    handle.remove()
    return seen


def test_the_unet_gets_what_the_pipeline_gives_it(xl_policy: StableDiffusionXL) -> None:
    pipe, latents = xl_policy.pipe, torch.randn(2, 4, 8, 8)
    [theirs] = unet_inputs(
        pipe, lambda: pipe(PROMPTS, num_inference_steps=1, guidance_scale=5.0, latents=latents, output_type="latent")
    )
    timesteps = torch.full((2,), int(theirs["timestep"]))
    [ours] = unet_inputs(pipe, lambda: xl_policy.predict(latents, timesteps, xl_policy.embed(PROMPTS), 5.0))
    for name in ("sample", "encoder_hidden_states"):
        torch.testing.assert_close(ours[name], theirs[name])
    added, expected = ours["added_cond_kwargs"], theirs["added_cond_kwargs"]
    torch.testing.assert_close(added["text_embeds"], expected["text_embeds"])
    assert torch.equal(added["time_ids"], expected["time_ids"])
    assert added["time_ids"].tolist() == [[SIDE, SIDE, 0, 0, SIDE, SIDE]] * 4
    assert not added["text_embeds"][:2].any(), "no prompt is zeros"
    assert not ours["encoder_hidden_states"][:2].any()


def test_a_dropped_prompt_is_what_guidance_takes_for_no_prompt(xl_policy: StableDiffusionXL) -> None:
    embedded, pooled, sizes = xl_policy.embed(["", "a red circle"]).tensors
    assert not embedded[0].any()
    assert not pooled[0].any()
    assert embedded[1].any()
    assert pooled[1].any()
    assert sizes.tolist() == [[SIDE, SIDE, 0, 0, SIDE, SIDE]] * 2


def test_an_embedding_is_the_same_to_the_bit_whatever_it_is_encoded_with(xl: StableDiffusionXLPipeline) -> None:
    """A resumed run encodes its prompts in other batches, and must end with the same weights."""
    alone, together = (StableDiffusionXL(copy.deepcopy(xl), rank=1, seed=0).embed for _ in range(2))
    prompts = [*PROMPTS, "three orange squares", ""]
    for row, prompt in enumerate(prompts):
        for one, other in zip(alone([prompt]).tensors, together(prompts).tensors, strict=True):
            assert torch.equal(one[0], other[row])


def test_guidance_keeps_the_sizes_of_the_pictures(xl_policy: StableDiffusionXL) -> None:
    sizes = torch.tensor([[1025.0, 771.0, 3.0, 0.0, 32.0, 32.0], [64.0, 64.0, 0.0, 7.0, 32.0, 32.0]])
    given = xl_policy.embed(PROMPTS, sizes)
    [inputs] = unet_inputs(
        xl_policy.pipe, lambda: xl_policy.predict(torch.randn(2, 4, 8, 8), torch.tensor([9, 9]), given, 3.0)
    )
    time_ids = inputs["added_cond_kwargs"]["time_ids"]
    assert time_ids.dtype == torch.float32, "bfloat16 makes 1024 of 1025"
    assert torch.equal(time_ids, torch.cat([sizes, sizes]))


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (32, 32, [32, 32, 0, 0, 32, 32]),
        (128, 64, [64, 128, 0, 16, 32, 32]),  # becomes 64 × 32, and 16 columns are cut off on each side
        (60, 200, [200, 60, 37, 0, 32, 32]),  # becomes 32 × 106.7, and 37.3 rows are cut off on each end
        (16, 24, [24, 16, 8, 0, 32, 32]),  # becomes 32 × 48: the crop is measured after enlarging
    ],
)
def test_sizes_say_what_is_done_to_a_picture(
    xl_policy: StableDiffusionXL, width: int, height: int, expected: list[int]
) -> None:
    picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    assert xl_policy.sizes([picture]).tolist() == [expected]
    top, left = expected[2:4]
    scale = SIDE / min(width, height)
    resized = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    cropped = resized.crop((left, top, left + SIDE, top + SIDE))
    assert (xl_policy.fitted([picture]) - from_pictures([cropped])).abs().max() < 0.03


def test_pairs_are_denoised_with_the_sizes_that_their_pictures_had(
    xl_policy: StableDiffusionXL, tmp_path: Path
) -> None:
    for number, size in enumerate([(128, 64), (40, 40)]):
        Image.effect_noise(size, 64).convert("RGB").save(tmp_path / f"{number}.png")
    names = [str(tmp_path / f"{number}.png") for number in range(2)]
    posteriors = EncodedPictures(names, xl_policy, Pictures([str(tmp_path)]), None)
    first, second = (posteriors.places[name] for name in names)
    pairs = [Preference(first, second, "a red circle"), Preference(second, first, "")]
    noised = noised_pairs(xl_policy, posteriors, pairs, 0.0, torch.Generator().manual_seed(0))[0:2]
    inputs, reference = unet_inputs(xl_policy.pipe, lambda: four_errors(xl_policy, noised))
    assert torch.equal(reference["added_cond_kwargs"]["time_ids"], inputs["added_cond_kwargs"]["time_ids"])
    wide, square = [64, 128, 0, 16, 32, 32], [40, 40, 0, 0, 32, 32]
    assert inputs["added_cond_kwargs"]["time_ids"].tolist() == [wide, square, square, wide]  # chosen, then rejected
    embedded, pooled, _ = xl_policy.embed(["a red circle", "", "a red circle", ""]).tensors
    assert torch.equal(inputs["encoder_hidden_states"], embedded)
    assert torch.equal(inputs["added_cond_kwargs"]["text_embeds"], pooled)


def test_latents_are_scaled_as_the_pipeline_scales_them(xl: StableDiffusionXLPipeline) -> None:
    mean, std = [0.5, -1.0, 2.0, 0.0], [2.0, 0.5, 1.0, 4.0]
    for statistics in ({}, {"latents_mean": mean, "latents_std": std}, {"latents_mean": mean}):
        pipe = copy.deepcopy(xl)
        pipe.vae.register_to_config(**statistics)
        policy = StableDiffusionXL(pipe, rank=1, seed=0)
        latents = torch.randn(2, 4, 8, 8)
        theirs = pipe(
            PROMPTS, num_inference_steps=1, latents=latents, output_type="pt", generator=torch.manual_seed(0)
        ).images
        end = pipe(PROMPTS, num_inference_steps=1, latents=latents, output_type="latent").images
        torch.testing.assert_close(policy.decode(end), theirs, atol=1e-5, rtol=1e-5)
        pixels = torch.rand(2, 3, SIDE, SIDE)
        posteriors = policy.encode(pixels)
        own = pipe.vae.encode(2 * pixels - 1).latent_dist.mean.detach()
        whole = len(statistics) == 2
        shift = torch.tensor(mean).view(4, 1, 1) if whole else 0
        divisor = torch.tensor(std).view(4, 1, 1) if whole else 1
        expected = (own - shift) / divisor * 0.13025
        torch.testing.assert_close(posteriors.scale(posteriors.mean.float()), expected, atol=1e-3, rtol=1e-3)


def test_only_the_attention_of_the_unet_is_trained_and_all_is_in_float32(xl: StableDiffusionXLPipeline) -> None:
    policy = StableDiffusionXL(copy.deepcopy(xl).to(dtype=torch.float16), rank=4, seed=0)
    parts = [one for one in policy.pipe.components.values() if isinstance(one, torch.nn.Module)]
    assert len(parts) == 4
    assert {weight.dtype for part in parts for weight in part.parameters()} == {torch.float32}
    named = [(name, one) for part in parts for name, one in part.named_parameters() if one.requires_grad]
    assert {id(one) for _, one in named} == {id(one) for one in policy.trainable}
    assert all(".attn" in name and "lora_" in name for name, _ in named)
    # Four transformers of two blocks, each with two attentions of four layers, and two weights for each layer.
    assert len(named) == 4 * 2 * 2 * 4 * 2


def test_a_new_policy_is_its_reference(xl_policy: StableDiffusionXL) -> None:
    arguments = torch.randn(2, 4, 8, 8), torch.tensor([40, 900]), xl_policy.embed(PROMPTS), 5.0
    ours = xl_policy.predict(*arguments)
    with xl_policy.reference():
        reference = xl_policy.predict(*arguments)
    assert torch.equal(ours, reference)
    assert ours.requires_grad
    disturb(xl_policy)
    assert not torch.allclose(xl_policy.predict(*arguments), reference)


class Redness:
    """The mean of the red channel, for pictures and for tensors."""

    differentiable = True

    def __call__(self, images: Any, prompts: list[str]) -> Any:
        if isinstance(images, torch.Tensor):
            return images[:, 0].mean((1, 2))
        return [ImageStat.Stat(one).mean[0] / 255 for one in images]


def objective() -> Objective:
    return Objective({"redness": cast(Reward, Redness())}, {"redness": 1.0})


def ddpo(policy: Denoiser) -> Algorithm:
    config = PPOConfig(epochs=2, prompts_per_epoch=2, images=2, batch=2)
    groups = RoundConfig(updates=1), DDPOConfig()
    return DDPO(new_tuner(policy, config), PROMPTS, objective(), config, *groups, steps=3, guidance=5.0)


def refl(policy: Denoiser) -> Algorithm:
    config = PPOConfig(epochs=2, prompts_per_epoch=2, images=2, batch=2)
    pixels = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    posteriors = policy.encode(pixels, torch.tensor([[64.0, 64, 0, 0, 32, 32]] * 2))
    shown = Pretraining(posteriors, [0, 1], PROMPTS)
    tuner = new_tuner(policy, config)
    return ReFL(tuner, PROMPTS, objective(), config, ReFLConfig(), steps=3, guidance=5.0, pretraining=shown)


def dpo(policy: Denoiser) -> Algorithm:
    config = DPOConfig(max_steps=2, batch=2, accumulate=1, warmup=0)
    pairs = [Preference(0, 1, "a red circle"), Preference(1, 2, "two blue stars")]
    posteriors = policy.encode(torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    return DiffusionDPO(new_tuner(policy, config), posteriors, pairs, config)


def kto(policy: Denoiser) -> Algorithm:
    config = DPOConfig(max_steps=2, batch=3, accumulate=1, warmup=0, beta=1000.0)
    ratings = [RatedPicture(0, PROMPTS[0], True), RatedPicture(1, PROMPTS[1], False)]
    posteriors = policy.encode(torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    return DiffusionKTO(new_tuner(policy, config), posteriors, ratings, config, KTOConfig())


def d3po(policy: Denoiser) -> Algorithm:
    config = DPOConfig(max_steps=2, batch=1, accumulate=2, warmup=0)
    tuner = new_tuner(policy, config)
    return D3PO(tuner, PROMPTS, objective(), config, D3POConfig(), steps=3, guidance=5.0)


ALGORITHMS = [ddpo, refl, dpo, kto, d3po]


@pytest.fixture(params=["xl", "xl-velocity", "sd-velocity"])
def any_pipeline(request: pytest.FixtureRequest, xl: StableDiffusionXLPipeline, packaged: Any) -> Any:
    """SDXL in both predictions, and a model like Stable Diffusion 2.1, which predicts the velocity."""
    if request.param == "xl":
        return xl
    if request.param == "xl-velocity":
        return pipeline_of("v_prediction")
    pipe = copy.deepcopy(packaged)
    pipe.scheduler.register_to_config(prediction_type="v_prediction")
    return pipe


def opened(pipe: Any, seed: int = 0) -> UNetDenoiser:
    policy = open_denoiser(copy.deepcopy(pipe), rank=4, targets="to_q,to_k,to_v,to_out.0", source="x", seed=seed)
    assert isinstance(policy, UNetDenoiser)
    return policy


@pytest.mark.parametrize(
    ("any_pipeline", "algorithm"),
    [*product(["xl", "sd-velocity"], ALGORITHMS), ("xl-velocity", dpo)],
    indirect=["any_pipeline"],
)
def test_every_algorithm_trains_it_and_resumes_exactly(
    any_pipeline: Any, algorithm: Callable[[Denoiser], Algorithm]
) -> None:
    policy, again = opened(any_pipeline), opened(any_pipeline, seed=7)
    before = {name: weight.clone() for name, weight in policy.trained.weights().items()}
    training, resumed = algorithm(policy), algorithm(again)
    first = training.step(1)
    assert all(torch.tensor(value).isfinite() for value in first.values())
    if algorithm is ddpo:
        assert first["ratio_mean"] == pytest.approx(1, abs=1e-6)
    if algorithm in (dpo, d3po):
        assert first["loss"] == pytest.approx(0.6931472, abs=1e-6)
    ups = [name for name in before if "lora_B" in name]
    assert ups
    assert any((policy.trained.weights()[name] != before[name]).any() for name in ups)
    assert all(policy.trained.weights()[name].isfinite().all() for name in before)
    resumed.load_state_dict(copy.deepcopy(training.state_dict()))
    assert training.step(2) == resumed.step(2)
    for ours, theirs in zip(again.trainable, policy.trainable, strict=True):
        assert torch.equal(ours, theirs)


def test_only_the_pretraining_of_refl_has_the_sizes_of_its_pictures(xl_policy: StableDiffusionXL) -> None:
    training = refl(xl_policy)
    inputs = unet_inputs(xl_policy.pipe, lambda: training.step(1))
    seen = [one["added_cond_kwargs"]["time_ids"].tolist() for one in inputs]
    drawn, shown = [SIDE, SIDE, 0, 0, SIDE, SIDE], [64, 64, 0, 0, SIDE, SIDE]
    assert seen[-2:] == [[shown] * 2] * 2, "four pictures in batches of two"
    assert all(row == drawn for rows in seen[:-2] for row in rows)


def test_it_learns_which_picture_is_preferred(xl_policy: StableDiffusionXL) -> None:
    config = DPOConfig(max_steps=30, batch=8, accumulate=1, warmup=0, learning_rate=2e-3, beta=500.0)
    pixels = torch.cat([torch.full((1, 3, SIDE, SIDE), 0.9), torch.rand(1, 3, SIDE, SIDE)])
    posteriors = xl_policy.encode(pixels)
    pairs = [Preference(0, 1, "a red circle")] * 8
    training = DiffusionDPO(new_tuner(xl_policy, config), posteriors, pairs, config)
    for number in range(30):
        training.step(number + 1)
    asked = noised_pairs(xl_policy, posteriors, pairs * 4, 0.0, torch.Generator().manual_seed(77))
    with torch.no_grad():
        assert float(dpo_logits(*four_errors(xl_policy, asked), beta=500).mean()) > 0.1


def test_the_saved_lora_draws_the_same_pictures_in_diffusers_alone(any_pipeline: Any, tmp_path: Path) -> None:
    policy = opened(any_pipeline)
    disturb(policy, 0.2)
    ours = preview(policy, PROMPTS, Settings(guidance_scale=5.0, num_inference_steps=3), seed=3)
    policy.trained.save(tmp_path, "kohya")
    pictures = {}
    for name in ("untuned", "tuned", "kohya"):
        pipe = copy.deepcopy(any_pipeline)
        pipe.set_progress_bar_config(disable=True)
        if name == "tuned":
            pipe.load_lora_weights(tmp_path)
        if name == "kohya":
            pipe.load_lora_weights(tmp_path, weight_name="lora_kohya.safetensors")
        noise = [torch.Generator().manual_seed(3 + number) for number in range(2)]
        drawn = pipe(PROMPTS, num_inference_steps=3, guidance_scale=5.0, generator=noise).images
        pictures[name] = grid(drawn).tobytes()
    assert ours.tobytes() == pictures["tuned"] == pictures["kohya"]
    assert ours.tobytes() != pictures["untuned"]


def test_the_export_has_the_names_that_kohya_and_comfyui_read(xl_policy: StableDiffusionXL, tmp_path: Path) -> None:
    disturb(xl_policy)
    xl_policy.trained.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["pytorch_lora_weights.safetensors"]
    xl_policy.trained.save(tmp_path, "kohya")
    exported = load_file(tmp_path / "lora_kohya.safetensors")
    assert len(exported) == 3 * len(xl_policy.trainable) // 2
    layer = "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_out.0"
    own, name = xl_policy.trained.weights(), f"lora_unet_{layer.replace('.', '_')}"
    assert torch.equal(exported[f"{name}.lora_down.weight"], own[f"{layer}.lora_A.weight"])
    assert torch.equal(exported[f"{name}.lora_up.weight"], own[f"{layer}.lora_B.weight"])
    assert float(exported[f"{name}.alpha"]) == 4, "the rank, so that the weights are added as they are"


def test_a_lora_of_another_family_is_refused_in_one_line(
    xl: StableDiffusionXLPipeline, packaged: Any, xl_folder: Path, tmp_path: Path
) -> None:
    StableDiffusionXL(copy.deepcopy(xl), rank=2, seed=0).trained.save(tmp_path / "xl-lora")
    new_policy(packaged, rank=2).trained.save(tmp_path / "sd-lora")
    packaged.save_pretrained(tmp_path / "sd")
    own, other = (sources.check("pipeline", str(one), option="--model ") for one in (xl_folder, tmp_path / "sd"))
    sources.check_adapter(str(tmp_path / "xl-lora"), own)
    sources.check_adapter(str(tmp_path / "sd-lora"), other)
    for lora, folder, pipe in (("sd-lora", own, xl), ("xl-lora", other, packaged)):
        with pytest.raises(UserError, match=rf"^--adapter \S+{lora}: belongs to another model: .*$"):
            sources.check_adapter(str(tmp_path / lora), folder)
        # The shapes of a pipeline on the hub are known only after it is fetched; then the library meets the LoRA.
        with pytest.raises(UserError, match=rf"^--adapter {lora}: \S.*$") as caught:
            hub.add_lora(copy.deepcopy(pipe), str(tmp_path / lora), where=f"--adapter {lora}")
        assert "\n" not in str(caught.value)


def test_a_folder_of_sdxl_can_be_tuned_unless_its_scheduler_is_that_of_edm(xl_folder: Path, tmp_path: Path) -> None:
    sources.check_tunable(str(xl_folder), option="--model diffusion:", steps=10)
    copied = tmp_path / "copied"
    pipe = StableDiffusionXLPipeline.from_pretrained(xl_folder)
    pipe.save_pretrained(copied)
    change(copied / "scheduler" / "scheduler_config.json", sigma_data=0.5)
    with pytest.raises(UserError, match="copied: its scheduler scales latents as EDM does; only models with"):
        sources.check_tunable(str(copied), option="--model diffusion:")


def test_the_commands_tune_and_draw_with_a_folder_of_sdxl(forked: Command, xl_folder: Path, tmp_path: Path) -> None:
    for number, size in enumerate([(48, 32), (32, 32)]):
        Image.effect_noise(size, 64).convert("RGB").save(tmp_path / f"{number}.png")
    pair = {"prompt_id": "p", "prompt": "a red circle", "chosen_file_name": "0.png", "rejected_file_name": "1.png"}
    write_lines(tmp_path / "pairs.jsonl", [{**pair, "margin": 1.0}])
    model = f"diffusion:{xl_folder}"
    words = "--max-steps 2 --batch 1 --accumulate 1 --preview-every 0 --export kohya --out lora".split()
    tuned = forked("tune-dpo", "pairs.jsonl", "--model", model, *words)
    assert tuned.code == 0, tuned.err
    assert (tmp_path / "lora" / "lora_kohya.safetensors").is_file()
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    words = "--adapter lora --steps 2 --images 1 --out drawn/metadata.jsonl".split()
    drawn = forked("generate", "prompts.txt", "--model", model, *words)
    assert drawn.code == 0, drawn.err
    [picture] = (tmp_path / "drawn").glob("**/*.png")
    with Image.open(picture) as opened_picture:
        assert opened_picture.size == (SIDE, SIDE)
