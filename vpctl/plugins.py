"""Polishers, generators, annotators, rewards and aspects: the files of a folder, found without being imported.

A spec is ``NAME``, ``NAME:ARGUMENT`` or ``PATH.py[:ARGUMENT]``, where no path has a colon in it. The first line of a
module's docstring is its help; its function ``load(argument, *, device)`` returns what does the work. An aspect is a
Markdown file: a title, then the rubric.

A module may say what its argument can be, for completion, in a constant that is read without importing the module:
``ARGUMENTS = ("base", "small")`` for a few words, ``ARGUMENTS = "DIR"`` for a folder, or the name of another kind, as
``ARGUMENTS = "reward"``, for a spec of that kind.
"""

import importlib
import os
import re
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from .errors import OutputClosed, RecordFailed, Refused, Stopped, UserError
from .records import digest, fingerprint

KINDS = {"polisher": "polishers", "generator": "generators", "annotator": "annotators", "reward": "rewards"}
_HOME = Path(__file__).parent

CONTRACTS = {
    "polisher": "a polisher takes a list of prompts and returns one Polished for each",
    "generator": "a generator takes (prompts, seeds, settings) and returns one PIL image for each prompt",
    "annotator": "an annotator takes (prompt, images, aspect) and returns Verdicts(scores, rationales, usage)",
    "reward": "a reward takes (images, prompts) and returns one number for each image",
}
"""What a plug-in of each kind is called with and returns, in a line."""

_TUNABLE = "a generator to be tuned has a pipeline, settings and a fingerprint"

LORA_FILE = "pytorch_lora_weights.safetensors"
"""In the folder of a LoRA, as diffusers names it: what the tune commands write and a generator's ``adapt`` takes."""


class Settings(NamedTuple):
    """How a picture is drawn; None leaves a setting to the generator."""

    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    width: int | None = None
    height: int | None = None
    negative_prompt: str | None = None


class Polished(NamedTuple):
    """A prompt made clean. `unsafe` says why it asks for something harmful, and is empty when it does not.

    `rejected` says why the polished text cannot be trusted to show the same, and is empty when it can.
    """

    prompt: str
    unsafe: str = ""
    rejected: str = ""


class Verdicts(NamedTuple):
    """One annotator's scores of several pictures, higher is better, a rationale each, and what the call used.

    `ranking` has the places of the pictures, the best first, where the annotator was asked for one.
    """

    scores: list[float]
    rationales: list[str]
    usage: dict[str, float]
    ranking: Sequence[int] = ()


LEVELS = ("1", "2", "3", "4", "5")


class Aspect(NamedTuple):
    """One thing pictures are judged on. `name` stands in records; `rubric` is Markdown for the judge.

    `levels` are what a judge may answer, the worst first, as ``3 Fair``; the score is the place, from 1 to 5.
    """

    name: str
    title: str
    rubric: str
    levels: tuple[str, ...] = LEVELS


def catalog(kind: str) -> dict[str, str]:
    """Name and help of every plug-in of a kind, in alphabetical order."""
    folder = _HOME / KINDS[kind]
    return {path.stem: _help(path) for path in sorted(folder.glob("[!_]*.py"))}


def _help(path: Path) -> str:
    import ast

    docstring = ast.get_docstring(ast.parse(path.read_bytes(), str(path))) or ""
    return docstring.partition("\n")[0]


def completions(kind: str, incomplete: str) -> list[tuple[str, str]]:
    """Specs of a kind, or aspects, that begin with `incomplete`, and the help of each; nothing is imported.

    As soon as only one plug-in is left, its arguments are among them.
    """
    known = aspects() if kind == "aspect" else catalog(kind)
    found = [(name, about) for name, about in known.items() if name.startswith(incomplete)]
    name, colon, typed = incomplete.partition(":")
    if kind != "aspect" and (colon or len(found) == 1):
        name = name if colon else found[0][0]
        found += [(f"{name}:{argument}", about) for argument, about in _arguments(kind, name, typed)]
    return found


def _arguments(kind: str, name: str, typed: str) -> list[tuple[str, str]]:
    """What the argument of a plug-in can be that begins with `typed`, and the help of each."""
    expected = _expected(Path(name) if name.endswith(".py") else _HOME / KINDS[kind] / f"{name}.py")
    if expected in KINDS:
        return completions(str(expected), typed)
    offered = _folders(typed) if expected == "DIR" else expected
    return [(argument, "") for argument in offered if argument.startswith(typed)]


def _expected(path: Path) -> str | tuple[str, ...]:
    """The constant ARGUMENTS of a module, which is not imported for it; empty if it has none that can be read."""
    import ast

    try:
        statements = ast.parse(path.read_bytes(), str(path)).body
    except (OSError, SyntaxError, ValueError):
        return ()
    for one in statements:
        if isinstance(one, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "ARGUMENTS" for t in one.targets):
            try:
                value = ast.literal_eval(one.value)
            except (ValueError, TypeError):
                return ()
            if isinstance(value, str):
                return value
            return tuple(map(str, value)) if isinstance(value, (tuple, list)) else ()
    return ()


def _folders(typed: str) -> list[str]:
    """The folders that a path can go on with, each with a slash at its end; hidden ones if a dot is typed."""
    parent, start = os.path.split(typed)
    try:
        with os.scandir(parent or ".") as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
    return [os.path.join(parent, name, "") for name in names if start.startswith(".") or not name.startswith(".")]


def check(kind: str, spec: str, **settings: Any) -> str:
    """`spec` itself if it can be loaded as far as is known in a second. Raises `UserError` if not.

    Names are held against those that there are. A packaged plug-in that has a function ``check(argument)`` is asked,
    and given those of `settings` that are among its parameters; of others, and of files of one's own, nothing is
    imported.
    """
    import inspect

    name, argument = split(_known(kind, spec))
    if not name.endswith(".py") and _has_check(_HOME / KINDS[kind] / f"{name}.py"):
        checker = importlib.import_module(f"vpctl.{KINDS[kind]}.{name}").check
        known = inspect.signature(checker).parameters
        checker(argument, **{name: value for name, value in settings.items() if name in known})
    return spec


def _known(kind: str, spec: str) -> str:
    """`spec` itself if it names a file, or a plug-in that there is."""
    name, _ = split(spec)
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise UserError(f"{_option(kind)} {spec}: there is no file {name}")
    elif name not in catalog(kind):
        raise UserError(f"{_option(kind)} {spec}: {_no_such(kind, name, catalog(kind))}")
    return spec


def _has_check(path: Path) -> bool:
    """Whether a module has a function ``check``; it is not imported, as those without one may import what is heavy."""
    import ast

    return any(isinstance(one, ast.FunctionDef) and one.name == "check" for one in ast.parse(path.read_bytes()).body)


def _option(kind: str) -> str:
    """The option that takes a kind's specs."""
    return "--model" if kind == "generator" else f"--{kind}"


def split(spec: str) -> tuple[str, str]:
    """Name (or path) and argument, which may be empty; the argument may itself hold colons."""
    name, _, argument = spec.partition(":")
    return name, argument


def load(kind: str, spec: str, *, device: str = "auto", **settings: Any) -> Any:
    """What the plug-in's ``load`` returns for the argument in `spec`.

    Of `settings`, which are the command's own, it is given those that are among its parameters.
    """
    import inspect

    name, argument = split(_known(kind, spec))
    module = _from_file(name) if _is_own(spec) else importlib.import_module(f"vpctl.{KINDS[kind]}.{name}")
    loader: Callable[..., Any] | None = getattr(module, "load", None)
    if not callable(loader):
        raise UserError(f"{_option(kind)} {spec}: {name} has no function load(argument, *, device)")
    with blamed(kind, spec, "load takes (argument, *, device) and returns the plug-in"):
        known = inspect.signature(loader).parameters
        made = loader(argument, device=device, **{name: value for name, value in settings.items() if name in known})
    if not callable(made) and not (kind == "annotator" and hasattr(made, "ask")):
        raise misfit(kind, spec, made, "load")
    return made


def tunable(spec: str, *, device: str) -> Any:
    """A generator with the ``pipeline``, ``settings`` and ``fingerprint`` that tuning needs; see `pipeline`."""
    import inspect

    made = load("generator", spec, device=device)
    with blamed("generator", spec, _TUNABLE):
        lacks = [name for name in ("settings", "fingerprint") if not hasattr(made, name)]
    if inspect.getattr_static(made, "pipeline", None) is None:  # to get it may load the weights
        lacks.append("pipeline")
    if lacks:
        raise UserError(f"--model {spec}: this generator cannot be tuned: it has no {lacks[0]}")
    return made


def pipeline(made: Any, spec: str) -> Any:
    """The diffusers pipeline of a generator that is `tunable`; this loads its weights."""
    with blamed("generator", spec, _TUNABLE):
        return made.pipeline


def _is_own(spec: str) -> bool:
    """Whether it names a file of the user's, not a plug-in of the package."""
    return split(spec)[0].endswith(".py")


@contextmanager
def blamed(kind: str, spec: str, contract: str = "") -> Iterator[None]:
    """Within it, whatever a plug-in of the user's raises becomes a `UserError` that names its file and function.

    What a plug-in may raise passes, and so does an error in a plug-in of the package, which is a bug of ours.
    """
    try:
        yield
    except (UserError, RecordFailed, Refused, Stopped, OutputClosed, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if not _is_own(spec):
            raise
        file, expected = split(spec)[0], contract or CONTRACTS[kind]
        own = os.path.realpath(file)
        frames = [one for one in traceback.extract_tb(error.__traceback__) if os.path.realpath(one.filename) == own]
        where = f"{file}:{frames[-1].lineno}, in {frames[-1].name}" if frames else file
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(f"{where}: {said}; {expected}; --traceback shows more") from error


def misfit(kind: str, spec: str, returned: object, function: str = "") -> UserError:
    """The error of a plug-in that returned what its contract does not say."""
    found = "None" if returned is None else f"{_article(type(returned).__name__)}, {reprlib.repr(returned)}"
    by = f"{function} returned" if function else "it returned"
    return UserError(f"{_option(kind)} {spec}: {by} {found}; {CONTRACTS[kind]}")


def _article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def _from_file(path: str) -> ModuleType:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(f"vpctl_plugin_{Path(path).stem}", path)
    assert spec, path
    assert spec.loader, path
    module = sys.modules[spec.name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{path}: cannot be loaded: {type(error).__name__}: {error}; --traceback shows more") from error
    return module


def fingerprints(*specs: str) -> dict[str, str]:
    """Identities of what each spec names on this machine, code or weights; the spec alone where that is nothing."""
    found = {}
    for spec in specs:
        local = _local(spec)
        found[spec] = digest([spec, *map(fingerprint, local)]) if local else spec
    return found


def changed(spec: str) -> float:
    """When what a spec names on this machine last changed, in seconds since 1970; 0 if it names nothing here."""
    places = map(Path, _local(spec))
    files = [file for place in places for file in (place, *place.rglob("*")) if file.is_file()]
    return max((file.stat().st_mtime for file in files), default=0.0)


def _local(spec: str) -> list[str]:
    """The parts of a spec that are files or folders on this machine."""
    return [part for part in split(spec) if part and os.path.exists(part)]


def aspects() -> dict[str, str]:
    """Name and title of every aspect, in alphabetical order."""
    return {path.stem: aspect(path.stem).title for path in sorted((_HOME / "aspects").glob("*.md"))}


def aspect(spec: str) -> Aspect:
    """The aspect of a name, or of a Markdown file of one's own. Raises `UserError` if there is none."""
    path = Path(spec) if spec.endswith(".md") else _HOME / "aspects" / f"{spec}.md"
    if not path.is_file():
        reason = f"there is no file {path}" if spec.endswith(".md") else _no_such("aspect", spec, aspects())
        raise UserError(f"--aspect {spec}: {reason}")
    try:
        title, _, rubric = path.read_text("utf-8").partition("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--aspect {spec}: cannot be read: {error}") from None
    if not title.startswith("# ") or not rubric.strip():
        raise UserError(f"{path}: an aspect begins with a title line, '# …', and a rubric below it")
    named = re.findall(r"^(\d+)\. ([^:\n]+):", rubric, re.MULTILINE)
    if named and tuple(number for number, _ in named) != LEVELS:
        raise UserError(
            f"{path}: an aspect has five levels, from '1. Name: ...' to '5. Name: ...'; this has {len(named)}"
        )
    levels = tuple(f"{number} {name.strip()}" for number, name in named) or LEVELS
    return Aspect(path.stem, title.removeprefix("# ").strip(), rubric.strip(), levels)


def _no_such(kind: str, name: str, known: dict[str, str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"there is no {kind} {name!r}; {meant}known: {', '.join(known)}, or a path of your own"
