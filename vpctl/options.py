"""How a command declares its options: each once, for the parser, the help, the manual, completion and `config.json`.

A command is a function whose parameters are annotated with the types below or with its own. A dataclass of
hyper-parameters (`configs.py`) becomes one option a field through `@options(Config)`.
"""

import functools
import inspect
import math
import os
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from . import plugins
from .models import devices

C = TypeVar("C")

STDIO = "-"
LONGEST = 365 * 86400.0
"""Seconds; the longest time that an option takes."""


def option(*names: str, help: str, **more: Any) -> Any:
    """A command's option. `names` begin with dashes; without any, the parameter's name is used."""
    return typer.Option(*names, help=help, **{"callback": _finite, **more})


def _finite(value: Any) -> Any:
    """Refuse NaN, which is within every range, and infinity, which nothing here means."""
    if isinstance(value, float) and not math.isfinite(value):
        raise typer.BadParameter(f"{value:g} is no number")
    return value


def _device(name: str) -> str:
    """The name of a device, before anything heavy is loaded for it."""
    return devices.check(name)


def duration(text: str) -> float:
    """Seconds of a time as people write it: ``90``, ``90s``, ``45m``, ``1h30m``, ``2d``."""
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
    raise typer.BadParameter(f"{text!r} is no length of time; write it as 90s, 45m, 6h or 1h30m")


def argument(*, help: str, **more: Any) -> Any:
    """A command's positional argument."""
    return typer.Argument(help=help, **more)


def options(config: type[C], name: str = "config") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give the decorated command one option for each field of `config` in place of its parameter `name`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        hints = get_type_hints(config, include_extras=True)
        flags = [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
            )
            for field in fields(config)  # type: ignore[arg-type]
        ]

        @functools.wraps(command)
        def wrapped(*args: Any, **kwargs: Any) -> None:
            values = {flag.name: kwargs.pop(flag.name) for flag in flags if flag.name in kwargs}
            command(*args, **{name: config(**values)}, **kwargs)

        own = [parameter for parameter in signature.parameters.values() if parameter.name != name]
        wrapped.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
        wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *flags]}
        return wrapped

    return decorate


def _names(kind: str) -> Callable[[str], list[tuple[str, str]]]:
    """Completion of a plug-in's name, with the first line of its docstring; nothing is imported for it."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        known = plugins.aspects() if kind == "aspect" else plugins.catalog(kind)
        return [(name, about) for name, about in known.items() if name.startswith(incomplete)]

    return complete


def plugin(kind: str, *names: str, help: str, **more: Any) -> Any:
    """An option that names plug-ins of a kind: their names, or a path; ``--kind`` if no other `names` are given."""
    return option(*(names or (f"--{kind}",)), metavar="SPEC", autocompletion=_names(kind), help=help, **more)


def _folders(value: list[str] | None) -> list[str] | None:
    for folder in value or []:
        if not os.path.isdir(folder):
            raise typer.BadParameter(f"{folder}: there is no such folder")
    return value


Input = Annotated[str, argument(metavar="FILE", help="Records to read, JSON Lines; - is standard input.")]
Output = Annotated[
    str,
    option(
        "--out",
        "-o",
        metavar="FILE",
        help="Where the records go. A file that is there already is gone on with: what it holds is not done again. "
        "- is standard output.",
    ),
]
Whole = Annotated[
    str,
    option("--out", "-o", metavar="FILE", help="Where the records go, all at once at the end; - is standard output."),
]
Roots = Annotated[
    list[str] | None,
    option(
        "--root",
        metavar="DIR",
        callback=_folders,
        help="Also read pictures below this folder. Otherwise only those below the folder of the records and the "
        "working directory are read, and those of generate. Links that lead out of these need a --root too. File names "
        "stay relative to the records; repeatable.",
    ),
]
MaxPictures = Annotated[
    int,
    option(
        "--max-pictures",
        metavar="N",
        min=1,
        max=10_000,
        help="Most pictures of one prompt. More are an error, since it most often means that many prompts share a "
        "prompt_id, and the number of pairs grows with the square.",
    ),
]
Seed = Annotated[int, option(metavar="N", min=0, max=2**63 - 1, help="Seed of all that is random.")]
Device = Annotated[
    str,
    option(
        metavar="NAME",
        callback=_device,
        help="Where models run: auto, cpu, cuda, cuda:1, mps. Auto takes the fastest there is.",
    ),
]
BatchSize = Annotated[
    int, option("--batch", metavar="N", min=1, max=4096, help="How many pictures go through a model at once.")
]
Traceback = Annotated[
    bool, option("--traceback", help="Show the traceback of an error too, such as one in a plug-in of your own.")
]
Quiet = Annotated[bool, option("--quiet", "-q", help="Say nothing on stderr but warnings and errors.")]
Folder = Annotated[
    str,
    option(
        "--out",
        "-o",
        metavar="DIR",
        help="The run's folder. A run that was interrupted there goes on, if the options are the same.",
    ),
]
