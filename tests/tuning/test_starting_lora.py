"""A training that starts from a LoRA: what it begins with, what it is compared with, and what is refused."""

import copy
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from tests.conftest import Run as Command
from tests.conftest import write_lines
from tests.tuning import flows
from tests.tuning.conftest import Killed, Mortal, disturb, new_policy, new_tuner
from tests.tuning.test_dpo import Rendered, true_pairs
from tests.tuning.test_flow import dpo, grpo, kto, nft, refl
from tests.tuning.test_sdxl import d3po, ddpo, pipeline_of
from vpctl.configs import DPOConfig, OptimizerConfig
from vpctl.errors import UserError
from vpctl.generators.shapes import WEIGHTS
from vpctl.models import hub, sources
from vpctl.models.denoiser import Denoiser, open_denoiser
from vpctl.models.denoiser.pipeline import PipelineDenoiser
from vpctl.models.denoiser.sd import StableDiffusion
from vpctl.plugins import LORA_FILE
from vpctl.shapes.grammar import sample
from vpctl.shapes.render import render
from vpctl.tuning.asked import check_trained
from vpctl.tuning.dpo import DiffusionDPO, four_errors, noised_pairs
from vpctl.tuning.loop import Algorithm, train

PROMPTS = ["a red circle", "two blue stars"]


@pytest.fixture(params=["sd", "sdxl", "sd3", "flux"])
def pipe(request: pytest.FixtureRequest, packaged: StableDiffusionPipeline) -> Any:
    """A pipeline of each family; take a copy before you change it."""
    make: dict[str, Callable[[], Any]] = {
        "sd": lambda: packaged,
        "sdxl": lambda: pipeline_of("epsilon"),
        "sd3": flows.sd3,
        "flux": flows.flux,
    }
    return make[request.param]()


def opened(pipe: Any, **options: Any) -> PipelineDenoiser:
    policy = open_denoiser(copy.deepcopy(pipe), source="x", **{"rank": 8, "seed": 0, **options})
    assert isinstance(policy, PipelineDenoiser)
    return policy


def written(pipe: Any, folder: Path, *, rank: int = 3) -> Path:
    """The folder of a LoRA that does something."""
    policy = opened(pipe, rank=rank, seed=4)
    disturb(policy, 0.2)
    policy.trained.save(folder)
    return folder


def written_by_diffusers(pipe: StableDiffusionPipeline, folder: Path) -> Path:
    """A LoRA as diffusers' scripts write it: alphas that are not the ranks, and ranks that differ between layers."""
    policy = new_policy(pipe)
    unet = policy.pipe.unet
    unet.delete_adapters("default")
    unet.add_adapter(
        LoraConfig(
            r=4,
            lora_alpha=12,
            target_modules=["to_q", "to_v", "conv1"],
            rank_pattern={"to_v": 2},
            alpha_pattern={"to_v": 5},
            lora_dropout=0.5,
            init_lora_weights=False,
        )
    )
    metadata = {**unet.peft_config["default"].to_dict(), "target_modules": ["to_q", "to_v", "conv1"]}
    StableDiffusionPipeline.save_lora_weights(folder, policy.trained.weights(), unet_lora_adapter_metadata=metadata)
    return folder


def predicted(policy: Denoiser) -> torch.Tensor:
    latents = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return policy.predict(latents, torch.tensor([400, 900]), policy.embed(PROMPTS), 2.0)


def as_generated(pipe: Any, lora: Path) -> torch.Tensor:
    """The prediction of the model with which ``generate --adapter`` draws."""
    policy, tuned = opened(pipe), copy.deepcopy(pipe)
    hub.add_lora(tuned, str(lora), where="--adapter")
    setattr(policy.pipe, policy.part, getattr(tuned, policy.part))
    return predicted(policy)


def test_it_starts_as_generate_draws_and_the_reference_stays_there(pipe: Any, tmp_path: Path) -> None:
    lora = written(pipe, tmp_path / "lora")
    policy = opened(pipe, lora=str(lora / LORA_FILE))
    expected = as_generated(pipe, lora)
    torch.testing.assert_close(predicted(policy), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, predicted(opened(pipe)), atol=1e-3)
    start = predicted(policy)
    for _ in range(2):
        with policy.reference():
            assert torch.equal(predicted(policy), start)
        disturb(policy)
    assert not torch.allclose(predicted(policy), start, atol=1e-3)
    assert {one.shape[0] for name, one in policy.trained.weights().items() if "lora_A" in name} == {3}
    policy.trained.save(tmp_path / "tuned")
    torch.testing.assert_close(predicted(policy), as_generated(pipe, tmp_path / "tuned"), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("algorithm", [grpo, refl, nft, dpo, kto, ddpo, d3po])
def test_with_every_algorithm_the_reference_stays_and_a_restart_is_exact(
    tmp_path: Path, algorithm: Callable[[Denoiser], Algorithm]
) -> None:
    pipe = flows.sd3()
    lora = str(written(pipe, tmp_path))
    policy, again = opened(pipe, lora=lora), opened(pipe, lora=lora)
    start = predicted(policy)
    training, resumed = algorithm(policy), algorithm(again)
    training.step(1)
    assert not torch.equal(predicted(policy), start)
    resumed.load_state_dict(copy.deepcopy(training.state_dict()))
    assert training.step(2) == resumed.step(2)
    for one in (policy, again):
        with one.reference():
            assert torch.equal(predicted(one), start)


def test_ranks_alphas_and_layers_are_those_of_the_file_and_of_the_result(
    packaged: StableDiffusionPipeline, tmp_path: Path
) -> None:
    lora = written_by_diffusers(packaged, tmp_path / "lora")
    policy = opened(packaged, lora=str(lora))
    torch.testing.assert_close(predicted(policy), as_generated(packaged, lora), atol=1e-5, rtol=1e-4)
    policy.model.train()  # dropout would show now
    assert torch.equal(predicted(policy), predicted(policy))
    disturb(policy)
    policy.trained.save(tmp_path / "tuned", "kohya")
    torch.testing.assert_close(predicted(policy), as_generated(packaged, tmp_path / "tuned"), atol=1e-5, rtol=1e-4)
    kohya = load_file(tmp_path / "tuned" / "lora_kohya.safetensors")
    alphas = {name.removesuffix(".alpha")[-4:]: float(one) for name, one in kohya.items() if name.endswith(".alpha")}
    assert alphas == {"to_q": 12, "to_v": 5, "onv1": 12}
    assert {one.dtype for one in policy.trainable} == {torch.float32}


@pytest.mark.parametrize("alpha", [3, 6])
def test_only_the_layers_of_the_file_are_trained(tmp_path: Path, alpha: int) -> None:
    """FLUX has layers whose whole name is the end of another one's name."""
    pipe = flows.flux()
    policy = opened(pipe, rank=3, targets="proj_out")
    disturb(policy, 0.2)
    weights = policy.trained.weights()
    assert {name.split(".lora_")[0] for name in weights} == {"proj_out", "single_transformer_blocks.0.proj_out"}
    config = {"r": 3, "lora_alpha": alpha, "target_modules": ["proj_out"]}
    one = {name: weight for name, weight in weights.items() if name.startswith("proj_out.")}
    pipe.save_lora_weights(tmp_path / "one", one, transformer_lora_adapter_metadata=config)
    started = opened(pipe, lora=str(tmp_path / "one"))
    assert started.trained.weights().keys() == one.keys()
    assert len(started.trainable) == 2
    torch.testing.assert_close(predicted(started), as_generated(pipe, tmp_path / "one"), atol=1e-5, rtol=1e-4)
    started.trained.save(tmp_path / "again")
    again = opened(pipe, lora=str(tmp_path / "again"))
    assert torch.equal(predicted(again), predicted(started))


def dpo_loss_of(policy: Denoiser, reference: tuple[torch.Tensor, ...], pairs: Any, beta: float) -> torch.Tensor:
    """Wallace et al. 2024, equation 14, in plain words."""
    errors = []
    for clean, sizes in zip((pairs.chosen, pairs.rejected), pairs.sizes.unbind(1), strict=True):
        noisy, target = policy.noised(clean, pairs.noise, pairs.timesteps)
        guess = policy.predict(noisy, pairs.timesteps, policy.embed(pairs.prompts, sizes))
        errors.append(((guess - target) ** 2).mean((1, 2, 3)))
    gain = (errors[0] - reference[0]) - (errors[1] - reference[1])
    return -torch.log(1 / (1 + torch.exp(beta / 2 * gain))).mean()


def test_the_first_loss_of_dpo_is_log_2_and_its_gradient_that_of_diffusers_own_model(
    packaged: StableDiffusionPipeline, rendered: Rendered, tmp_path: Path
) -> None:
    lora = written(packaged, tmp_path)
    policy = opened(packaged, lora=str(lora))
    pairs = noised_pairs(policy, policy.encode(rendered[1]), true_pairs(rendered), 0.0, torch.Generator())[:4]
    *errors, chosen, rejected = four_errors(policy, pairs)
    torch.testing.assert_close(torch.stack(errors), torch.stack([chosen, rejected]))
    loss = dpo_loss_of(policy, (chosen, rejected), pairs, 500.0)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    loss.backward()

    alone = opened(packaged)
    hub.add_lora(tuned := copy.deepcopy(packaged), str(lora), where="x")
    alone.pipe.unet = tuned.unet.requires_grad_(False)
    theirs = {name: one.requires_grad_() for name, one in tuned.unet.named_parameters() if "lora_" in name}
    with torch.no_grad():
        fixed = four_errors(alone, pairs)[:2]
    dpo_loss_of(alone, fixed, pairs, 500.0).backward()
    ours = {name: one.grad for name, one in policy.model.named_parameters() if one.requires_grad}
    assert len(ours) == len(theirs) > 10
    for name, gradient in ours.items():
        assert gradient is not None
        expected = theirs[name.replace("default", "default_0")].grad
        assert expected is not None
        torch.testing.assert_close(gradient, expected, atol=2e-4, rtol=1e-3)


def test_killed_and_resumed_is_equal_to_uninterrupted(
    packaged: StableDiffusionPipeline, rendered: Rendered, tmp_path: Path
) -> None:
    lora = written(packaged, tmp_path / "lora")
    config = DPOConfig(max_steps=3, batch=4, accumulate=1, warmup=0, save_every=1, ema=0.5, learning_rate=1e-3)
    found = []
    for name, last in (("whole", 0), ("cut", 2), ("cut", 0)):
        policy = opened(packaged, lora=str(lora))
        tuner = new_tuner(policy, config)
        algorithm = DiffusionDPO(tuner, policy.encode(rendered[1]), true_pairs(rendered), config)
        with Mortal(tmp_path / name, {"max_steps": 3}, last=last) as run:
            if last:
                with pytest.raises(Killed):
                    train(algorithm, run, save_every=1, evaluate=lambda _: {})
                continue
            train(algorithm, run, save_every=1, evaluate=lambda _: {})
        with policy.reference():
            found.append(torch.cat([one.flatten() for one in (*policy.trainable, predicted(policy))]))
        found.append(torch.cat([one.detach().flatten() for one in policy.trainable]))
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut")]
    assert metrics[0] == metrics[1]


@pytest.fixture(scope="module")
def small_lora(packaged: StableDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(packaged, tmp_path_factory.mktemp("lora") / "small")


def refused(lora: Path | str, **options: Any) -> str:
    """What is said about a LoRA for the packaged model, before anything heavy is loaded."""
    try:
        check_trained(replace(OptimizerConfig(), lora=str(lora), **options), {})
        sources.check_tunable(str(WEIGHTS / "small"), option="--model ", lora=str(lora))
    except UserError as error:
        return str(error).replace(str(lora), "LORA")
    return "nothing"


def test_what_contradicts_the_lora_is_refused(small_lora: Path) -> None:
    for fitting in ({}, {"rank": 3}, {"lora_targets": "to_q,to_k, to_v,to_out.0"}):
        assert check_trained(replace(OptimizerConfig(), lora=str(small_lora), **fitting), {})
    assert check_trained(replace(OptimizerConfig(), lora=str(small_lora), rank=32), {"rank": 32})
    assert refused(small_lora, rank=4) == "--rank 4: --lora LORA is a LoRA of rank 3; leave --rank out"
    said = r"--lora-targets to_q: --lora LORA is a LoRA of unet\S+, too; leave --lora-targets out"
    assert re.fullmatch(said, refused(small_lora, lora_targets="to_q"))
    said = "--lora-targets conv1: --lora LORA is a LoRA of other layers; leave --lora-targets out"
    assert refused(small_lora, lora_targets="to_q,to_k,to_v,to_out.0,conv1") == said


def changed(name: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a LoRA that something is wrong with."""
    first = min(weights)
    match name:
        case "half":
            del weights[first]
        case "ranks":
            weights[first] = torch.zeros(5, 5)
        case "channels":
            weights = {key: one[:, :5] if ".down." in key else one for key, one in weights.items()}
        case "text":
            weights["text_encoder.q_proj.lora_linear_layer.down.weight"] = torch.zeros(3, 5)
        case "layer":
            weights = {key.replace("attn1", "attn7"): one for key, one in weights.items()}
    return {key: one.contiguous() for key, one in weights.items()}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("half", "--lora LORA: is incomplete: it has only one of the two matrices of unet."),
        ("ranks", "--lora LORA: is damaged: the matrices of unet."),
        ("channels", "--lora LORA: belongs to another model: "),
        ("layer", "--lora LORA: belongs to another model: there is no "),
        ("text", '--lora LORA: holds "text_encoder.q_proj.lora_linear_layer.down.weight", which cannot be trained; '),
    ],
)
def test_a_lora_that_does_not_fit_is_refused_before_it_is_loaded(
    small_lora: Path, tmp_path: Path, damage: str, said: str
) -> None:
    file = tmp_path / "x.safetensors"
    save_file(changed(damage, load_file(small_lora / LORA_FILE)), file)
    assert refused(file).startswith(said)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"lora_alpha": math.nan}, "has the scale nan in unet."),
        ({"lora_alpha": 0}, "has the scale 0 in unet."),
        ({"lora_alpha": math.inf}, "has the scale inf in unet."),
        ({"lora_alpha": 3, "alpha_pattern": {"to_q": -math.inf}}, "has the scale -inf in unet."),
        ({"lora_alpha": 3, "use_dora": True}, "is a DoRA, which cannot be trained; "),
    ],
)
def test_a_lora_with_a_damaged_scale_is_refused(
    small_lora: Path, packaged: StableDiffusionPipeline, tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    about = {"r": 3, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"], **config}
    written = {f"unet.{name}": one for name, one in about.items()}
    infinite = json.dumps(written).replace("Infinity", "1e400")
    weights = load_file(small_lora / LORA_FILE)
    save_file(weights, tmp_path / "x.safetensors", {"format": "pt", "lora_adapter_metadata": infinite})
    with pytest.raises(UserError) as caught:
        opened(packaged, lora=str(tmp_path / "x.safetensors"))
    assert str(caught.value).startswith(f"--lora {tmp_path}/x.safetensors: {said}")


def test_what_is_no_lora_is_refused(small_lora: Path, packaged: StableDiffusionPipeline, tmp_path: Path) -> None:
    torch.save({"lora_A": torch.zeros(1)}, tmp_path / "lora.pt")
    shutil.copy(tmp_path / "lora.pt", tmp_path / "lora.safetensors")
    assert refused(tmp_path / "lora.pt").startswith("--lora LORA: is a pickle, which is not opened; ")
    assert refused(tmp_path / "lora.safetensors").startswith("--lora LORA: lora.safetensors: is not a ")
    assert refused(tmp_path / "nowhere") == "--lora LORA: there is no such folder"
    written(pipeline_of("epsilon"), tmp_path / "xl")
    assert refused(tmp_path / "xl").startswith("--lora LORA: belongs to another model: ")
    written(flows.flux(), tmp_path / "flux")
    assert refused(tmp_path / "flux").startswith("--lora LORA: belongs to another model: it is for a transformer")
    for other in ("xl", "flux"):  # the shapes of a pipeline on the hub are known only when it is loaded
        with pytest.raises(UserError, match=r"^--lora \S+: (cannot be loaded|belongs to another model): .+$"):
            opened(packaged, lora=str(tmp_path / other))
    weights = load_file(small_lora / LORA_FILE)
    save_file({name: one / 0 for name, one in weights.items()}, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match=r"^--lora \S+nan.safetensors: \S+ is not finite; the training that wrote it"):
        StableDiffusion(copy.deepcopy(packaged), rank=8, seed=0, lora=str(tmp_path / "nan.safetensors"))


def test_the_command_knows_the_lora_by_its_content(forked: Command, small_lora: Path, tmp_path: Path) -> None:
    for number in range(2):
        render_to(tmp_path / f"{number}.png", number)
    pair = {"prompt_id": "p", "prompt": "a red circle", "chosen_file_name": "0.png", "rejected_file_name": "1.png"}
    write_lines(tmp_path / "pairs.jsonl", [{**pair, "margin": 1.0}])
    shutil.copytree(small_lora, tmp_path / "a")
    words = "--lora a -m shapes:small --batch 1 --accumulate 1 --max-steps 1 --preview-every 0 --out run".split()
    ended = forked("tune-dpo", "pairs.jsonl", *words)
    assert ended.code == 0, ended.err
    begun = json.loads((tmp_path / "run" / "run.json").read_bytes())["options"]["lora"]

    def identity(file: Path) -> str:
        return check_trained(replace(OptimizerConfig(), lora=str(file)), {})

    shutil.move(tmp_path / "a" / LORA_FILE, tmp_path / "b.safetensors")
    assert identity(tmp_path / "b.safetensors") == begun
    weights = load_file(tmp_path / "b.safetensors")
    save_file({name: one * 2 for name, one in weights.items()}, tmp_path / "b.safetensors", {"format": "pt"})
    assert begun
    assert identity(tmp_path / "b.safetensors") not in (begun, check_trained(OptimizerConfig(), {}))


def render_to(file: Path, seed: int) -> None:
    rng = Random(seed)
    render(sample(rng), rng).save(file)
