"""Tune a model on preference pairs."""

import dataclasses
import os
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

from .. import plugins, progress
from ..configs import PREFERENCE_ALGORITHMS, D3POConfig, DPOConfig
from ..contracts import Settings
from ..errors import UserError
from ..images.folders import Folders
from ..options import Device, Pairs, Roots, RunFolder, Seed, TunedModel, option, options, plugin
from ..records import Pair, digest, prompt_too_long
from ..streams.joins import ConsistencyChecker
from ..streams.places import absolute_path, folder_of, is_stream
from ..streams.reading import located, read_prompts
from ..tuning.asked import as_options, check_noise, check_trained_steps, chosen, weights_of
from ..tuning.folder import check
from ..tuning.opening import announce_once, opened

if TYPE_CHECKING:
    from ..tuning.loop import Algorithm
    from ..tuning.run import Run
    from ..tuning.tuner import Tuner


ONLY_WITH_PAIRS = ("prompt_dropout", "loss", "label_smoothing", "margin_weight", "sft", "validate_every")
"""Options of dpo that d3po does not have."""
HELD_OUT = 64
"""Maximum number of held-out pairs that are measured."""


@options(DPOConfig)
@options(D3POConfig, "d3po")
def tune_dpo(
    pairs: Pairs,
    *,
    out: RunFolder,
    algorithm: Annotated[
        str,
        option(
            "--algorithm",
            choices=tuple(PREFERENCE_ALGORITHMS),
            presets=PREFERENCE_ALGORITHMS,
            group="Training",
            help="Algorithm. dpo: learns from the pairs in FILE. d3po: FILE holds prompts; it draws pairs of pictures "
            "itself and compares them with --reward, as VisionPrefer does. d3po has other defaults: "
            f"{as_options(PREFERENCE_ALGORITHMS['d3po'])}.",
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
    root: Roots = None,
    seed: Seed = 0,
    device: Device = "auto",
    config: DPOConfig,
    d3po: D3POConfig,
) -> None:
    """Tune a model on preference pairs.

    Trains a LoRA (low-rank adaptation: a small set of weights that is added to those of the model). Pairs with the
    split validation are only measured. Pairs and prompts with another `split` than train are skipped. Those without a
    `split` are used.

    --algorithm dpo (Diffusion-DPO, Wallace et al. 2024, arXiv 2311.12908) trains on pairs directly: the model learns to
    denoise the preferred picture of a pair better, compared with the rejected picture. DPO stands for direct preference
    optimization. It uses no reward model and draws no training pictures. The pictures of the pairs can come from any
    model. Flow models, such as Stable Diffusion 3 and FLUX.1, learn to predict the velocity better, in the same way;
    their noise levels are logit-normal.

    --algorithm d3po (Yang et al. 2024, arXiv 2311.13231) needs no pairs, only prompts. In each round (--max-steps
    counts rounds) it draws two pictures of some prompts from the same noise. A reward says which one is better, and
    training makes its denoising steps more likely, and those of the other less likely. --steps, --guidance and --eta
    are options of d3po.

    The output folder holds the LoRA in pytorch_lora_weights.safetensors, previews drawn from fixed seeds, and metrics
    in metrics.jsonl and in files for TensorBoard. To use the LoRA, run generate --adapter DIR, or call
    pipe.load_lora_weights(DIR) in diffusers. In a healthy run of dpo the loss stays near log 2 = 0.693 for a long time,
    and implicit_accuracy rises. This metric is the share of pairs for which the tuned model, compared with the untuned
    one, favours the preferred picture. If there are pairs with the split validation, held_out_accuracy is this share
    for up to 64 of them, and held_out_margin says by how much: on all noise levels, and on each quarter of them. When
    implicit_accuracy still rises and held_out_accuracy falls, the pairs are being learnt by heart.

    dpo encodes each picture and each prompt once. It keeps the results in the folder cache of the output folder, so a
    resumed run encodes only what is new or damaged. A picture takes 0.07 MB there at 512 × 512 and 0.26 MB at
    1024 × 1024, and a prompt 0.24 MB, 0.64 MB with SDXL, 5 MB with Stable Diffusion 3, and 8 MB with FLUX.1. If they
    would need more than 90 % of the free space, they are encoded whenever they are used. The end of the run deletes the
    folder; you may delete it at any time before.

    With accelerate, several GPUs train together: accelerate launch -m vpctl tune-dpo and the same options. Each process
    computes its own part of a step, so a step has that many times more pairs.

    Examples:

        vpctl tune-dpo pairs.jsonl --out dpo-lora/

        vpctl tune-dpo prompts.jsonl --algorithm d3po
            --reward vp:vp-score/ --out d3po-lora/

        vpctl tune-dpo pairs.jsonl
            -m diffusion:stable-diffusion-v1-5/stable-diffusion-v1-5
            --out dpo-lora/
    """
    announce_once()
    check_algorithm(algorithm, reward, config, d3po)
    spec = plugins.check("generator", model or "shapes", algorithm=algorithm, steps=d3po.steps, export=config.export)
    if not model:
        progress.note("no --model given: using the built-in shapes world")
    asked: dict[str, Any] = {"pairs": absolute_path(pairs), "algorithm": algorithm, "model": spec, "seed": seed}
    asked |= {**dataclasses.asdict(config), "processes": int(os.environ.get("WORLD_SIZE", 1))}
    if algorithm == "dpo":
        tune_on_pairs(pairs, asked, config, root or [], out=out, device=device)
    else:
        tune_on_own_pictures(pairs, asked, config, d3po, reward or [], out=out, device=device)


def check_algorithm(algorithm: str, reward: list[str] | None, config: DPOConfig, d3po: D3POConfig) -> None:
    """Raise `UserError` for options of another algorithm, or for values that the algorithm cannot use."""
    if algorithm == "d3po":
        for name in ONLY_WITH_PAIRS:
            if getattr(config, name) != getattr(DPOConfig, name):
                raise UserError(f"--{name.replace('_', '-')}: is an option of --algorithm dpo, not of d3po")
        check_noise(d3po.eta, algorithm)
        return
    if config.label_smoothing and config.loss != "dpo":
        raise UserError(f"--label-smoothing: is for --loss dpo, not for {config.loss}")
    if d3po.steps:
        raise UserError("--steps: is an option of --algorithm d3po; --max-steps is the number of optimizer steps")
    given = [field.name for field in dataclasses.fields(d3po) if getattr(d3po, field.name) != field.default]
    for name in [*(["reward"] if reward else []), *given]:
        raise UserError(f"--{name.replace('_', '-')}: is an option of --algorithm d3po, not of {algorithm}")


def tune_on_pairs(
    source: str, asked: dict[str, Any], config: DPOConfig, root: list[str], *, out: str, device: str
) -> None:
    """Diffusion-DPO on the pairs in `source`. `asked` are the options, for the run's folder."""
    joined = ConsistencyChecker(unsaid="train").pairs(located(source, Pair))
    parts: dict[str, list[Pair]] = {"train": [], "validation": []}
    ties = 0
    for pair in progress.track(joined, "pairs"):
        part = pair.get("split", "train")
        ties += part == "train" and not pair["margin"]
        if part in parts and pair["margin"]:
            parts[part].append(pair)
    wanted, held_out = parts["train"], parts["validation"][:HELD_OUT]
    if ties:
        progress.note(f"{progress.plural(ties, 'tie')} left out")
    if not wanted:
        raise UserError(f"{source}: there are no pairs to train on")
    both = [*wanted, *held_out]
    files = list(chain.from_iterable((pair["chosen_file_name"], pair["rejected_file_name"]) for pair in both))
    roots = [folder_of(source), *root]
    Folders(roots, piped=is_stream(source)).check(files)
    named = [[pair["prompt"], pair["chosen_file_name"], pair["rejected_file_name"]] for pair in both]
    asked["data"] = digest([len(wanted), named])
    check(out, asked)
    generator = plugins.tunable(asked["model"], device=device)
    asked["model_fingerprint"] = plugins.model_fingerprint(asked["model"], generator)
    with opened(out, asked, device) as run:
        if run is None:
            return
        from ..images.pictures import Pictures
        from ..tuning.dpo import DiffusionDPO, HeldOutPairs, Preference
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
        posteriors = EncodedPictures(files, tuner.policy, Pictures(roots), run.folder)
        posteriors.encode(run.world)
        keep_prompts((pair["prompt"] for pair in both), tuner.policy, run.folder)
        places = posteriors.places
        preferences = [
            Preference(
                places[pair["chosen_file_name"]], places[pair["rejected_file_name"]], pair["prompt"], pair["margin"]
            )
            for pair in both
        ]
        progress.note(f"{progress.plural(len(wanted), 'pair')}; {steps_of(config, 'step', run.world.size)}")
        algorithm = DiffusionDPO(tuner, posteriors, preferences[: len(wanted)], config)
        others = HeldOutPairs(tuner, posteriors, preferences[len(wanted) :], config, seed=asked["seed"])

        def measure(step: int) -> dict[str, float]:
            due = step % config.validate_every == 0 or step == config.max_steps
            return others.measure() if held_out and step and due else {}  # an untuned model favours no picture

        prompts = [pair["prompt"] for pair in wanted]
        tune(algorithm, tuner, run, prompts, generator.settings, config, asked["seed"], measure)
        if algorithm.advice:
            progress.warn(algorithm.advice)


def tune_on_own_pictures(
    source: str,
    asked: dict[str, Any],
    config: DPOConfig,
    own: D3POConfig,
    reward: list[str],
    *,
    out: str,
    device: str,
) -> None:
    """D3PO on the prompts in `source`. `asked` are the options, for the run's folder."""
    weights = weights_of(reward or ["shapes"])
    if not reward:
        progress.note("no --reward given: using the built-in shapes world")
    prompts = [one["prompt"] for one in read_prompts(source, prompt_too_long) if one.get("split", "train") == "train"]
    texts = list(dict.fromkeys(prompts))
    if not texts:
        raise UserError(f"{source}: there are no prompts to train on")
    asked |= {
        **dataclasses.asdict(own),
        "reward": weights,
        "data": digest(texts),
        "reward_fingerprints": plugins.fingerprints(*weights),
    }
    check(out, asked)
    spec = asked["model"]
    generator = plugins.tunable(spec, device=device)
    asked["model_fingerprint"] = plugins.model_fingerprint(spec, generator)
    settings = generator.settings
    steps = chosen("--steps", own.steps, settings.num_inference_steps, spec)
    check_trained_steps(own.skip_last, steps)
    guidance = chosen("--guidance", own.guidance, settings.guidance_scale, spec)
    with opened(out, asked, device) as run:
        if run is None:
            return
        from ..tuning.d3po import D3PO
        from ..tuning.objective import Objective
        from ..tuning.tuner import Tuner

        objective = Objective({name: plugins.load("reward", name, device=device) for name in weights}, weights)
        tuner = Tuner.open(
            generator.pipeline,
            config,
            algorithm=asked["algorithm"],
            source=spec,
            seed=asked["seed"],
            world=run.world,
        )
        progress.note(steps_of(config, "round", run.world.size))
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
    """Train, and write the LoRA. The previews are of these prompts. `measure` gives more metrics after a step."""
    from ..tuning.loop import train
    from ..tuning.preview import previews

    show = previews(run, tuner.policy, prompts, settings, every=config.preview_every, seed=seed)

    def evaluate(step: int) -> dict[str, float]:
        with tuner.averaged():
            return {**show(step), **(measure(step) if measure else {})}

    train(algorithm, run, save_every=config.save_every, evaluate=evaluate)
    with tuner.averaged(), run.results() as folder:
        tuner.policy.save_lora(folder, config.export)
    progress.note(f"the LoRA is in {run.folder}; use it with generate --adapter {run.folder}")


def steps_of(config: DPOConfig, unit: str, processes: int) -> str:
    """Says how many pairs a step, or a round, has."""
    together = config.batch * config.accumulate * processes
    many = f" × {processes} processes" if processes > 1 else ""
    return (
        f"{progress.plural(config.max_steps, unit)} of {config.batch} × {config.accumulate}{many} = "
        f"{progress.plural(together, 'pair')}"
    )
