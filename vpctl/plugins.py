"""Polishers, generators, annotators, rewards and aspects: the files of a folder, found without being imported.

A spec is ``NAME``, ``NAME:ARGUMENT`` or ``PATH.py[:ARGUMENT]``, where no path has a colon in it. The first line of a
module's docstring is its help; its function ``load(argument, *, device)`` returns what does the work. An aspect is a
Markdown file: a title, then the rubric.

A module may say what its argument can be, for completion, in a constant that is read without importing the module:
``ARGUMENTS = ("base", "small")`` for a few words, ``ARGUMENTS = "DIR"`` for a folder, or the name of another kind, as
``ARGUMENTS = "reward"``, for a spec of that kind.
"""

import importlib
import math
import os
import re
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
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

SETTINGS = "settings is a vpctl.plugins.Settings of numbers and text"
FINGERPRINT = "fingerprint is text"
_TUNABLE = "a generator to be tuned has a pipeline, settings and a fingerprint"
"""What a generator's members are, in a line."""

LORA_FILE = "pytorch_lora_weights.safetensors"
"""In the folder of a LoRA, as diffusers names it: what the tune commands write and a generator's ``adapt`` takes."""


class Settings(NamedTuple):
    """How a picture is drawn; None leaves a setting to the generator."""

    guidance_scale: float | None = None
    num_inference_steps: int | None = None
    width: int | None = None
    height: int | None = None
    negative_prompt: str | None = None


def are_settings(value: object) -> bool:
    """Whether it is a `Settings` whose fields have their types."""
    if not isinstance(value, Settings):
        return False
    whole = (value.num_inference_steps, value.width, value.height)
    return (
        (value.guidance_scale is None or is_number(value.guidance_scale))
        and all(one is None or (type(one) is int and one > 0) for one in whole)
        and (value.negative_prompt is None or is_text(value.negative_prompt))
    )


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
    """`spec` itself if nothing is wrong with it that can be seen in a second. Raises `UserError` if something is.

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
    """`spec` itself if it names a plug-in of the package or an existing file."""
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
    members = Members("generator", spec, made)
    needed = {
        "settings": members.value("settings", None, are_settings, SETTINGS),
        "fingerprint": members.value("fingerprint", None, is_text, FINGERPRINT),
        "pipeline": inspect.getattr_static(made, "pipeline", None),  # to get its value may load the weights
    }
    for name, value in needed.items():
        if value is None:
            raise UserError(f"--model {spec}: this generator cannot be tuned: it has no {name}")
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
        raise UserError(f"{where}: {_said(error)}; {expected}; --traceback shows more") from error


def _said(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception:  # an error of the user's own, which cannot even be printed
        return type(error).__name__


def misfit(kind: str, spec: str, returned: object, function: str = "it", contract: str = "") -> UserError:
    """The error of a plug-in that returned what its contract does not say."""
    return UserError(f"{_option(kind)} {spec}: {function} returned {_found(returned)}; {contract or CONTRACTS[kind]}")


def _found(value: object) -> str:
    return "None" if value is None else f"{_article(type(value).__name__)}, {reprlib.repr(value)}"


def is_text(value: object) -> bool:
    """Whether it is text that a record can hold: UTF-8 cannot encode lone surrogates."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def is_number(value: object) -> bool:
    """Whether it is a finite number that a record can hold."""
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 63
    return isinstance(value, float) and math.isfinite(value)


def check_texts(kind: str, spec: str, *texts: str) -> None:
    """Raise `UserError` if one of the texts of a plug-in is none that a record can hold."""
    for text in texts:
        if not is_text(text):
            raise UserError(
                f"{_option(kind)} {spec}: it returned the text {reprlib.repr(text)}, which UTF-8 cannot encode; "
                "a text must not contain lone surrogates"
            )


class Members:
    """Reads what a plug-in may have beside its call. A member that is missing or None is the default.

    A member that raises, or does not fit, becomes a `UserError`, as in `blamed`. `contract` says what fits.
    """

    def __init__(self, kind: str, spec: str, plugin: object) -> None:
        self._kind, self._spec, self._plugin = kind, spec, plugin

    def value(self, name: str, default: Any, fits: Callable[[Any], bool], contract: str) -> Any:
        """A member that is a value."""
        with blamed(self._kind, self._spec, contract):
            found = getattr(self._plugin, name, None)
            if found is None:
                return default
            if not fits(found):
                raise UserError(f"{_option(self._kind)} {self._spec}: its {name} is {_found(found)}; {contract}")
            return found

    def function(self, name: str, default: Any, fits: Callable[[Any], bool], contract: str) -> Any:
        """A member that is a function whose results fit."""
        call = self.value(name, None, callable, contract)

        def guarded(*arguments: Any) -> Any:
            with blamed(self._kind, self._spec, contract):
                result = call(*arguments)
                if not fits(result):
                    raise misfit(self._kind, self._spec, result, name, contract)
                return result

        return guarded if call else default

    def context(self, name: str, contract: str) -> Callable[..., AbstractAsyncContextManager[Any]] | None:
        """A member that is a function that returns an async context manager; None without it."""
        make = self.function(name, None, lambda made: isinstance(made, AbstractAsyncContextManager), contract)
        return make and (lambda *arguments: _Context(make(*arguments), self._kind, self._spec, contract))


class _Context(AbstractAsyncContextManager[Any]):
    """A plug-in's async context manager. What it raises is blamed on it, and what its block raises is not."""

    def __init__(self, made: AbstractAsyncContextManager[Any], *blame: str) -> None:
        self._made, self._blame = made, blame

    async def __aenter__(self) -> Any:
        with blamed(*self._blame):
            return await self._made.__aenter__()

    async def __aexit__(self, *error: Any) -> bool | None:
        with blamed(*self._blame):
            return await self._made.__aexit__(*error)


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
        raise UserError(f"{path}: cannot be loaded: {_said(error)}; --traceback shows more") from error
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
        raise UserError(f"{path}: an aspect must begin with a title line, '# …', and a rubric must follow")
    named = re.findall(r"^(\d+)\. ([^:\n]+):", rubric, re.MULTILINE)
    if named and tuple(number for number, _ in named) != LEVELS:
        raise UserError(
            f"{path}: an aspect has five levels, from '1. Name: ...' to '5. Name: ...'; this has {len(named)}"
        )
    levels = tuple(f"{number} {name.strip()}" for number, name in named) or LEVELS
    return Aspect(path.stem, title.removeprefix("# ").strip(), rubric.strip(), levels)


_WHERE_NAMES_BELONG = {"generator": "diffusion", "annotator": "openai", "polisher": "openai"}
"""The plug-in that the name of a model is an argument of."""


def _no_such(kind: str, name: str, known: dict[str, str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    if not near and kind in _WHERE_NAMES_BELONG and {*"/-"} & {*name}:
        meant = f"did you mean {_WHERE_NAMES_BELONG[kind]}:{name}? "
    return f"there is no {kind} {name!r}; {meant}known: {', '.join(known)}, or the path of your own file"
