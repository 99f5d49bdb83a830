"""Tune a model with preference pairs, likes or rewards."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, cast

from .. import plugins, progress
from ..configs import PREFERENCE_ALGORITHMS, D3POConfig, DPOConfig, KTOConfig, ServerConfig
from ..contracts import Reward, Settings
from ..errors import UserError
from ..images.folders import Folders
from ..models import launcher
from ..options import Device, JudgeAspects, PairsOrRatings, Roots, RunFolder, Seed, TunedModel, option, options, plugin
from ..records import Pair, Rating, digest, is_pair, prompt_too_long
from ..streams.joins import ConsistencyChecker
from ..streams.places import absolute_path, folder_of, is_stream
from ..streams.reading import located, located_preferences, read_prompts
from ..tuning.asked import (
    as_options,
    check_noise,
    check_trained,
    check_trained_steps,
    chosen,
    given_to_judge,
    judge_options,
    load_rewards,
    share_of_limits,
    warn_of_rounding,
    weights_of,
)
from ..tuning.folder import check
from ..tuning.opening import announce_once, opened, to_tune

if TYPE_CHECKING:
    from ..tuning.dpo import DiffusionDPO, Preference
    from ..tuning.encoding import EncodedPictures
    from ..tuning.kto import DiffusionKTO
    from ..tuning.loop import Algorithm
    from ..tuning.run import Run
    from ..tuning.tuner import Tuner


NOT_OF = {
    "dpo": (),
    "kto": ("loss", "label_smoothing", "margin_weight", "sft"),
    "d3po": ("loss", "label_smoothing", "margin_weight", "sft", "prompt_dropout", "validate_every"),
}
"""Options in DPOConfig that an algorithm does not have."""
HELD_OUT = 64
"""Maximum number of held-out pairs that are measured."""


@options(DPOConfig)
@options(KTOConfig, "kto")
@options(D3POConfig, "d3po")
@options(ServerConfig, "server")
def tune_dpo(
    pairs: PairsOrRatings,
    *,
    out: RunFolder,
    algorithm: Annotated[
        str,
        option(
            "--algorithm",
            choices=tuple(PREFERENCE_ALGORITHMS),
            presets=PREFERENCE_ALGORITHMS,
            group="Training",
            help="Algorithm. dpo: learns from the pairs in FILE. kto: learns from pictures that are liked or disliked; "
            "FILE holds ratings, pairs, or both. d3po: FILE holds prompts; it draws pairs of pictures "
            "itself and compares them with --reward, as VisionPrefer does. Two have other defaults. "
            + " ".join(f"{name}: {as_options(values)}." for name, values in PREFERENCE_ALGORITHMS.items() if values),
        ),
    ] = "dpo",
    model: TunedModel = "",
    reward: Annotated[
        list[str] | None,
        plugin(
            "reward",
            "--reward",
            "-r",
            group="Model",
            help="d3po: reward that compares two pictures, as SPEC or SPEC=WEIGHT; repeatable. Each reward is "
            "normalised on its own, and then they are added up, each multiplied by its weight.",
            show_default="shapes, the pixel judge",
        ),
    ] = None,
    judge_aspect: JudgeAspects = None,
    root: Roots = None,
    seed: Seed = 0,
    device: Device = "auto",
    config: DPOConfig,
    kto: KTOConfig,
    d3po: D3POConfig,
    server: ServerConfig,
) -> None:
    """Tune a model with preference pairs, likes or rewards.

    Trains a LoRA (low-rank adaptation: a small set of weights that is added to those of the model). --full trains all
    weights in its place. Pairs with the split validation are only measured. Pairs and prompts with another `split` than
    train are skipped. Those without a `split` are used.

    --algorithm dpo (Diffusion-DPO, Wallace et al. 2024, arXiv 2311.12908) trains on pairs directly: the model learns to
    denoise the preferred picture of a pair better, compared with the rejected picture. DPO stands for direct preference
    optimization. It uses no reward model and draws no training pictures. The pictures of the pairs can come from any
    model. Flow models, such as Stable Diffusion 3 and FLUX.1, learn to predict the velocity better, in the same way;
    their noise levels are logit-normal.

    --algorithm kto (Diffusion-KTO, Li et al. 2024, arXiv 2404.04465) needs no pairs, only a like or a dislike of single
    pictures. A record of FILE is a rating, with the keys `prompt`, `file_name` and `label`, which is true for a picture
    that is liked and false for one that is not; see vpctl-records(5). Or it is a pair: its chosen picture is liked, and
    its rejected picture is disliked. KTO stands for Kahneman-Tversky optimization. The model learns to denoise liked
    pictures better than the untuned model does, and disliked ones worse. A picture counts most when the model's gain on
    it is near the reference point, and less when it is far above or below. This point is the mean gain on the pictures
    of the step, and at least 0. A picture may have several ratings, for example those of several people. Pairs with the
    split validation are measured as with dpo; ratings with this split are not used.

    --algorithm d3po (Yang et al. 2024, arXiv 2311.13231) needs no pairs, only prompts. In each round (--max-steps
    counts rounds) it draws two pictures of some prompts from the same noise. A reward says which one is better, and
    training makes its denoising steps more likely, and those of the other less likely. --steps, --guidance, --eta and
    the options for servers are options of d3po. The reward judge:SPEC asks an annotator; vpctl-tune-ppo(1) describes
    it, and how its limits are divided.

    The output folder holds the LoRA in pytorch_lora_weights.safetensors, or with --full the model in the folder model,
    previews drawn from fixed seeds, and metrics in metrics.jsonl and in files for TensorBoard. To use the LoRA, run
    generate --adapter DIR, or call pipe.load_lora_weights(DIR) in diffusers. In a healthy run of dpo the loss stays
    near log 2 = 0.693 for a long time, and implicit_accuracy rises. This metric is the share of pairs for which the
    tuned model, compared with the untuned one, favours the preferred picture. If there are pairs with the split
    validation, held_out_accuracy is this share for up to 64 of them, and held_out_margin says by how much: on all noise
    levels, and on each quarter of them. When implicit_accuracy still rises and held_out_accuracy falls, the pairs are
    being learnt by heart.

    With kto, liked_reward and disliked_reward are what the model has gained on the liked and the disliked pictures,
    times --beta. In a healthy run the first is larger than the second. Often both are below 0: then the model learns
    more from the disliked pictures, and a warning says so. implicit_accuracy is the share of pictures that are on their
    side of the reference point.

    dpo and kto encode each picture and each prompt once. They keep the results in the folder cache of the output
    folder, so a resumed run encodes only what is new or damaged. A picture takes 0.07 MB there at 512 × 512 and 0.26 MB
    at 1024 × 1024, and a prompt 0.24 MB, 0.64 MB with SDXL, 5 MB with Stable Diffusion 3, and 8 MB with FLUX.1. If they
    would need more than 90 % of the free space, they are encoded whenever they are used. The end of the run deletes the
    folder; you may delete it at any time before.

    With accelerate, several GPUs train together: accelerate launch -m vpctl tune-dpo and the same options. Each process
    computes its own part of a step, so a step has that many times more pairs or pictures. accelerate launch --use_fsdp
    is for a model that one GPU cannot hold: each GPU holds a part of the frozen weights. The result is the same, up to
    rounding. --full cannot do this. accelerate launch --use_deepspeed --zero_stage 2 is for --full: each GPU holds a
    part of the moments of AdamW, and of the gradients (ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054). d3po needs
    --zero_stage 1, in which the gradients are not divided. DeepSpeed is not installed with vpctl: pip install
    'vpctl[deepspeed]'.

    Examples:

        vpctl tune-dpo pairs.jsonl --out dpo-lora/

        vpctl tune-dpo likes.jsonl --algorithm kto --out kto-lora/

        vpctl tune-dpo prompts.jsonl --algorithm d3po
            --reward vp:vp-score/ --out d3po-lora/

        vpctl tune-dpo pairs.jsonl
            -m diffusion:stable-diffusion-v1-5/stable-diffusion-v1-5
            --out dpo-lora/
    """
    announce_once()
    of_d3po = [*(["reward"] if reward else []), *given_to_judge(judge_aspect or [], server)]
    check_algorithm(algorithm, of_d3po, config, {"kto": kto, "d3po": d3po})
    launcher.check_sharding(full=config.full, algorithm=algorithm, optimizer=config.optimizer, dtype=config.dtype)
    start = check_trained(config, PREFERENCE_ALGORITHMS[algorithm])
    weights = weights_of(reward or ["shapes"], server=server)
    judged = judge_options(weights, judge_aspect or [], server)
    server = share_of_limits(weights, server)
    spec = plugins.check(
        "generator", model or "shapes", algorithm=algorithm, steps=d3po.steps, export=config.export, lora=config.lora
    )
    if not model:
        progress.note("no --model given: using the built-in shapes world")
    warn_of_rounding(config.dtype, algorithm)
    asked: dict[str, Any] = {"pairs": absolute_path(pairs), "algorithm": algorithm, "model": spec, "seed": seed}
    asked |= {**dataclasses.asdict(config), "lora": start, "processes": launcher.processes()}
    if algorithm == "dpo":
        tune_with_dpo(pairs, asked, config, root or [], out=out, device=device)
    elif algorithm == "kto":
        asked |= dataclasses.asdict(kto)
        tune_with_kto(pairs, asked, config, kto, root or [], out=out, device=device)
    else:
        if not reward:
            progress.note("no --reward given: using the built-in shapes world")
        asked |= {**dataclasses.asdict(d3po), "reward": weights, **judged}

        def load(run: "Run") -> dict[str, Reward]:
            return load_rewards(weights, run.folder, judge_aspect or [], server, rank=run.world.rank, device=device)

        tune_on_own_pictures(pairs, asked, config, d3po, load, out=out, device=device)


def check_algorithm(algorithm: str, of_d3po: Sequence[str], config: DPOConfig, own: dict[str, Any]) -> None:
    """Raise `UserError` for options of another algorithm, or for values that the algorithm cannot use.

    `own` are the options that only one algorithm has, by its name. `of_d3po` are names of other options that were
    given, and that only d3po has.
    """
    for name in NOT_OF[algorithm]:
        if getattr(config, name) != getattr(DPOConfig, name):
            having = " and ".join(one for one, without in NOT_OF.items() if name not in without)
            raise UserError(f"--{name.replace('_', '-')}: is an option of --algorithm {having}, not of {algorithm}")
    if algorithm != "d3po" and own["d3po"].steps:
        raise UserError("--steps: is an option of --algorithm d3po; --max-steps is the number of optimizer steps")
    for other, group in own.items():
        given = [field.name for field in dataclasses.fields(group) if getattr(group, field.name) != field.default]
        for name in [*(of_d3po if other == "d3po" else ()), *given] if other != algorithm else ():
            raise UserError(f"--{name.replace('_', '-')}: is an option of --algorithm {other}, not of {algorithm}")
    if algorithm == "d3po":
        check_noise(own["d3po"].eta, algorithm)
    if config.label_smoothing and config.loss != "dpo":
        raise UserError(f"--label-smoothing: is for --loss dpo, not for {config.loss}")
    if algorithm == "kto" and not own["kto"].desirable_weight and not own["kto"].undesirable_weight:
        raise UserError(
            "--desirable-weight 0 --undesirable-weight 0: no picture would count; name a weight above 0 for one of them"
        )


def read_preferences(source: str, *, ratings: bool) -> tuple[list[Pair | Rating], list[Pair]]:
    """The records in `source` to train on, without ties, and the held-out pairs. With `ratings` it may have ratings.

    Raises `UserError` if there are none to train on.
    """
    checker = ConsistencyChecker(unsaid="train")
    joined = checker.preferences(located_preferences(source)) if ratings else checker.pairs(located(source, Pair))
    wanted: list[Pair | Rating] = []
    held_out: list[Pair] = []
    ties = others = 0
    for one in progress.track(joined, "records" if ratings else "pairs"):
        part = one.get("split", "train")
        tied = is_pair(one) and not one["margin"]
        ties += part == "train" and tied
        others += part != "train"
        if part == "train" and not tied:
            wanted.append(one)
        elif part == "validation" and is_pair(one) and not tied:
            held_out.append(one)
    if ties:
        progress.note(f"{progress.plural(ties, 'tie')} left out")
    if not wanted:
        kind = "ratings or pairs" if ratings else "pairs"
        split = f"; records with another split than train: {others}" if others else ""
        raise UserError(f"{source}: there are no {kind} to train on{split}")
    return wanted, held_out[:HELD_OUT]


def rated(record: Pair | Rating) -> dict[str, bool]:
    """The pictures of a record, by their files, and whether each is liked."""
    if is_pair(record):
        return {record["chosen_file_name"]: True, record["rejected_file_name"]: False}
    rating = cast(Rating, record)
    return {rating["file_name"]: rating["label"]}


def tune_with_dpo(
    source: str, asked: dict[str, Any], config: DPOConfig, root: list[str], *, out: str, device: str
) -> None:
    """Diffusion-DPO on the pairs in `source`. `asked` are the options, for the run's folder."""
    wanted, held_out = read_preferences(source, ratings=False)
    pairs = [one for one in wanted if is_pair(one)]

    def make(tuner: "Tuner", pictures: "EncodedPictures") -> "DiffusionDPO":
        from ..tuning.dpo import DiffusionDPO

        progress.note(f"{progress.plural(len(pairs), 'pair')}; {steps_of(config, 'step', 'pair', tuner.world.size)}")
        return DiffusionDPO(tuner, pictures, preferences(pairs, pictures), config)

    asked["data"] = digest([len(wanted), [[one["prompt"], *rated(one)] for one in (*wanted, *held_out)]])
    tune_on_pictures(source, wanted, held_out, make, asked, config, root, out=out, device=device)


def tune_with_kto(
    source: str, asked: dict[str, Any], config: DPOConfig, own: KTOConfig, root: list[str], *, out: str, device: str
) -> None:
    """Diffusion-KTO on the ratings and pairs in `source`. `asked` are the options, for the run's folder.

    Raises `UserError` if the training has no liked or no disliked picture.
    """
    wanted, held_out = read_preferences(source, ratings=True)
    labels = {(one["prompt"], *label) for one in wanted if not is_pair(one) for label in rated(one).items()}
    if both := len(labels) - len({(prompt, file) for prompt, file, _ in labels}):
        progress.note(f"{progress.plural(both, 'picture')} liked in one rating and disliked in another")
    kinds = {liked for one in wanted for liked in rated(one).values()}
    for liked, name in ((True, "liked"), (False, "disliked")):
        if liked not in kinds:
            raise UserError(f"{source}: has no {name} picture to train on; kto learns from both kinds")

    def make(tuner: "Tuner", pictures: "EncodedPictures") -> "DiffusionKTO":
        from ..tuning.kto import DiffusionKTO, RatedPicture

        found = [
            RatedPicture(pictures.places[file], one["prompt"], liked)
            for one in wanted
            for file, liked in rated(one).items()
        ]
        count = progress.plural(sum(one.liked for one in found), "liked picture")
        progress.note(f"{count} of {len(found)}; {steps_of(config, 'step', 'picture', tuner.world.size)}")
        return DiffusionKTO(tuner, pictures, found, config, own)

    asked["data"] = digest([len(wanted), [[one["prompt"], *rated(one).items()] for one in (*wanted, *held_out)]])
    tune_on_pictures(source, wanted, held_out, make, asked, config, root, out=out, device=device)


def preferences(pairs: Sequence[Pair], pictures: "EncodedPictures") -> "list[Preference]":
    """The pairs by the places of their pictures."""
    from ..tuning.dpo import Preference

    places = pictures.places
    return [
        Preference(places[one["chosen_file_name"]], places[one["rejected_file_name"]], one["prompt"], one["margin"])
        for one in pairs
    ]


def tune_on_pictures(
    source: str,
    wanted: list[Pair | Rating],
    held_out: list[Pair],
    make: Callable[["Tuner", "EncodedPictures"], "DiffusionDPO | DiffusionKTO"],
    asked: dict[str, Any],
    config: DPOConfig,
    root: list[str],
    *,
    out: str,
    device: str,
) -> None:
    """Train on the records `wanted` of `source` with the algorithm that `make` makes, and measure the held-out pairs.

    `asked` are the options, for the run's folder, with the data that the training depends on.
    """
    both = [*wanted, *held_out]
    files = [file for one in both for file in rated(one)]
    roots = [folder_of(source), *root]
    Folders(roots, piped=is_stream(source)).check(files)
    check(out, asked)
    generator = to_tune(asked["model"], config, device)
    asked["model_fingerprint"] = plugins.model_fingerprint(asked["model"], generator)
    with opened(out, asked, device) as run:
        if run is None:
            return
        from ..images.pictures import Pictures
        from ..tuning.dpo import HeldOutPairs
        from ..tuning.encoding import EncodedPictures, keep_prompts
        from ..tuning.tuner import Tuner

        tuner = Tuner.open(
            generator.pipeline,
            config,
            algorithm=asked["algorithm"],
            source=asked["model"],
            seed=asked["seed"],
            world=run.world,
        )
        pictures = EncodedPictures(files, tuner.policy, Pictures(roots), run.folder)
        pictures.encode(run.world)
        keep_prompts((one["prompt"] for one in both), tuner.policy, run.folder)
        algorithm = make(tuner, pictures)
        others = HeldOutPairs(tuner, pictures, preferences(held_out, pictures), config, seed=asked["seed"])

        def measure(step: int) -> dict[str, float]:
            due = step % config.validate_every == 0 or step == config.max_steps
            return others.measure() if held_out and step and due else {}  # an untuned model favours no picture

        prompts = [one["prompt"] for one in wanted]
        tune(algorithm, tuner, run, prompts, generator.settings, config, asked["seed"], measure)
        if algorithm.advice:
            progress.warn(algorithm.advice)


def tune_on_own_pictures(
    source: str,
    asked: dict[str, Any],
    config: DPOConfig,
    own: D3POConfig,
    load: Callable[["Run"], dict[str, Reward]],
    *,
    out: str,
    device: str,
) -> None:
    """D3PO on the prompts in `source`. `asked` are the options, for the run's folder. `load` loads the rewards."""
    prompts = [one["prompt"] for one in read_prompts(source, prompt_too_long) if one.get("split", "train") == "train"]
    texts = list(dict.fromkeys(prompts))
    if not texts:
        raise UserError(f"{source}: there are no prompts to train on")
    asked |= {"data": digest(texts), "reward_fingerprints": plugins.fingerprints(*asked["reward"])}
    check(out, asked)
    spec = asked["model"]
    generator = to_tune(spec, config, device)
    asked["model_fingerprint"] = plugins.model_fingerprint(spec, generator)
    settings = generator.settings
    steps = chosen("--steps", own.steps, settings.num_inference_steps, spec)
    check_trained_steps(own.skip_last, steps)
    guidance = chosen("--guidance", own.guidance, settings.guidance_scale, spec)
    with opened(out, asked, device) as run, ExitStack() as ended:
        if run is None:
            return
        from ..tuning.d3po import D3PO
        from ..tuning.objective import Objective, close_judges
        from ..tuning.tuner import Tuner

        rewards = load(run)
        ended.callback(close_judges, rewards.values())
        objective = Objective(rewards, asked["reward"])
        tuner = Tuner.open(
            generator.pipeline,
            config,
            algorithm=asked["algorithm"],
            source=spec,
            seed=asked["seed"],
            world=run.world,
        )
        progress.note(steps_of(config, "round", "pair", run.world.size))
        algorithm = D3PO(tuner, texts, objective, config, own, steps=steps, guidance=guidance)
        tune(algorithm, tuner, run, texts, settings, config, asked["seed"])


def tune(
    algorithm: "Algorithm",
    tuner: "Tuner",
    run: "Run",
    prompts: list[str],
    settings: Settings,
    config: DPOConfig,
    seed: int,
    measure: Callable[[int], dict[str, float]] | None = None,
) -> None:
    """Train, and write the result. The previews are of these prompts. `measure` gives more metrics after a step."""
    from ..tuning.loop import train
    from ..tuning.preview import previews

    progress.note(tuner.memory())
    show = previews(run, tuner.policy, prompts, settings, every=config.preview_every, seed=seed)

    def evaluate(step: int) -> dict[str, float]:
        with tuner.averaged():
            return {**show(step), **(measure(step) if measure else {})}

    train(algorithm, run, save_every=config.save_every, evaluate=evaluate)
    with tuner.averaged(), run.results() as folder:
        if run.world.is_main:
            tuner.policy.trained.save(folder, config.export)
    progress.note(tuner.policy.trained.result(run.folder))


def steps_of(config: DPOConfig, unit: str, of: str, processes: int) -> str:
    """Says how many pairs, or pictures, a step or a round has."""
    together = config.batch * config.accumulate * processes
    many = f" × {processes} processes" if processes > 1 else ""
    return (
        f"{progress.plural(config.max_steps, unit)} of {config.batch} × {config.accumulate}{many} = "
        f"{progress.plural(together, of)}"
    )
