"""How a command declares its options: each once, for the parser, the help, the manual, completion and `run.json`.

A command is a function whose parameters are annotated with the types below or with its own. `@options(Config)` adds
one option for each field of a dataclass of hyper-parameters (`configs.py`). Declarations know no parser: `for_typer`
translates them.
"""

import functools
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from . import plugins, sources
from .errors import UserError

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., None])
T = TypeVar("T")

STDIO = "-"
LONGEST = 365 * 86400.0
"""Longest time that an option accepts, in seconds."""
NO_LIMIT = 2**31
"""The help does not show an upper limit of this size or more."""
DEVICES = ("auto", "cpu", "cuda", "cuda:1", "mps")
"""Values of ``--device``, with one example of a numbered GPU."""
GPU_NODES = ("nvidia*", "kfd", "dxg", "nvhost*", "nvmap", "nvgpu*")
"""Device files. A Linux machine with a GPU for CUDA or ROCm has at least one of them."""


GENERAL = "General"
GROUPS = (
    "Input",
    "Model",
    "Server",
    "Prompt",
    "Picture",
    "Judging",
    "Preference",
    "Sampling",
    "Training",
    "Budget",
    "Batch",
    "Gate",
    "Output",
    GENERAL,
)
"""Headings of options, in the order of the help and the manual. An option without a group is in the last one."""


@dataclass(frozen=True)
class Option:
    """An option of a command, as `option` declares it, for the parser, the help, the manual and completion."""

    names: tuple[str, ...]
    """As declared, each with its dashes; empty if the option is named after its parameter."""
    help: str
    """With the allowed range."""
    group: str
    metavar: str | None
    """None for a flag."""
    show_default: str | None
    """Text in place of the default value."""
    choices: Sequence[str]
    min: float | None
    max: float | None
    complete: Callable[[str], Sequence[Any]] | None
    """Completions of an incomplete value: values, or pairs of a value and its help."""
    parser: Callable[[str], Any] | None
    """The value of a text, if its type does not say how to read it."""
    callback: Callable[[Any], Any] | None
    """Gets the value and returns the one that the command gets."""
    is_eager: bool
    """Read before all others."""
    presets: Mapping[str, Mapping[str, Any]]
    """For a value of this option, the defaults of other parameters by name. An option that is given wins."""


@dataclass(frozen=True)
class Argument:
    """A positional argument of a command."""

    metavar: str
    help: str


def option(
    *names: str,
    help: str,
    group: str = GENERAL,
    metavar: str | None = None,
    show_default: str | None = None,
    choices: Sequence[str] = (),
    offered: Sequence[str] = (),
    min: float | None = None,
    max: float | None = None,
    complete: Callable[[str], Sequence[Any]] | None = None,
    parser: Callable[[str], Any] | None = None,
    callback: Callable[[Any], Any] | None = None,
    is_eager: bool = False,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> Option:
    """An option of a command. `names` begin with dashes. Without names, the option is named after the parameter.

    `group` is one of `GROUPS`: the heading above the option. `choices` are all allowed values: they are checked,
    completed, and shown in place of a metavar. `offered` are values for completion only; other values are allowed.
    `min` and `max` are the smallest and the largest allowed number. For the rest see `Option`.
    """
    assert group in GROUPS, group
    return Option(
        names=names,
        help=f"{help}{_range(min, max)}",
        group=group,
        metavar=metavar or "|".join(choices) or None,
        show_default=show_default,
        choices=choices,
        min=min,
        max=max,
        complete=complete or (_starting_with(choices or offered) if choices or offered else None),
        parser=parser,
        callback=callback,
        is_eager=is_eager or presets is not None,
        presets=presets or {},
    )


def argument(*, metavar: str, help: str) -> Argument:
    """A positional argument of a command."""
    return Argument(metavar, help)


def with_parameters(command: F, parameters: Sequence[inspect.Parameter]) -> F:
    """Give a command these parameters, for whoever inspects its signature. Returns the command itself."""
    command.__dict__["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def for_typer(command: F) -> F:
    """Replace our declarations in a command's signature with those of Typer. Returns the command itself."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    return with_parameters(command, [one.replace(annotation=_typer_annotation(one.annotation)) for one in parameters])


def _typer_annotation(annotation: Any) -> Any:
    """The annotation with Typer's declaration in place of ours; any other annotation is returned unchanged."""
    match get_args(annotation):
        case (kind, Argument() as declared):
            complete = sources.completions
            return Annotated[
                kind, typer.Argument(metavar=declared.metavar, help=declared.help, autocompletion=complete)
            ]
        case (kind, Option() as declared):
            return Annotated[
                kind,
                typer.Option(
                    *declared.names,
                    help=declared.help,
                    rich_help_panel=declared.group,
                    metavar=declared.metavar,
                    show_default=declared.show_default or True,
                    autocompletion=declared.complete,
                    parser=declared.parser,
                    callback=_checked(declared),
                    is_eager=declared.is_eager,
                ),
            ]
    return annotation


def _checked(declared: Option) -> Callable[[typer.Context, typer.CallbackParam, Any], Any]:
    """A callback that raises `UserError`, with the option's name, for a value that is not a choice or not in range.

    It also sets the defaults of a preset.
    """

    def check(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
        for one in value if isinstance(value, list) else [value]:
            if one not in (None, "") and (wrong := _wrong(one, declared.choices, declared.min, declared.max)):
                raise UserError(f"{max(parameter.opts, key=len)} {one}: {wrong}")
        if isinstance(value, str) and (preset := declared.presets.get(value)):
            context.default_map = {**(context.default_map or {}), **preset}
        return declared.callback(value) if declared.callback else value

    return check


def _wrong(value: Any, choices: Sequence[str], low: float | None, high: float | None) -> str:
    """Why this value is not allowed; empty if it is allowed."""
    if choices and value not in choices:
        from difflib import get_close_matches

        near = get_close_matches(value, choices, n=1)
        return f"must be one of {', '.join(choices)}{f'; did you mean {near[0]!r}?' if near else ''}"
    if isinstance(value, float) and not math.isfinite(value):  # NaN is within every range.
        return "is not a number"
    if low is not None and high is not None and not low <= value <= high:
        return f"must be from {low} to {high}"
    if low is not None and value < low:
        return f"must be at least {low}"
    if high is not None and value > high:
        return f"must be at most {high}"
    return ""


def _range(low: float | None, high: float | None) -> str:
    """The range of a number, as a sentence after a space. Empty if only a minimum of 0 or 1 is given, or none."""
    if high is not None and high < NO_LIMIT:
        return f" At most {high:.12g}." if low is None else f" From {low:.12g} to {high:.12g}."
    return "" if low in (None, 0, 1) else f" At least {low}."


def _starting_with(values: Sequence[str]) -> Callable[[str], list[str]]:
    """A function that completes these values."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def check_device(name: str, *, nodes: Path = Path("/dev"), system: str = sys.platform) -> str:
    """Return `name`. Raises `UserError` if it is not the name of a device, or if this machine has no such device.

    This checks only that the device exists. Whether torch can use it is known when torch is loaded.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
        raise UserError(f"--device {name}: is not a device; known: {', '.join(DEVICES)}")
    if name == "mps" and system != "darwin":
        raise UserError("--device mps: needs an Apple GPU and macOS; leave it out to use the fastest device")
    if name.startswith("cuda") and (
        system == "darwin" or (system == "linux" and not any(any(nodes.glob(node)) for node in GPU_NODES))
    ):
        raise UserError(f"--device {name}: this machine has no GPU for CUDA; leave it out to use the fastest device")
    return name


def _device(name: str) -> str:
    return check_device(name)


def duration(text: str) -> float:
    """The seconds in a length of time such as ``90``, ``90s``, ``45m``, ``1h30m`` or ``2d``."""
    found = re.fullmatch(r"(?:([\d.]+)d)?(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", text.strip())
    try:
        if found and text.strip():
            units = (86400, 3600, 60, 1)
            seconds = sum(float(part or 0) * unit for part, unit in zip(found.groups(), units, strict=True))
            if seconds <= LONGEST:
                return seconds
            raise typer.BadParameter(f"{text!r} is longer than a year")
    except ValueError:
        pass
    raise typer.BadParameter(f"{text!r} is not a length of time; write it as 90s, 45m, 6h or 1h30m")


def in_groups(options: Iterable[tuple[str | None, T]]) -> dict[str, list[T]]:
    """Options by heading, in the order of `GROUPS`. Each option comes with its group; None means `GENERAL`."""
    found: dict[str, list[T]] = {group: [] for group in GROUPS}
    for group, one in options:
        found[group or GENERAL].append(one)
    return {f"{group} options": ones for group, ones in found.items() if ones}


def options(
    config: type[C], name: str = "config", *, without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace the parameter `name` of the decorated command with one option for each field of `config`.

    The fields `without` are no options: they keep their defaults.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        hints = get_type_hints(config, include_extras=True)
        flags = [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
            )
            for field in fields(config)  # type: ignore[arg-type]
            if field.name not in without
        ]

        @functools.wraps(command)
        def wrapped(*args: Any, **kwargs: Any) -> None:
            values = {flag.name: kwargs.pop(flag.name) for flag in flags if flag.name in kwargs}
            command(*args, **{name: config(**values)}, **kwargs)

        own = [parameter for parameter in signature.parameters.values() if parameter.name != name]
        return with_parameters(wrapped, [*own, *flags])

    return decorate


def _specs(kind: str) -> Callable[[str], list[tuple[str, str]]]:
    """A function that completes the name and the argument of a plug-in, with its help. It imports no plug-in."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        return plugins.completions(kind, incomplete)

    return complete


def plugin(kind: str, *names: str, help: str, **more: Any) -> Option:
    """An option that names plug-ins of a kind: their names, or a path; ``--kind`` if no other `names` are given."""
    return option(*(names or (f"--{kind}",)), metavar="SPEC", complete=_specs(kind), help=help, **more)


def _folders(value: list[str] | None) -> list[str] | None:
    for folder in value or []:
        if not os.path.isdir(folder):
            raise typer.BadParameter(f"{folder}: there is no such folder")
    return value


Input = Annotated[
    str,
    argument(metavar="FILE", help="Pictures: a JSON Lines file, or a data set as FORMAT:PATH; - is standard input."),
]
Pairs = Annotated[
    str, argument(metavar="FILE", help="Pairs: a JSON Lines file, or a data set as FORMAT:PATH; - is standard input.")
]
PairsOrRatings = Annotated[
    str,
    argument(
        metavar="FILE",
        help="Pairs; for kto also ratings, for d3po prompts: a JSON Lines file, or a data set as FORMAT:PATH; - is "
        "standard input.",
    ),
]
JudgeAspects = Annotated[
    list[str] | None,
    plugin(
        "aspect",
        "--judge-aspect",
        group="Model",
        help="Aspect that a judge is asked about, for a reward judge:SPEC: a name, or your own Markdown file; "
        "repeatable. The score of a picture is the mean of its aspects.",
        show_default="all aspects",
    ),
]
Prompts = Annotated[
    str,
    argument(
        metavar="FILE",
        help="Prompts: a JSON Lines file, a .txt file with one prompt per line, or a data set as FORMAT:PATH; - is "
        "standard input, which can hold JSON Lines or plain text.",
    ),
]
Output = Annotated[
    str,
    option(
        "--out",
        "-o",
        metavar="FILE",
        group="Output",
        help="Output file; - is standard output. An existing FILE is resumed: finished records are skipped.",
    ),
]
Whole = Annotated[
    str,
    option(
        "--out",
        "-o",
        metavar="FILE",
        group="Output",
        help="Output file, written in one piece at the end; - is standard output.",
    ),
]
Roots = Annotated[
    list[str] | None,
    option(
        "--root",
        metavar="DIR",
        callback=_folders,
        group="Picture",
        help="Also allow pictures below this folder; repeatable. Without it, a picture must be below the folder of "
        "the records, below the working directory, or in a folder that generate wrote. If the picture is a link, "
        "the file that it points to must be in an allowed folder, too. --root does not change how file names are "
        "read: they stay relative to the folder of the records.",
    ),
]
MaxPictures = Annotated[
    int,
    option(
        "--max-pictures",
        metavar="N",
        min=1,
        max=10_000,
        group="Picture",
        help="Maximum number of pictures per prompt. A prompt with more pictures is an error, because it usually "
        "means that different prompts have the same prompt_id. The number of pairs grows with the square of the "
        "number of pictures.",
    ),
]
TunedModel = Annotated[
    str,
    plugin(
        "generator",
        "--model",
        "-m",
        group="Model",
        help="Model to tune.",
        show_default="shapes, the model of the shapes world",
    ),
]
Seed = Annotated[int, option(metavar="N", min=0, max=2**63 - 1, help="Random seed.")]
Device = Annotated[
    str,
    option(
        metavar="NAME",
        callback=_device,
        offered=("auto", "cpu", "cuda", "mps"),
        group="Model",
        help="Device that runs the models: auto, cpu, cuda, cuda:1 or mps; auto selects the fastest device.",
    ),
]
Dtype = Annotated[
    str,
    option(
        choices=("float32", "bfloat16", "float16"),
        group="Model",
        help="Precision that the models compute in.",
        show_default="float32; for vqascore on a GPU, bfloat16",
    ),
]
BatchSize = Annotated[
    int,
    option(
        "--batch",
        metavar="N",
        min=1,
        max=4096,
        group="Model",
        help="Number of pictures that the model processes at once.",
    ),
]
Traceback = Annotated[
    bool,
    option("--traceback", help="Also print the traceback of an error, to find a mistake in your own plug-in."),
]
PromptColumn = Annotated[
    str,
    option(
        "--prompt-column",
        metavar="NAME",
        group="Input",
        help="Column of the prompts in a csv:FILE, a parquet:FILE or an imagefolder:DIR with a table.",
        show_default="found by its name",
    ),
]
FileColumn = Annotated[
    str,
    option(
        "--file-column",
        metavar="NAME",
        group="Input",
        help="Column of the pictures' files there.",
        show_default="found by its name",
    ),
]
Quiet = Annotated[bool, option("--quiet", "-q", help="Print only warnings and errors to stderr.")]
RunFolder = Annotated[
    str,
    option(
        "--out",
        "-o",
        metavar="DIR",
        group="Output",
        help="Output folder of the training. An interrupted run with the same options is resumed.",
    ),
]
