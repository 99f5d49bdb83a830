"""Tune a model with reinforcement learning from rewards."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

from .. import plugins, progress
from ..configs import (
    ALGORITHMS,
    DDPOConfig,
    GRPOConfig,
    NFTConfig,
    PPOConfig,
    ReFLConfig,
    RoundConfig,
    ServerConfig,
    WatchConfig,
)
from ..errors import UserError
from ..images.folders import Folders
from ..models import launcher
from ..options import Device, JudgeAspects, Prompts, Roots, RunFolder, Seed, TunedModel, option, options, plugin
from ..records import Image, Prompt, digest, prompt_key, prompt_too_long, split_of
from ..streams.places import absolute_path, folder_of
from ..streams.reading import read, read_prompts
from ..tuning.asked import (
    as_options,
    check_noise,
    check_trained,
    check_trained_steps,
    chosen,
    judge_options,
    load_rewards,
    share_of_limits,
    warn_of_rounding,
    weights_of,
)
from ..tuning.folder import check
from ..tuning.opening import announce_once, opened, to_tune

if TYPE_CHECKING:
    from ..models.denoiser import Denoiser
    from ..tuning.loop import Algorithm
    from ..tuning.objective import Objective
    from ..tuning.refl import Pretraining
    from ..tuning.run import Run
    from ..tuning.tuner import Tuner

HELD_OUT = {"train": 0.9, "validation": 0.1}
"""Shares of the prompts to train on and to watch, if no prompt has the split validation."""
WATCHED = 64
"""Maximum number of held-out prompts that are drawn in a measurement."""


OPTIONS = {
    "ddpo": ("rounds", "ddpo"),
    "grpo": ("rounds", "ddpo", "grpo"),
    "refl": ("refl",),
    "nft": ("rounds", "nft"),
}
"""The groups of options that each algorithm has, beside those that all have."""


@options(PPOConfig)
@options(WatchConfig, "watching")
@options(RoundConfig, "rounds")
@options(DDPOConfig, "ddpo")
@options(GRPOConfig, "grpo")
@options(ReFLConfig, "refl")
@options(NFTConfig, "nft")
@options(ServerConfig, "server")
def tune_ppo(
    prompts: Prompts,
    *,
    out: RunFolder,
    algorithm: Annotated[
        str,
        option(
            "--algorithm",
            choices=tuple(ALGORITHMS),
            presets=ALGORITHMS,
            group="Training",
            help="Algorithm. ddpo: policy gradients, for any reward. grpo: the same for flow models, such as Stable "
            "Diffusion 3 and FLUX.1. refl: the gradient of the reward itself, which VisionPrefer uses; it is faster, "
            "and needs a reward that is a model, such as vp:DIR. nft: for any reward, without probabilities of "
            "denoising steps, so that it can draw with few steps and without noise. Three have other defaults. "
            + " ".join(f"{name}: {as_options(values)}." for name, values in ALGORITHMS.items() if values),
        ),
    ] = "ddpo",
    model: TunedModel = "",
    reward: Annotated[
        list[str] | None,
        plugin(
            "reward",
            "--reward",
            "-r",
            group="Model",
            help="Reward to increase, as SPEC or SPEC=WEIGHT; repeatable. Each reward is normalised on its own, and "
            "then they are added up, each multiplied by its weight. A SPEC without WEIGHT has the weight 1.",
            show_default="shapes, the pixel judge",
        ),
    ] = None,
    judge_aspect: JudgeAspects = None,
    root: Roots = None,
    seed: Seed = 0,
    device: Device = "auto",
    config: PPOConfig,
    watching: WatchConfig,
    rounds: RoundConfig,
    ddpo: DDPOConfig,
    grpo: GRPOConfig,
    refl: ReFLConfig,
    nft: NFTConfig,
    server: ServerConfig,
) -> None:
    """Tune a model with reinforcement learning from rewards.

    Trains a LoRA (low-rank adaptation: a small set of weights that is added to those of the model). --full trains all
    weights in its place. Prompts with a `split` other than train are not trained on. Prompts without a `split` are.

    --algorithm ddpo (Black et al. 2024, arXiv 2305.13301) applies PPO, proximal policy optimization, to the denoising
    steps of a picture. A round (--epochs counts rounds) chooses prompts at random, draws several pictures of each
    prompt and scores them with the reward. The advantage of a picture is its reward minus the mean reward of the
    pictures of the same prompt, divided by the standard deviation of these differences over all pictures of the round.
    Training makes the denoising steps of pictures with a positive advantage more likely, and those of pictures with a
    negative advantage less likely. A clip range limits how far the model moves in one round.

    --algorithm grpo (Flow-GRPO, Liu et al. 2025, arXiv 2505.05470) is ddpo for flow models. Such a model draws without
    noise, so a step has no probability. In each round, grpo adds noise in a few neighbouring steps, and trains on them:
    see --window. The noise is that of Flow-GRPO or, by default, that of Wang and Yu 2025 (arXiv 2509.05952): see --sde.
    All options of ddpo are options of grpo.

    --algorithm refl (Xu et al. 2023, arXiv 2304.05977) draws a picture up to a random late step, predicts the finished
    picture from there, and follows the gradient of its reward. This is what VisionPrefer calls PPO. A round is one
    optimizer step. Such a gradient finds the weaknesses of a reward quickly: the reward still rises, but the pictures
    get worse. --watch shows it, and --patience stops in time.

    --algorithm nft (DiffusionNFT, Zheng et al. 2025, arXiv 2509.16117) draws and scores pictures in rounds, like ddpo.
    Then it adds new noise to the finished pictures, and trains the model to denoise towards the good ones and away from
    the bad ones. It needs no probabilities, so the pictures can be drawn in few steps and without noise.

    --reward judge:SPEC asks an annotator, as annotate does: SPEC is a value of annotate --annotator. It is asked about
    single pictures, while the next ones are drawn, with a call for each picture that asks about all aspects, or about
    those of --judge-aspect. The scores of such a judge are coarse, so the reward is the win rate of a picture against
    the others of its prompt (Pref-GRPO, Wang et al. 2025, arXiv 2508.20751): 1 for a lower score, 1/2 for an equal one.
    A picture that the judge refuses, or answers unusably, has no advantage by it, and counts in the metric unscored. If
    more than half of a round have no score, the training ends with an error, and can be resumed. Scores and refusals
    are kept in the output folder, in files of judgements, so a resumed run asks for none of them again. The options for
    servers are those of annotate. At a limit, such as --max-cost, the run ends and can be resumed. --max-cost,
    --max-requests, --rpm, --tpm and --concurrency hold for all judges and processes of a run together: each judge in
    each process has an equal share of them. A resumed run counts from zero. --watch judge:SPEC measures the mean score.

    The output folder holds the LoRA in pytorch_lora_weights.safetensors, or with --full the model in the folder model,
    previews drawn from fixed seeds, and metrics in metrics.jsonl and in files for TensorBoard. A finished run keeps
    checkpoint.pt, from which it can go on. To use the LoRA, run generate --adapter DIR, or call
    pipe.load_lora_weights(DIR) in diffusers.

    With accelerate, several GPUs train together: accelerate launch -m vpctl tune-ppo and the same options. They divide
    the pictures of a round among themselves. accelerate launch --use_fsdp is for a model that one GPU cannot hold: each
    GPU holds a part of the frozen weights. The result is the same, up to rounding. --algorithm refl and
    --full cannot do this. accelerate launch --use_deepspeed --zero_stage 2 is for --full: each GPU holds a part of the
    moments of AdamW, and of the gradients (ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054). nft and refl need
    --zero_stage 1, in which the gradients are not divided. DeepSpeed is not installed with vpctl: pip install
    'vpctl[deepspeed]'.

    Examples:

        vpctl tune-ppo prompts.jsonl --reward vp:vp-score/ --out ppo-lora/

        vpctl tune-ppo prompts.jsonl --algorithm refl -r vp:vp-score/
            --watch pickscore --patience 5 --out refl-lora/

        vpctl tune-ppo prompts.jsonl --reward judge:openai:gpt-4o
            --judge-aspect prompt-following --max-cost 20 --out ppo-lora/

        vpctl tune-ppo prompts.txt -r vp:vp-score/=0.8 -r pickscore=0.1
            --guidance 5 --steps 20
            -m diffusion:stable-diffusion-v1-5/stable-diffusion-v1-5
            --out ppo-lora/
    """
    announce_once()
    launcher.check_sharding(full=config.full, algorithm=algorithm, optimizer=config.optimizer, dtype=config.dtype)
    start = check_trained(config, ALGORITHMS[algorithm])
    spec = plugins.check(
        "generator",
        model or "shapes",
        algorithm=algorithm,
        steps=config.steps,
        export=config.export,
        lora=config.lora,
    )
    weights = weights_of(reward or ["shapes"], gradient=algorithm == "refl", server=server)
    watched = [*weights_of(watching.watch or [], "--watch", server=server)]
    judged = judge_options([*weights, *watched], judge_aspect or [], server)
    server = share_of_limits([*weights, *watched], server)
    if weighed := [one for one in watching.watch or [] if one not in watched]:
        raise UserError(f"--watch {weighed[0]}: a reward that is only watched has no weight; leave it out")
    if watching.patience and not watched:
        raise UserError(f"--patience {watching.patience}: needs a reward that decides; name one with --watch")
    own = check_algorithm(algorithm, config, {"rounds": rounds, "ddpo": ddpo, "grpo": grpo, "refl": refl, "nft": nft})
    for name, given in (("--model", model), ("--reward", reward)):
        if not given:
            progress.note(f"no {name} given: using the built-in shapes world")
    warn_of_rounding(config.dtype, algorithm)
    texts, held_out = divided(list(read_prompts(prompts, prompt_too_long)), prompts, watch=bool(watched))
    pictures = list(read(refl.pretrain, Image)) if refl.pretrain else []
    if refl.pretrain and not pictures:
        raise UserError(f"--pretrain {refl.pretrain}: there are no pictures")
    roots = [*([folder_of(refl.pretrain)] if refl.pretrain else []), *(root or [])]
    Folders(roots).check(one["file_name"] for one in pictures)
    asked = {
        "prompts": absolute_path(prompts),
        "algorithm": algorithm,
        "model": spec,
        "reward": weights,
        "seed": seed,
        **dataclasses.asdict(config),
        "lora": start,
        **dataclasses.asdict(watching),
        **{name: value for one in own.values() for name, value in dataclasses.asdict(one).items()},
        **judged,
        "data": digest([texts, held_out, [[one["prompt"], one["file_name"]] for one in pictures]]),
        "reward_fingerprints": plugins.fingerprints(*weights, *watched),
    }
    check(out, asked)
    generator = to_tune(spec, config, device)
    asked["model_fingerprint"] = plugins.model_fingerprint(spec, generator)
    settings = generator.settings
    steps = chosen("--steps", config.steps, settings.num_inference_steps, spec)
    if "ddpo" in own:
        check_trained_steps(ddpo.skip_last, steps)
    guidance = chosen("--guidance", config.guidance, settings.guidance_scale, spec)
    with opened(out, asked, device) as run, ExitStack() as ended:
        if run is None:
            return
        from ..tuning.loop import train
        from ..tuning.objective import Objective, close_judges
        from ..tuning.preview import previews
        from ..tuning.tuner import Tuner
        from ..tuning.watch import Watched

        rewards = load_rewards(
            [*weights, *watched], run.folder, judge_aspect or [], server, rank=run.world.rank, device=device
        )
        ended.callback(close_judges, rewards.values())
        objective = Objective({name: rewards[name] for name in weights}, weights)
        tuner = Tuner.open(generator.pipeline, config, algorithm=algorithm, source=spec, seed=seed, world=run.world)
        policy = tuner.policy
        pretraining = encode_pretraining(pictures, policy, roots, run) if pictures else None
        training = open_algorithm(
            algorithm, tuner, texts, objective, config, own, steps=steps, guidance=guidance, pretraining=pretraining
        )
        count = min(config.prompts_per_epoch, len(texts)) * config.images
        progress.note(
            f"{progress.plural(config.epochs, 'round')} of {progress.plural(count, 'picture')}, "
            f"{progress.plural(rounds.updates if 'rounds' in own else 1, 'update')} each"
        )
        progress.note(tuner.memory(copies=int(algorithm == "nft")))  # its old policy
        show = previews(run, policy, texts, settings, every=config.preview_every, seed=seed)
        watch = None
        if watched:
            watch = Watched(
                training,
                tuner,
                held_out,
                Objective(rewards, dict.fromkeys(rewards, 1.0)),
                settings,
                first=watched[0],
                every=watching.watch_every,
                patience=watching.patience,
                seed=seed,
            )

        def evaluate(step: int) -> dict[str, float]:
            with tuner.averaged():
                return {**show(step), **(watch.measure(step) if watch else {})}

        train(watch or training, run, save_every=config.save_every, evaluate=evaluate)
        with tuner.averaged():
            if watch:
                progress.note(watch.finish())
            with run.results() as folder:
                if run.world.is_main:
                    policy.trained.save(folder, config.export)
    progress.note(policy.trained.result(out))


def open_algorithm(
    algorithm: str,
    tuner: "Tuner",
    texts: list[str],
    objective: "Objective",
    config: PPOConfig,
    own: Mapping[str, Any],
    *,
    steps: int,
    guidance: float,
    pretraining: "Pretraining | None",
) -> "Algorithm":
    """The algorithm with its own groups of options, in the order of `OPTIONS`."""
    from ..tuning.ddpo import DDPO
    from ..tuning.grpo import GRPO
    from ..tuning.nft import NFT
    from ..tuning.refl import ReFL

    shared = (tuner, texts, objective, config, *(own[name] for name in OPTIONS[algorithm]))
    if algorithm == "refl":
        return ReFL(*shared, steps=steps, guidance=guidance, pretraining=pretraining)
    in_rounds: dict[str, Callable[..., Algorithm]] = {"ddpo": DDPO, "grpo": GRPO, "nft": NFT}
    return in_rounds[algorithm](*shared, steps=steps, guidance=guidance)


def encode_pretraining(
    pictures: Sequence[Image], policy: "Denoiser", roots: Sequence[str], run: "Run"
) -> "Pretraining":
    """The pictures of --pretrain, encoded in the cache of the run."""
    from ..images.pictures import Pictures
    from ..tuning.encoding import EncodedPictures
    from ..tuning.refl import Pretraining

    encoded = EncodedPictures((one["file_name"] for one in pictures), policy, Pictures([*roots]), run.folder)
    encoded.encode(run.world)
    places = [encoded.places[one["file_name"]] for one in pictures]
    return Pretraining(encoded, places, [one["prompt"] for one in pictures])


def check_algorithm(algorithm: str, config: PPOConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """The groups of options in `given` that the algorithm has.

    Raises `UserError` for an option that only others have, or for values that the algorithm cannot use.
    """
    own = {name: group for name, group in given.items() if name in OPTIONS[algorithm]}
    for name, group in given.items():
        for field in dataclasses.fields(group):
            if name not in own and getattr(group, field.name) != field.default:
                *others, last = (one for one, groups in OPTIONS.items() if name in groups)
                having = f"{', '.join(others)} and {last}" if others else last
                raise UserError(
                    f"--{field.name.replace('_', '-')}: is an option of --algorithm {having}, not of {algorithm}"
                )
    refl: ReFLConfig = given["refl"]
    if refl.pretrain_weight != ReFLConfig.pretrain_weight and not refl.pretrain:
        raise UserError("--pretrain-weight: needs pictures; name them with --pretrain")
    if "rounds" in own and config.images < 2:
        raise UserError(f"--images 1: {algorithm} compares the pictures of a prompt; name at least 2")
    if "ddpo" in own:
        check_noise(config.eta, algorithm)
        if config.steps:
            check_trained_steps(own["ddpo"].skip_last, config.steps)
    return own


def divided(prompts: Sequence[Prompt], source: str, *, watch: bool) -> tuple[list[str], list[str]]:
    """The texts to train on, and with `watch` those that are held out. Raises `UserError` if there are none."""
    found: dict[str, dict[str, None]] = {"train": {}, "validation": {}}
    said = any(one.get("split") == "validation" for one in prompts)
    for one in prompts:
        part = one.get("split", "train")
        if watch and not said and part == "train":
            part = split_of(prompt_key(one), HELD_OUT)
        found.setdefault(part, {})[one["prompt"]] = None
    texts = [*found["train"]]
    held_out = [text for text in found["validation"] if text not in found["train"]][:WATCHED] if watch else []
    if not texts:
        raise UserError(f"{source}: there are no prompts to train on")
    if watch and not held_out:
        raise UserError(f"--watch: {source} has too few prompts to hold some out; give some the split validation")
    return texts, held_out
