"""Train a reward model on preference pairs."""

import dataclasses
import math
import os
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import orjson

from .. import progress
from ..configs import PRESETS, RewardModelConfig
from ..errors import UserError
from ..images.folders import Folders
from ..models import backbones, launcher
from ..models.folder import SCALE_FILE
from ..options import Device, Pairs, Roots, RunFolder, Seed, option, options
from ..prompts.duplicates import plain
from ..prompts.leaks import nearly_equal, same_words
from ..records import ORIGINAL_SUFFIX, Pair, Report, digest, fingerprint, listing, prompt_key, split_of
from ..streams.joins import ConsistencyChecker
from ..streams.places import absolute_path, folder_of, is_stream
from ..streams.reading import located
from ..tuning.opening import announce_once, opened

if TYPE_CHECKING:
    from ..models.reward import RewardModel
    from ..tuning.held_out import RewardScale
    from ..tuning.reward import Kept, PromptPairs
    from ..tuning.store import Store

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
"""Shares of the prompts in each part, if no pair has a split."""
PARTS = ("train", "validation", "test")


def grouped(pairs: Iterable[Pair], store: "Store") -> "list[PromptPairs]":
    """The pairs by prompt."""
    from ..tuning.reward import Comparison, PromptPairs

    groups: dict[str, PromptPairs] = {}
    for pair in pairs:
        group = groups.setdefault(prompt_key(pair), PromptPairs(pair["prompt"], [], []))
        places = []
        for path in (pair["chosen_file_name"], pair["rejected_file_name"]):
            number = store.number(path)
            if number not in group.pictures:
                group.pictures.append(number)
            places.append(group.pictures.index(number))
        group.pairs.append(Comparison(places[0], places[1], pair["margin"], pair.get("aspects", {})))
    return list(groups.values())


@options(RewardModelConfig)
def train_rm(
    pairs: Pairs,
    *,
    out: RunFolder,
    backbone: Annotated[
        str,
        option(
            metavar="MODEL",
            offered=(*backbones.NEW, "imagereward"),
            group="Model",
            help="Model to start training from: the folder or hub id of a BLIP model (for image-text retrieval), of a "
            "CLIP or of a SigLIP model; imagereward, or imagereward:FILE, for ImageReward's checkpoint; or new:blip or "
            "new:clip for a small untrained model, with --freeze 0.",
            show_default="the small BLIP of the shapes world",
        ),
    ] = "",
    preset: Annotated[
        str,
        option(
            "--preset",
            choices=tuple(PRESETS),
            presets=PRESETS,
            group="Training",
            help="Recipe of a paper: values for the other options, which are printed. An option that is given wins.",
            show_default="none",
        ),
    ] = "",
    root: Roots = None,
    seed: Seed = 0,
    device: Device = "auto",
    config: RewardModelConfig,
) -> None:
    """Train a reward model on preference pairs.

    A reward model gives a picture a score for a prompt. It learns from pairs to score the preferred picture higher.

    train-rm trains on the pairs whose `split` is train. After each epoch it measures the loss on the pairs whose
    `split` is validation. It keeps the weights of the epoch with the lowest loss, or of the last epoch if there are no
    such pairs. The model card reports the accuracy on the pairs whose `split` is test, which no choice depends on. If
    some pairs have a `split`, the pairs without one are used for training. If no pair has a `split`, 10 % of the
    prompts become validation and 10 % test. The same prompt in two parts is an error. Prompts that are nearly equal to
    a prompt of another part are counted in a warning and in the model card.

    By default, the loss is the negative log-likelihood of the Bradley-Terry model, as in VisionPrefer (Wu et al. 2024,
    arXiv 2404.15100, section 4.1). The choice of frozen layers and the decay of the learning rate follow ImageReward
    (Xu et al. 2023, arXiv 2304.05977).

    With accelerate, several GPUs train together: accelerate launch -m vpctl train-rm and the same options. Each process
    computes its own part of a step, so a step has that many times more prompts.

    The output folder is a transformers model with its tokenizer and image processor. vpctl uses it as the reward
    vp:DIR. The model card shows how to use it with transformers and without vpctl. The folder also holds the files
    of the training: options in run.json, metrics in metrics.jsonl and in files for TensorBoard, plots of loss and
    accuracy as SVG, and, if there are test pairs, their accuracies in accuracy.jsonl. These are in all definitions of
    eval accuracy. Two of the definitions, ties-count and tie-aware, also count ties. merge --keep-ties writes ties.

    What the frozen vision layers compute for a picture is kept in the folder cache of the output folder, if it needs at
    most 90 % of the free space. The end of the training deletes this folder; you may delete it at any time before.

    With --aspect-weight, heads.safetensors holds a reward for each aspect. It shows what the model has learnt of an
    aspect. score does not read this file: vp:DIR gives the overall reward only. The model card has Python code that
    computes the rewards by aspect, and accuracy.jsonl has their accuracies.

    Examples:

        vpctl train-rm pairs.jsonl --out vp-score/

        vpctl train-rm pairs.jsonl --preset visionprefer --out vp-score/

        vpctl train-rm pairs.jsonl --backbone Salesforce/blip-itm-large-coco
            --aspect-weight 1 --patience 2 --dtype bfloat16 --out vp-score/
    """
    announce_once()
    if launcher.shards():
        raise UserError(f"{launcher.FSDP}: train-rm does not shard its weights; launch it without --use_fsdp")
    if launcher.asks_for(launcher.DEEPSPEED) and launcher.processes() > 1:
        raise UserError(f"{launcher.DEEPSPEED}: train-rm does not divide its optimizer; launch it without DeepSpeed")
    processes = launcher.processes()
    held = preset_values(preset, {"backbone": backbone, **vars(config)}) if preset else {}
    if preset:
        progress.note(f"--preset {preset} sets {' '.join(f'{name} {value}' for name, value in held.items())}")
    try:
        check_backbone(backbone, config)
    except UserError as error:
        ours = [name for name in held if str(error).startswith(f"{name} ")]
        raise UserError(f"{error}; --preset {preset} sets {ours[0]}" if ours else str(error)) from None
    if not backbone:
        progress.note("no --backbone given: using the backbone of the built-in shapes world")
    left_out = frozenset(config.without or ())
    joined = ConsistencyChecker(unsaid=PARTS[0]).pairs(located(pairs, Pair, partial(_unusable, left_out=left_out)))
    everything = list(progress.track(joined, "pairs"))
    split = divided(everything, pairs)
    judged = {aspect for pair in everything for aspect in pair.get("aspects", {})}
    for aspect in left_out - judged:
        raise UserError(f"--without {aspect}: the pairs have no such aspect; they have {', '.join(sorted(judged))}")
    aspects = sorted(judged - left_out)
    if not aspects and (left_out or config.aspect_weight):
        what = f"--without {sorted(left_out)[0]}" if left_out else f"--aspect-weight {config.aspect_weight:g}"
        raise UserError(f"{what}: the pairs have no {'other ' if left_out else ''}aspects; leave the option out")
    prompts = {name: list(dict.fromkeys(pair["prompt"] for pair in part)) for name, part in split.items()}
    if leak := same_words(prompts):
        raise UserError(
            f"{pairs}: the prompt {leak.prompt[:60]!r} is in split {leak.part!r} and, under another prompt_id, in "
            f"{leak.other!r}; a prompt in two parts leaks from one to the other: put it in one"
        )
    if config.patience and not split["validation"]:
        raise UserError(
            f"--patience {config.patience}: {pairs} has no pairs in split validation; merge --split "
            "train:0.8,validation:0.1,test:0.1 makes some"
        )
    pictures = chain.from_iterable((pair["chosen_file_name"], pair["rejected_file_name"]) for pair in everything)
    Folders([folder_of(pairs), *(root or [])], piped=is_stream(pairs)).check(pictures)
    held_out = {name: split[name] for name in ("validation", "test")}
    split = learnable(split, left_out, ties=config.loss == "ties", source=pairs)
    split["train"] = share_of(split["train"], config.data_fraction)
    if config.pairs_per_step and config.accumulate == 1:
        config = dataclasses.replace(config, accumulate=passes_per_step(split["train"], config, processes))
    asked = {"pairs": absolute_path(pairs), "backbone": backbone, "seed": seed, **dataclasses.asdict(config)}
    local = backbone.removeprefix("imagereward:")
    data = {
        "processes": processes,
        "data": digest([[*map(_pair_id, part)] for part in (*split.values(), *held_out.values())]),
        "backbone_fingerprint": fingerprint(local) if os.path.exists(local) else "",
    }
    with opened(out, {**asked, **data}, device) as run:
        if run is None:
            return
        from ..images.pictures import Pictures
        from ..models.reward import open_backbone
        from ..tuning.freezing import freeze
        from ..tuning.held_out import OVERALL, RewardScale, accuracy_reports, labelled, threshold_for_ties
        from ..tuning.loop import train
        from ..tuning.reward import RewardTraining, measure
        from ..tuning.sizes import limit_text, with_pictures_of
        from ..tuning.store import Store

        if near := nearly_equal(prompts):
            progress.warn(
                f"nearly equal to a prompt of another part: {progress.plural(len(near), 'prompt')}, such as "
                f"{near[0].prompt[:60]!r} in {near[0].part} and {near[0].like[:60]!r} in {near[0].other}; the accuracy "
                "on them may be too high"
            )
        model = open_backbone(backbone, seed=seed)
        if config.text_limit:
            limit_text(model, config.text_limit)
        if config.image_size:
            model = with_pictures_of(model, config.image_size)
        cut = count_too_long(model, prompts)
        store = Store(model, Pictures([folder_of(pairs), *(root or [])]))
        groups = {name: grouped(part, store) for name, part in split.items()}
        with_ties = {name: grouped(part, store) for name, part in held_out.items()}
        freeze(model.backbone, config.freeze, config.freeze_rule)
        where = run.world.device
        model.to(where)
        algorithm = RewardTraining(
            model,
            groups["train"],
            groups["validation"],
            store.load,
            config,
            seed=seed,
            world=run.world,
            aspects=aspects if config.aspect_weight else (),
        )
        store.freeze(run.folder, algorithm.dtype)
        train(algorithm, run, save_every=config.save_every, evaluate=algorithm.validate)
        kept = algorithm.finish()
        store.thaw()
        trained = measure(model, groups["train"][:2000], store.load, config.batch, where)
        scale = RewardScale(trained.mean, trained.std or 1.0)
        found = {
            name: labelled(model, part, store.load, config.batch, where, heads=algorithm.heads, scale=scale)
            for name, part in with_ties.items()
        }
        threshold = threshold_for_ties(found["validation"][OVERALL])
        reports = accuracy_reports(found["test"], threshold, f"vp:{out}")
        near_tests = sum(one.part == "test" for one in near)
        kind, heads = model.backbone.config.model_type, algorithm.heads.names
        said = card(asked, split, kept, reports, kind, near=near_tests, cut=cut, heads=heads)
        with run.results() as folder:
            model.save(folder)
            algorithm.heads.save(folder)
            write_scale(folder, scale)
            if reports:
                (folder / "accuracy.jsonl").write_bytes(b"".join(map(_line, reports)))
            (folder / "README.md").write_text(said, encoding="utf-8")
            for name, drawn in plots(out, kept).items():
                (folder / name).write_text(drawn, encoding="utf-8")
    if kept.epochs < config.epochs:
        progress.note(f"stopped early, after epoch {kept.epochs} of {config.epochs}: see --patience")
    progress.note(which_epoch(kept))
    for headline in reports[:1]:
        progress.note(
            f"accuracy on {held_out_pairs(headline)}: {headline['value']:.3f} (95 % interval {interval(headline)})"
        )
    progress.note(f"the reward model is in {out}; use it as --reward vp:{out}")


def check_backbone(backbone: str, config: RewardModelConfig) -> None:
    """Raise `UserError` if train-rm cannot start from the backbone, or if the options do not suit it."""
    backbones.check(backbone)
    check_sizes(backbone, config)
    for_blip = {"--freeze-rule imagereward": config.freeze_rule == "imagereward", "--head mlp": config.head == "mlp"}
    for chosen in (name for name, is_so in for_blip.items() if is_so):
        if backbones.kind(backbone) != "blip":
            raise UserError(f"{chosen}: {backbone} is not a BLIP; leave the option out")
    if backbone in backbones.NEW and config.freeze:
        raise UserError(f"--freeze {config.freeze:g}: the layers of a new backbone know nothing yet; add --freeze 0")


def check_sizes(backbone: str, config: RewardModelConfig) -> None:
    """Raise `UserError` if the backbone cannot read so many tokens, or pictures of this size."""
    if config.text_limit is None and config.image_size is None:
        return
    said = backbones.config(backbone)
    most = said.get("text_config", {}).get("max_position_embeddings")
    if config.text_limit and most and config.text_limit > most:
        raise UserError(f"--text-limit {config.text_limit}: the backbone reads at most {most} tokens")
    patch = said.get("vision_config", {}).get("patch_size")
    if config.image_size and backbones.kind(backbone) == "siglip":
        raise UserError(f"--image-size {config.image_size}: a SigLIP keeps its own size; leave the option out")
    if config.image_size and patch and config.image_size % patch:
        below = config.image_size // patch * patch
        near = " or ".join(str(size) for size in (below, below + patch) if size)
        raise UserError(f"--image-size {config.image_size}: must be a multiple of {patch}, such as {near}")


def preset_values(preset: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a preset has set. `values` are those of the run, among them options that were given."""
    held = {name: value for name, value in PRESETS[preset].items() if values[name] == value}
    return {f"--{name.replace('_', '-')}": value for name, value in held.items()}


def passes_per_step(pairs: Sequence[Pair], config: RewardModelConfig, processes: int = 1) -> int:
    """The forward passes of each process that together have about `pairs_per_step` of these pairs, at least one."""
    assert config.pairs_per_step
    prompts = len({prompt_key(pair) for pair in pairs})
    passes = max(1, round(config.pairs_per_step * prompts / len(pairs) / config.batch / processes))
    progress.note(
        f"an optimizer step has {passes * processes} × {progress.plural(config.batch, 'prompt')}, each with "
        f"{len(pairs) / prompts:.1f} pairs on average"
    )
    return passes


def count_too_long(model: "RewardModel", prompts: Mapping[str, Sequence[str]]) -> str:
    """Says how many prompts are too long to be read whole, and warns of them; empty if none is."""
    from ..tuning.sizes import too_long

    every = list(chain.from_iterable(prompts.values()))
    number, limit = too_long(model, every), model.tokenizer.model_max_length
    if not number:
        return ""
    said = f"{number} of {progress.plural(len(every), 'prompt')} have more than {limit} tokens"
    progress.warn(f"{said}: their ends are not read; see --text-limit")
    return said


def divided(pairs: list[Pair], source: str) -> dict[str, list[Pair]]:
    """The pairs by part of the data: train, validation, test.

    If no pair says its part, prompts with the same words get the same part, also if their ids differ.
    """
    said = any("split" in pair for pair in pairs)
    parts: dict[str, list[Pair]] = {name: [] for name in PARTS}
    of: dict[str, str] = {}
    for pair in pairs:
        if said:
            name = pair.get("split", "train")
        else:
            name = of.setdefault(plain(pair["prompt"]), split_of(prompt_key(pair), SHARES))
        parts[name].append(pair)
    if not parts["train"]:
        raise UserError(f"{source}: there are no pairs to train on" + (" in split train" if said else ""))
    return parts


def learnable(
    split: Mapping[str, list[Pair]], left_out: Collection[str], *, ties: bool, source: str
) -> dict[str, list[Pair]]:
    """The pairs by part, without the aspects that are `left_out` of the preference, and without ties.

    With `ties`, those of the training pairs stay. The test pairs keep all their aspects: models that were trained
    without one of them are compared on the same pairs.
    """
    found: dict[str, list[Pair]] = {}
    for name, part in split.items():
        wanted = [preferring_without(pair, left_out) if left_out and name != "test" else pair for pair in part]
        found[name] = [pair for pair in wanted if pair["margin"] or (ties and name == "train")]
    dropped = {name: number for name, part in split.items() if (number := len(part) - len(found[name]))}
    if dropped:
        of = listing(f"{number} of split {name}" for name, number in dropped.items())
        hint = "" if ties else "; --loss ties also learns from ties"
        progress.note(f"{progress.plural(sum(dropped.values()), 'tie')} left out: {of}{hint}")
    if not found["train"]:
        raise UserError(f"{source}: there are only ties to train on; --loss ties learns from ties")
    if ties and all(pair["margin"] for pair in found["train"]):
        progress.warn("--loss ties: there are no ties to learn from; merge --keep-ties writes them")
    return found


def share_of(pairs: Sequence[Pair], share: float) -> list[Pair]:
    """The pairs of this share of the prompts, at least one.

    Prompts are ordered by a hash of their id, so that a smaller share is a part of a larger one, whatever the seed.
    Both forms of a prompt, original and polished, stay together.
    """
    key = {one: one.removesuffix(ORIGINAL_SUFFIX) for one in map(prompt_key, pairs)}
    order = sorted(set(key.values()), key=lambda one: digest(["fraction", one]))
    kept = set(order[: max(1, math.ceil(share * len(order) - 1e-9))])
    return [pair for pair in pairs if key[prompt_key(pair)] in kept]


def preferring_without(pair: Pair, left_out: Collection[str]) -> Pair:
    """The pair as its other aspects prefer: its margin is their mean, and the better picture is the chosen one.

    The margin is 0 if the other aspects say nothing.
    """
    aspects = {name: value for name, value in pair["aspects"].items() if name not in left_out}
    margin = round(sum(aspects.values()) / max(1, len(aspects)), 6)
    changed = {**pair, "margin": abs(margin), "aspects": aspects}
    if margin < 0:
        changed = {_of_the_other_picture(key): value for key, value in changed.items()}
        changed["aspects"] = {name: -value for name, value in aspects.items()}
    return cast(Pair, changed)


def _of_the_other_picture(key: str) -> str:
    """The key of a pair that says about the other picture what this key says about one, such as `chosen_image_id`."""
    which, line, rest = key.partition("_")
    return f"{ {'chosen': 'rejected', 'rejected': 'chosen'}.get(which, which) }{line}{rest}"


def _unusable(pair: Pair, left_out: Collection[str]) -> str:
    """Why a pair cannot be used; empty if it can."""
    name = pair.get("split", PARTS[0])
    if name not in PARTS:
        return f"split {name!r} is none of {', '.join(PARTS)}; see merge --split"
    if left_out and "aspects" not in pair:
        return f"--without {min(left_out)} needs the 'aspects' of every pair, which merge writes; this pair has none"
    return ""


def _pair_id(pair: Pair) -> list[Any]:
    aspects = sorted(pair.get("aspects", {}).items())
    return [pair["prompt"], pair["chosen_file_name"], pair["rejected_file_name"], pair["margin"], aspects]


def which_epoch(kept: "Kept") -> str:
    """Says which epoch's weights were kept, and why."""
    if kept.loss is None:
        return f"no pairs are in split validation: kept the weights of the last epoch, {kept.epoch}"
    return (
        f"kept the weights of epoch {kept.epoch} of {kept.epochs}, whose validation loss is the lowest: "
        f"{kept.loss:.4f} (accuracy {kept.accuracy:.3f})"
    )


def write_scale(folder: Path, scale: "RewardScale") -> None:
    """Write the mean and std of the rewards of the training pictures; `vp:` scales rewards by them to mean 0, std 1."""
    (folder / SCALE_FILE).write_bytes(
        orjson.dumps(scale._asdict(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )


def _line(report: Report) -> bytes:
    return orjson.dumps(report, option=orjson.OPT_APPEND_NEWLINE)


def interval(report: Report) -> str:
    """The ends of a report's interval, for people."""
    return f"{report['low']:.3f} to {report['high']:.3f}"


def held_out_pairs(headline: Report) -> str:
    """The number of pairs that an accuracy is of, and the number of their prompts if it is small."""
    pairs = progress.plural(headline["n"], "held-out pair")
    return f"{pairs} of {progress.plural(headline['prompts'], 'prompt')}" if "prompts" in headline else pairs


def card(
    asked: Mapping[str, Any],
    split: Mapping[str, list[Pair]],
    kept: "Kept",
    reports: Sequence[Report],
    kind: str,
    *,
    near: int = 0,
    cut: str = "",
    heads: Sequence[str] = (),
) -> str:
    """The model card of a run with the options `asked`.

    `reports` are those of `accuracy_reports`, the headline first.
    `near` is the number of test prompts that are nearly equal to a prompt of another part. `cut` says how many prompts
    were too long. `heads` are the names of the heads beside the overall one.
    """
    measured = "No test pairs were held out, so its accuracy is not known."
    for headline in reports[:1]:
        measured = (
            f"Accuracy on {held_out_pairs(headline)}: **{headline['value']:.3f}** "
            f"(95 % interval {interval(headline)}, bootstrap over prompts)."
        )
    notes = [f"{(sentence := which_epoch(kept))[0].upper()}{sentence[1:]}."]
    if reports and near:
        notes.append(f"Nearly equal to a prompt of another part: {progress.plural(near, 'test prompt')}.")
    if left_out := asked.get("without"):
        notes.append(f"Left out of what is learnt, but not of the test pairs: {', '.join(left_out)}.")
    if cut:
        notes.append(f"{cut}: their ends are not read.")
    data = [f"| {name} | {len({*map(prompt_key, part)})} | {len(part)} |" for name, part in split.items()]
    judges = sorted({name for part in split.values() for pair in part for name in pair.get("annotators", ())})
    shown = {name: value for name, value in asked.items() if value not in ("", None)}
    return CARD.format(
        use=USE[kind],
        start=asked["backbone"] or "the shapes world's backbone",
        loss=asked.get("loss", RewardModelConfig.loss),
        measured=measured,
        notes="\n".join(map(_wrapped, notes)),
        accuracies=accuracies(reports),
        data="\n".join(data),
        judges=_wrapped(
            f"The pairs were judged by {', '.join(judges)}." if judges else "The pairs do not say who judged them."
        ),
        heads=_heads(heads, kind) if heads else "",
        parameters="\n".join(f"| {name} | {value} |" for name, value in shown.items()),
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, CARD_WIDTH, break_long_words=False, break_on_hyphens=False)


def _heads(names: Sequence[str], kind: str) -> str:
    """The part of the model card about the heads beside the overall one, with their names in order."""
    holds = _wrapped(f"`heads.safetensors` holds more heads, in this order: {', '.join(names)}.")
    return HEADS.format(holds=holds, use=USE_OF_HEADS[kind])


def accuracies(reports: Sequence[Report]) -> str:
    """The part of the model card with the other definitions of accuracy, and the accuracies of the aspects' heads."""
    if not reports:
        return ""
    by_aspect = {str(report["aspect"]): report for report in reports if "aspect" in report}
    others = {
        report["metric"].removeprefix("accuracy_").replace("_", "-"): report
        for report in reports[1:]
        if "aspect" not in report
    }
    rows = [
        f"| {name} | {report['value']:.3f} | {interval(report)} | {report['chance']:.3f} | {report['pairs']} |"
        for name, report in others.items()
    ]
    thresholds = [report["threshold"] for report in others.values() if "threshold" in report]
    ties = TIE_THRESHOLD.format(thresholds[0]) if thresholds else NO_TIES
    heads = [
        f"| {name} | {report['value']:.3f} | {interval(report)} | {report['n']} |" for name, report in by_aspect.items()
    ]
    more = BY_ASPECT.format("\n".join(heads)) if heads else ""
    return ACCURACIES.format(rows="\n".join(rows), ties=ties, by_aspect=more)


def plots(run: str, kept: "Kept") -> dict[str, str]:
    """The plots of a finished run, SVG by file name: loss and accuracy by step, with the epoch that was kept.

    If its metrics cannot be read, this is a warning, and there are no plots: the model is worth more.
    """
    from ..pages.curves import read_metrics
    from ..pages.plots import plot

    try:
        metrics = read_metrics(run)
    except UserError as error:
        progress.warn(f"no plots: {error}")
        return {}
    validated = [step for step, _ in metrics.get("validation_loss", [])]
    mark = (validated[kept.epoch - 1], "kept") if len(validated) >= kept.epoch else None
    found = {}
    for name in ("loss", "accuracy"):
        keys = {"training": name, "validation": f"validation_{name}"}
        if series := {part: metrics[key] for part, key in keys.items() if key in metrics}:
            found[f"{name}.svg"] = plot(f"{name} by step", series, mark=mark)
    return found


USE = {
    "blip": """\
    from transformers import AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval
    model = BlipForImageTextRetrieval.from_pretrained(FOLDER)
    pixels = AutoImageProcessor.from_pretrained(FOLDER)(picture, return_tensors="pt")
    text = AutoTokenizer.from_pretrained(FOLDER)(prompt, truncation=True, return_tensors="pt")
    no, yes = model(text.input_ids, pixels.pixel_values, attention_mask=text.attention_mask).itm_score[0]
    reward = yes - no""",
    "clip": """\
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel
    model = CLIPModel.from_pretrained(FOLDER)
    pixels = AutoImageProcessor.from_pretrained(FOLDER)(picture, return_tensors="pt")
    text = AutoTokenizer.from_pretrained(FOLDER)(prompt, truncation=True, return_tensors="pt")
    reward = model(**text, **pixels).logits_per_image[0, 0]""",
    "siglip": """\
    from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel
    model = SiglipModel.from_pretrained(FOLDER)
    pixels = AutoImageProcessor.from_pretrained(FOLDER)(picture, return_tensors="pt")
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    text = tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt")
    reward = model(input_ids=text.input_ids, **pixels).logits_per_image[0, 0]""",
}
"""By kind of model, how transformers alone computes its reward."""

_OF_EMBEDDINGS = "    features = found.image_embeds * found.text_embeds * found.text_embeds.shape[-1]"
USE_OF_HEADS = {
    "blip": """\
    hidden = model.vision_model(pixels.pixel_values).last_hidden_state
    read = model.text_encoder(text.input_ids, attention_mask=text.attention_mask, encoder_hidden_states=hidden)
    features = read.last_hidden_state[:, 0]""",
    "clip": f"    found = model(**text, **pixels)\n{_OF_EMBEDDINGS}",
    "siglip": f"    found = model(input_ids=text.input_ids, **pixels)\n{_OF_EMBEDDINGS}",
}
"""By kind of model, how the features of the heads are computed, after the code of `USE`."""

HEADS = """
{holds}
`log_std` is the logarithm of the reward's standard deviation. Every other head is a reward for one aspect. `vpctl
score` does not read this file; it is for looking at single aspects. After the code above, this computes the outputs
of the heads:

    from safetensors.torch import load_file
{use}
    heads = load_file(f"{{FOLDER}}/heads.safetensors")
    outputs = features @ heads["weight"].T + heads["bias"]

`features` are the numbers that the reward is computed from. The reward is a weighted sum of them plus a constant, and
so is every output. The outputs are not scaled by `reward.json`.
"""

CARD_WIDTH = 110
"""Longest line of running text in the card, in characters."""

ACCURACIES = """
## Accuracy

Papers count ties in other ways. These are the accuracies on the same test prompts in their definitions, with the pairs
that the judges tied. `vpctl eval accuracy --help` says which paper uses which. The chance is what guessing gives.
`accuracy.jsonl` has all these numbers.

| definition | accuracy | 95 % interval | chance | pairs |
|---|---|---|---|---|
{rows}

{ties}
{by_aspect}"""

TIE_THRESHOLD = """\
`tie-aware` predicts a tie if the probabilities of the two preferences, computed from vpctl's scores, differ by at most
{:g}. This threshold is the best one on the validation pairs."""

NO_TIES = """\
`tie-aware` is not here. It needs a threshold, which is chosen on validation pairs that are ties, and there are none.
`vpctl merge --keep-ties` keeps such pairs."""

BY_ASPECT = """
Each aspect has a head of its own. These are their accuracies on the test pairs that are not tied on the aspect:

| aspect | accuracy | 95 % interval | pairs |
|---|---|---|---|
{}
"""

CARD = """---
library_name: transformers
tags:
- reward-model
- text-to-image
- vpctl
---

# Reward model

How much people, or a multimodal model in their place, would like a picture for a prompt. Trained by `vpctl train-rm`
from {start}, with the {loss} loss.

{measured}

{notes}
{accuracies}
## Use

    vpctl score images/metadata.jsonl --reward vp:FOLDER

It is a plain transformers model. For a BLIP model, the reward is the difference of the two matching logits. For a CLIP
or a SigLIP model, it is the logit of picture and text. vpctl subtracts the `mean` in `reward.json` and divides by its
`std`.

{use}
{heads}
## Limits

Compare rewards only between pictures of one prompt. Rewards are unreliable for pictures and prompts unlike those of the
training. The accuracy is agreement with the judges of these pairs, whose errors the model learns too. A model that is
tuned with this reward can find pictures that it likes and people do not.

## Data

| part | prompts | pairs |
|---|---|---|
{data}

{judges}

## Training

`loss.svg` and `accuracy.svg` show the training, and `metrics.jsonl` has their numbers.

| option | value |
|---|---|
{parameters}
"""
