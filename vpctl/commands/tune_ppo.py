"""Tune a model with reinforcement learning from rewards."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from .. import plugins, progress
from ..configs import PPOConfig
from ..errors import UserError
from ..options import Device, Prompts, RunFolder, Seed, TunedModel, options, plugin
from ..records import digest, prompt_too_long
from ..streams.places import absolute_path
from ..streams.reading import read_prompts
from ..tuning.folder import check
from ..tuning.opening import opened

if TYPE_CHECKING:
    from torch import Tensor

    from ..tuning.rollout import PixelReward

N = TypeVar("N", int, float)


@options(PPOConfig)
def tune_ppo(
    prompts: Prompts,
    *,
    out: RunFolder,
    model: TunedModel = "",
    reward: Annotated[
        list[str] | None,
        plugin(
            "reward",
            "--reward",
            "-r",
            group="Model",
            help="Reward to increase, as SPEC or SPEC=WEIGHT; repeatable. The rewards are added up, each "
            "multiplied by its weight. A SPEC without WEIGHT has the weight 1.",
            show_default="shapes, the pixel judge",
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    config: PPOConfig,
) -> None:
    """Tune a model with reinforcement learning from rewards.

    Trains a LoRA (low-rank adaptation: a small set of weights that is added to those of the model) with DDPO (Black et
    al. 2024, arXiv 2305.13301). DDPO applies PPO, proximal policy optimization, to the denoising steps of a picture.
    PPO is reinforcement learning in small steps: a clip range limits how far the model moves in one round.

    A round (--epochs counts rounds) chooses prompts at random, draws several pictures of each prompt and scores them
    with the reward. The advantage of a picture is its reward minus the mean reward of the pictures of the same prompt,
    divided by the standard deviation of these differences over all pictures of the round. Training makes the denoising
    steps of pictures with a positive advantage more likely, and those of pictures with a negative advantage less
    likely. Prompts with a `split` other than train are skipped. Prompts without a `split` are used.

    The output folder holds the LoRA in pytorch_lora_weights.safetensors, previews drawn from fixed seeds, and metrics
    in metrics.jsonl and in files for TensorBoard. To use the LoRA, run generate --adapter DIR, or call
    pipe.load_lora_weights(DIR) in diffusers.

    Examples:

        vpctl tune-ppo prompts.jsonl --reward vp:vp-score/ --out ppo-lora/

        vpctl tune-ppo prompts.txt -r vp:vp-score/=0.8 -r pickscore=0.1
            --guidance 5 --steps 20
            -m diffusion:stable-diffusion-v1-5/stable-diffusion-v1-5
            --out ppo-lora/
    """
    spec = plugins.check("generator", model or "shapes", tuned=True)
    weighed = [weighted(one) for one in reward or ["shapes"]]
    if twice := [name for name, times in Counter(name for name, _ in weighed).items() if times > 1]:
        raise UserError(f"--reward {twice[0]}: is named twice; name it once, with one weight")
    weights = dict(weighed)
    for name in weights:
        plugins.check("reward", name)
    if config.steps:
        check_steps(config, config.steps)
    for name, given in (("--model", model), ("--reward", reward)):
        if not given:
            progress.note(f"no {name} given: using the built-in shapes world")
    trained_on = (one for one in read_prompts(prompts, prompt_too_long) if one.get("split", "train") == "train")
    texts = list(dict.fromkeys(one["prompt"] for one in trained_on))
    if not texts:
        raise UserError(f"{prompts}: there are no prompts to train on")
    asked = {
        "prompts": absolute_path(prompts),
        "model": spec,
        "reward": weights,
        "seed": seed,
        **dataclasses.asdict(config),
        "data": digest(texts),
        "reward_fingerprints": plugins.fingerprints(*weights),
    }
    check(out, asked)
    generator = plugins.tunable(spec, device=device)
    asked["model_fingerprint"] = plugins.model_fingerprint(spec, generator)
    own = generator.settings
    steps = chosen("--steps", config.steps, own.num_inference_steps, spec)
    check_steps(config, steps)
    guidance = chosen("--guidance", config.guidance, own.guidance_scale, spec)
    with opened(out, asked, device) as run:
        if run is None:
            return
        from ..models.denoiser import open_denoiser
        from ..tuning.loop import train
        from ..tuning.ppo import DDPO
        from ..tuning.preview import previews

        summed = summed_reward({name: plugins.load("reward", name, device=device) for name in weights}, weights)
        policy = open_denoiser(generator.pipeline, rank=config.rank, source=spec, seed=seed, exact=True)
        count = min(config.prompts_per_epoch, len(texts)) * config.images
        rounds, updates = progress.plural(config.epochs, "round"), progress.plural(config.updates, "update")
        progress.note(f"{rounds} of {progress.plural(count, 'picture')}, {updates} each")
        show = previews(run, policy, texts, own, every=config.preview_every, seed=seed)
        algorithm = DDPO(policy, texts, summed, config, steps=steps, guidance=guidance, seed=seed)
        train(algorithm, run, save_every=config.save_every, evaluate=show)
        with run.results() as folder:
            policy.save_lora(folder)
    progress.note(f"the LoRA is in {out}; use it with generate --adapter {out}")


def chosen(option: str, given: N | None, own: N | None, spec: str) -> N:
    """The value of an option, or the model's own if the option is not given. Raises `UserError` if both are None."""
    value = own if given is None else given
    if value is None:
        raise UserError(f"{option}: the model {spec} has no default for it; name a value")
    return value


def check_steps(config: PPOConfig, steps: int) -> None:
    """Raise `UserError` if `skip_last` leaves no denoising step to train on."""
    if config.skip_last >= steps:
        raise UserError(f"--skip-last {config.skip_last}: leaves none of {steps} denoising steps to train on")


def weighted(text: str) -> tuple[str, float]:
    """The spec of a reward and its weight, which is 1 by default."""
    spec, equals, weight = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"--reward {text}: {weight!r} is not a number; write the weight after =, as in pickscore=0.5")
    return spec, number


def summed_reward(rewards: Mapping[str, Any], weights: Mapping[str, float]) -> "PixelReward":
    """The weighted sum of the rewards. Pictures are rounded to 8 bits, so the rewards are those of the saved files."""
    import torch

    from ..models.scoring import compute_scores
    from ..models.tensors import to_pictures

    def reward(pixels: "Tensor", prompts: list[str]) -> "Tensor":
        total = torch.zeros(len(prompts))
        for name, values in compute_scores(rewards, dict.fromkeys(rewards, to_pictures(pixels)), prompts).items():
            total += weights[name] * torch.tensor(values)
        return total

    return reward
