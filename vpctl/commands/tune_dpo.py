"""Tune a model on preference pairs."""

import dataclasses
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from .. import plugins, progress
from ..configs import DPOConfig
from ..errors import RecordFailed, UserError
from ..images.folders import Folders
from ..options import Device, Pairs, Roots, RunFolder, Seed, TunedModel, options
from ..records import Pair, digest
from ..streams.joins import ConsistencyChecker
from ..streams.places import absolute_path, folder_of, is_stream
from ..streams.reading import located
from ..tuning.folder import check
from ..tuning.opening import opened

if TYPE_CHECKING:
    from ..images.pictures import Pictures
    from ..models.denoiser import Denoiser
    from ..models.denoiser.latents import Posteriors
    from ..tuning.dpo import Preference


@options(DPOConfig)
def tune_dpo(
    pairs: Pairs,
    *,
    out: RunFolder,
    model: TunedModel = "",
    root: Roots = None,
    seed: Seed = 0,
    device: Device = "auto",
    config: DPOConfig,
) -> None:
    """Tune a model on preference pairs.

    Trains a LoRA (low-rank adaptation: a small set of weights that is added to those of the model) with Diffusion-DPO
    (Wallace et al. 2024, arXiv 2311.12908). DPO, direct preference optimization, trains on pairs directly: the model
    learns to denoise the preferred picture of a pair better, compared with the rejected picture. It uses no reward
    model and draws no training pictures. The pictures of the pairs can come from any model. Pairs with a `split` other
    than train are skipped. Pairs without a `split` are used.

    The output folder holds the LoRA in pytorch_lora_weights.safetensors, previews drawn from fixed seeds, and metrics
    in metrics.jsonl and in files for TensorBoard. To use the LoRA, run generate --adapter DIR, or call
    pipe.load_lora_weights(DIR) in diffusers. In a healthy run the loss stays near log 2 = 0.693 for a long time, and
    implicit_accuracy rises. This metric is the share of pairs for which the tuned model, compared with the untuned
    one, favours the preferred picture.

    Examples:

        vpctl tune-dpo pairs.jsonl --out dpo-lora/

        vpctl tune-dpo pairs.jsonl
            -m diffusion:stable-diffusion-v1-5/stable-diffusion-v1-5
            --out dpo-lora/
    """
    spec = plugins.check("generator", model or "shapes", tuned=True)
    if not model:
        progress.note("no --model given: using the built-in shapes world")
    joined = ConsistencyChecker(unsaid="train").pairs(located(pairs, Pair))
    ours = [pair for pair in progress.track(joined, "pairs") if pair.get("split", "train") == "train"]
    wanted = [pair for pair in ours if pair["margin"]]
    if len(wanted) < len(ours):
        progress.note(f"{progress.plural(len(ours) - len(wanted), 'tie')} left out")
    if not wanted:
        raise UserError(f"{pairs}: there are no pairs to train on")
    files = chain.from_iterable((pair["chosen_file_name"], pair["rejected_file_name"]) for pair in wanted)
    Folders([folder_of(pairs), *(root or [])], piped=is_stream(pairs)).check(files)
    asked: dict[str, Any] = {
        "pairs": absolute_path(pairs),
        "model": spec,
        "seed": seed,
        **dataclasses.asdict(config),
        "data": digest([[pair["prompt"], pair["chosen_file_name"], pair["rejected_file_name"]] for pair in wanted]),
    }
    check(out, asked)
    generator = plugins.tunable(spec, device=device)
    asked["model_fingerprint"] = plugins.model_fingerprint(spec, generator)
    with opened(out, asked, device) as run:
        if run is None:
            return
        from ..images.pictures import Pictures
        from ..models.denoiser import open_denoiser
        from ..tuning.dpo import DiffusionDPO
        from ..tuning.loop import train
        from ..tuning.preview import previews

        policy = open_denoiser(generator.pipeline, rank=config.rank, source=spec, seed=seed)
        posteriors, preferences = encoded(wanted, policy, Pictures([folder_of(pairs), *(root or [])]))
        progress.note(
            f"{progress.plural(len(preferences), 'pair')}, {progress.plural(config.max_steps, 'step')} of "
            f"{config.batch} × {config.accumulate} = {progress.plural(config.batch * config.accumulate, 'pair')}"
        )
        prompts = (pair["prompt"] for pair in wanted)
        show = previews(run, policy, prompts, generator.settings, every=config.preview_every, seed=seed)
        algorithm = DiffusionDPO(policy, posteriors, preferences, config, seed=seed)
        train(algorithm, run, save_every=config.save_every, evaluate=show)
        with run.results() as folder:
            policy.save_lora(folder)
    progress.note(f"the LoRA is in {out}; use it with generate --adapter {out}")


def encoded(pairs: list[Pair], policy: "Denoiser", pictures: "Pictures") -> "tuple[Posteriors, list[Preference]]":
    """The posterior of every picture, encoded once, and the pairs as indices into the posteriors.

    Raises `UserError` for a picture that cannot be opened.
    """
    import torch

    from ..models.denoiser.latents import Posteriors
    from ..tuning.dpo import Preference

    numbers: dict[str, int] = {}
    preferences = [
        Preference(
            numbers.setdefault(pair["chosen_file_name"], len(numbers)),
            numbers.setdefault(pair["rejected_file_name"], len(numbers)),
            pair["prompt"],
        )
        for pair in pairs
    ]
    parts = []
    paths = iter(progress.track(numbers, "pictures encoded", total=len(numbers)))
    while chunk := list(islice(paths, 16)):
        try:
            parts.append(policy.encode(torch.cat([policy.fitted([pictures.open(path)]) for path in chunk])))
        except RecordFailed as failure:
            raise UserError(str(failure)) from None
    return Posteriors.cat(parts), preferences
