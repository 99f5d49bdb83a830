"""What the commands that draw pictures read from the command line: rewards, settings, and what is trained."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from .. import plugins, progress
from ..configs import OptimizerConfig, ServerConfig
from ..contracts import Reward
from ..errors import UserError
from ..models import launcher, sources
from ..records import digest, fingerprint

N = TypeVar("N", int, float)


JUDGE = "judge"
"""The name of the reward that asks an annotator."""


def weights_of(
    named: Sequence[str], option: str = "--reward", *, gradient: bool = False, server: ServerConfig | None = None
) -> dict[str, float]:
    """The weights of rewards, which are named as SPEC or SPEC=WEIGHT. Without a WEIGHT it is 1.

    Raises `UserError` if a reward is named twice, cannot be used, or has a weight that is not a number. With
    `gradient`, also raises it for a packaged reward that has no gradient. With `server`, also if a judge has no key.
    """
    weights: dict[str, float] = {}
    for text in named:
        spec, weight = weighted(text, option)
        if spec in weights:
            raise UserError(f"{option} {spec}: is named twice; name it once, with one weight")
        try:
            plugins.check("reward", spec, gradient=gradient, server=server)
        except UserError as error:  # it names the option that most commands have
            raise UserError(str(error).replace("--reward", option, 1)) from None
        weights[spec] = weight
    return weights


def judge_options(rewards: Iterable[str], aspects: Sequence[str], server: ServerConfig) -> dict[str, Any]:
    """The options that a judge's answers depend on, besides its name; empty if none of the `rewards` is a judge.

    Raises `UserError` if there is an option for a judge and no judge, or an aspect that does not exist.
    """
    judges = [spec for spec in rewards if plugins.split(spec)[0] == JUDGE]
    if not judges:
        for name in given_to_judge(aspects, server):
            raise UserError(
                f"--{name.replace('_', '-')}: is an option for a judge; name one, such as --reward judge:openai:gpt-4o"
            )
        return {}
    rubrics = [[*plugins.aspect(one)] for one in aspects]
    asked = {"judge_aspects": digest(rubrics)}
    if served(judges):
        from ..api.engine import address

        asked["base_url"] = address(server)
    return {**asked, **{name: getattr(server, name) for name in ("temperature", "max_tokens", "extra")}}


def given_to_judge(aspects: Sequence[str], server: ServerConfig) -> list[str]:
    """The options for judges that were given on the command line: they differ from their defaults."""
    given = [one.name for one in dataclasses.fields(server) if getattr(server, one.name) != one.default]
    return [*(["judge_aspect"] if aspects else []), *given]


def served(rewards: Iterable[str]) -> list[str]:
    """Those of the rewards that are judges which ask a server."""
    split = {spec: plugins.split(spec) for spec in dict.fromkeys(rewards)}
    return [
        spec
        for spec, (name, argument) in split.items()
        if name == JUDGE and plugins.takes("annotator", argument, "server")
    ]


LIMITS = ("max_cost", "max_requests", "rpm", "tpm", "concurrency")
"""Limits that hold for all judges of all processes together."""


def share_of_limits(rewards: Iterable[str], server: ServerConfig) -> ServerConfig:
    """The options of each judge in each process: an equal share of the `LIMITS`, so that they hold in total.

    Each may make at least one call at a time. Raises `UserError` if a limit is too small to be divided.
    """
    parts = len(served(rewards)) * launcher.processes()
    if parts <= 1:
        return server
    shares: dict[str, Any] = {}
    for name in LIMITS:
        if (limit := getattr(server, name)) is None:
            continue
        shares[name] = limit // parts if isinstance(limit, int) else limit / parts
        if name == "concurrency":
            shares[name] = max(1, shares[name])
        elif not shares[name]:
            raise UserError(
                f"--{name.replace('_', '-')} {limit}: is divided by the {parts} judges of all processes; name at least "
                f"{parts}"
            )
    said = " ".join(f"--{name.replace('_', '-')} {share:g}" for name, share in shares.items())
    progress.note(f"the limits are divided: each judge in each process has {said}")
    return dataclasses.replace(server, **shares)


def load_rewards(
    specs: Iterable[str], folder: Path, aspects: Sequence[str], server: ServerConfig, *, rank: int, device: str
) -> dict[str, Reward]:
    """The rewards by their names. Each process of a run keeps the answers of each judge in a file of the `folder`.

    It also reads those of the other processes: a run may be resumed with fewer, and pictures move between them.
    """
    process = f"-{rank}" if rank else ""

    def load(spec: str) -> Any:
        answers = folder / f"judgements-{digest(spec)}{process}.jsonl"
        others = sorted({*map(str, folder.glob(f"judgements-{digest(spec)}*.jsonl"))} - {str(answers)})
        return plugins.load(
            "reward", spec, device=device, server=server, aspects=aspects, answers=str(answers), others=others
        )

    return {spec: load(spec) for spec in dict.fromkeys(specs)}


def weighted(text: str, option: str = "--reward") -> tuple[str, float]:
    """The spec of a reward and its weight, which is 1 by default."""
    spec, equals, weight = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number == 0:
        raise UserError(
            f"{option} {text}: {weight!r} is not a number other than 0; write the weight after =, as in pickscore=0.5"
        )
    return spec, number


def chosen(option: str, given: N | None, own: N | None, spec: str) -> N:
    """The value of an option, or the model's own if the option is not given. Raises `UserError` if both are None."""
    value = own if given is None else given
    if value is None:
        raise UserError(f"{option}: the model {spec} has no default for it; name a value")
    return value


def as_options(values: Mapping[str, Any]) -> str:
    """Values of options, as they are given on the command line."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items())


def check_noise(eta: float, algorithm: str) -> None:
    """Raise `UserError` if --eta is too small for an algorithm that compares probabilities."""
    if eta < 0.01:
        raise UserError(
            f"--eta {eta:g}: {algorithm} needs at least 0.01, because steps without noise have no probability"
        )


def check_trained_steps(skip_last: int, steps: int) -> None:
    """Raise `UserError` if --skip-last leaves no denoising step to train on."""
    if skip_last >= steps:
        raise UserError(f"--skip-last {skip_last}: leaves none of {steps} denoising steps to train on")


_FULL_LEARNING_RATE = 1e-5
"""The learning rate at which ReFL and DDPO train all weights."""
_ROUNDING = {
    **dict.fromkeys(("dpo", "kto"), ("differences of errors", 5e-4)),
    **dict.fromkeys(("ddpo", "grpo", "d3po"), ("log-probabilities", 3e-4)),
}
"""What algorithms compare, and how large the rounding of bfloat16 is there. It was measured with the model `shapes`."""


def warn_of_rounding(dtype: str, algorithm: str) -> None:
    """Print a warning if an algorithm compares numbers that rounding changes as much as a few training steps do."""
    if dtype == "bfloat16" and algorithm in _ROUNDING:
        what, size = _ROUNDING[algorithm]
        progress.warn(
            f"--dtype bfloat16: {algorithm} compares {what}, and rounding changes them by about {size:g}, as much as "
            "the first training steps do; --dtype float16 or float32 changes them less"
        )


def check_trained(config: OptimizerConfig, usual: Mapping[str, Any]) -> str:
    """What identifies the content of the LoRA of --lora; empty without one.

    `usual` are the values of options that the algorithm has by default. Raises `UserError` if there is no such LoRA, or
    if --lora or --full contradicts another option, or if the library of --optimizer is not installed. Warns of a
    learning rate that is not meant for --full.
    """
    if config.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None:
        raise UserError("--optimizer adamw8bit: needs bitsandbytes; run pip install 'vpctl[8bit]'")
    usual = {**{field.name: getattr(config.__class__, field.name) for field in dataclasses.fields(config)}, **usual}
    if config.full:
        for name in ("lora", "rank", "lora_targets", "export"):
            if getattr(config, name) != usual[name]:
                raise UserError(f"--{name.replace('_', '-')}: is for a LoRA, and --full trains none; leave it out")
        if config.learning_rate == usual["learning_rate"] > _FULL_LEARNING_RATE:
            progress.warn(
                f"--full: the learning rate {config.learning_rate:g} is meant for a LoRA; to train all weights, name a "
                f"--learning-rate of {_FULL_LEARNING_RATE:g} or less"
            )
    if not config.lora:
        return ""
    ranks = sources.ranks_to_train(config.lora)
    of = f"--lora {config.lora} is a LoRA"
    if config.rank != usual["rank"] and {*ranks.values()} != {config.rank}:
        own = " and ".join(map(str, sorted({*ranks.values()})))
        raise UserError(f"--rank {config.rank}: {of} of rank {own}; leave --rank out")
    names = [name.strip() for name in config.lora_targets.split(",") if name.strip()]
    for layer in ranks:
        if names and not any(layer.endswith(f".{name}") for name in names):
            raise UserError(f"--lora-targets {config.lora_targets}: {of} of {layer}, too; leave --lora-targets out")
    for name in names:
        if not any(layer.endswith(f".{name}") for layer in ranks):
            raise UserError(f"--lora-targets {name}: {of} of other layers; leave --lora-targets out")
    path = Path(config.lora)
    return fingerprint(str(path if path.is_file() else path / plugins.LORA_FILE))
