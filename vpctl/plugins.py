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
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

from .contracts import (
    LEVELS,
    Annotator,
    Aspect,
    AsyncPolisher,
    Generator,
    Polisher,
    Reward,
    Settings,
    TunableGenerator,
)
from .errors import OutputClosed, RecordFailed, Refused, Stopped, UserError
from .records import digest, fingerprint

KINDS = {"polisher": "polishers", "generator": "generators", "annotator": "annotators", "reward": "rewards"}
_HOME = Path(__file__).parent
C = TypeVar("C")

CALLS = {
    "polisher": "a polisher takes a list of prompts and returns one Polished for each",
    "generator": "a generator takes (prompts, seeds, settings) and returns one PIL image for each prompt",
    "annotator": "an annotator takes (prompt, images, aspect) and returns Verdicts(scores, rationales, usage)",
    "reward": "a reward takes (images, prompts) and returns one number for each image",
}
"""What a plug-in of each kind is called with and returns, in a line."""

CONTRACTS: dict[str, tuple[Any, ...]] = {
    "polisher": (Polisher, AsyncPolisher),
    "generator": (Generator, TunableGenerator),
    "annotator": (Annotator,),
    "reward": (Reward,),
}
"""Of each kind, the contracts that a plug-in may fulfil; a function is the first one's call."""

LORA_FILE = "pytorch_lora_weights.safetensors"
"""In the folder of a LoRA, as diffusers names it: what the tune commands write and a generator's ``adapt`` takes."""


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
    return _fulfilling(kind, spec, made)


def _fulfilling(kind: str, spec: str, made: Any) -> Any:
    """What a plug-in returned as an object of its contract: a function gets the members that it does not have.

    An annotator that is a function stays one: `judging` asks it. Members of the user's own classes are guarded.
    """
    import inspect

    for contract in reversed(CONTRACTS[kind]):  # the narrower one first
        if is_a(made, contract):
            return Guarded(kind, spec, made, contract) if _is_own(spec) else made
    inherit = f"have its class inherit from vpctl.contracts.{CONTRACTS[kind][0].__name__}"
    known = {name for contract in CONTRACTS[kind] for name in vars(contract) if not name.startswith("_")}
    if members := sorted(known & {*dir(made)}):
        raise UserError(f"{_option(kind)} {spec}: load returned {_found(made)}, which has {members[0]}; {inherit}")
    if not callable(made):
        raise misfit(kind, spec, made, "load")
    if kind == "annotator":
        return made
    if kind == "polisher" and inspect.iscoroutinefunction(made):
        return function_as(AsyncPolisher, made)
    return function_as(CONTRACTS[kind][0], made)


def function_as(contract: Callable[..., C], call: Callable[..., Any]) -> C:
    """An object of a contract whose call is the function `call`, with the contract's defaults for all else."""
    made: C = type("Function", (cast(type, contract),), {"__call__": staticmethod(call)})()
    return made


def is_a(made: Any, contract: type) -> bool:
    """Whether what `load` returned fulfils a contract."""
    return contract in type(made.plugin if isinstance(made, Guarded) else made).__mro__


def tunable(spec: str, *, device: str) -> Any:
    """A `TunableGenerator`. Raises `UserError` for one that is none. Its weights are not loaded."""
    made = load("generator", spec, device=device)
    if not is_a(made, TunableGenerator):
        raise UserError(f"--model {spec}: this generator cannot be tuned; only a vpctl.contracts.TunableGenerator can")
    return made


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
        file, expected = split(spec)[0], contract or CALLS[kind]
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
    return UserError(f"{_option(kind)} {spec}: {function} returned {_found(returned)}; {contract or CALLS[kind]}")


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


def _are_settings(value: object) -> bool:
    """Whether it is a `Settings` whose fields have their types."""
    if not isinstance(value, Settings):
        return False
    whole = (value.num_inference_steps, value.width, value.height)
    return (
        (value.guidance_scale is None or is_number(value.guidance_scale))
        and all(one is None or (type(one) is int and one > 0) for one in whole)
        and (value.negative_prompt is None or is_text(value.negative_prompt))
    )


def is_usage(value: object) -> bool:
    """Whether it has finite numbers by name."""
    return isinstance(value, dict) and all(is_text(name) and is_number(one) for name, one in value.items())


def _is_any(_: object) -> bool:
    return True


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_size(value: object) -> bool:
    return is_number(value) and cast(float, value) >= 0


def _is_json(value: object) -> bool:
    return bool(digest([value]))


def _is_context(value: object) -> bool:
    return isinstance(value, AbstractAsyncContextManager)


_RUNNING = (_is_context, "running takes a Brake and returns an async context manager")
_SUMMARY = (is_text, "summary takes nothing and returns text")
_CHECK = (_is_any, "check takes nothing")
MEMBERS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "polisher": {
        "at_once": (_is_count, "at_once is a whole number from 1 up"),
        "template": (is_text, "template is text"),
        "check": _CHECK,
        "running": _RUNNING,
        "summary": _SUMMARY,
    },
    "generator": {
        "settings": (_are_settings, "settings is a vpctl.contracts.Settings of numbers and text"),
        "fingerprint": (is_text, "fingerprint is text"),
        "adapt": (_is_any, "adapt takes the folder of a LoRA"),
        "pipeline": (_is_any, "pipeline is a diffusers pipeline"),
    },
    "annotator": {
        "identity": (_is_json, "identity is a value that JSON can hold"),
        "preparing": (_is_count, "preparing is a whole number from 1 up"),
        "running": _RUNNING,
        "check": _CHECK,
        "prepare": (_is_any, "prepare takes (image, path)"),
        "pixels": (_is_size, "pixels takes what prepare returned and returns a number"),
        "template": (is_text, "template takes a Kind and returns text"),
        "status": (is_text, "status takes the share done and returns text"),
        "summary": _SUMMARY,
        "expected": (is_usage, "expected takes (kind, prompt, sizes) and returns numbers by name"),
    },
    "reward": {"differentiable": (_is_any, "differentiable is True or False")},
}
"""Of each kind, what a member or its result has to be, and the contract in a line."""


class Guarded:
    """A plug-in of the user's, which fulfils `contract`: what its members are, and what they return, is checked.

    What a member raises, or does not fit, becomes a `UserError`, as in `blamed`. All members are read once, here, but
    for a `pipeline`: to read it loads weights.
    """

    def __init__(self, kind: str, spec: str, plugin: Any, contract: type) -> None:
        self.plugin, self._kind, self._spec, self._contract = plugin, kind, spec, contract
        for name in MEMBERS[kind].keys() - {"pipeline"}:
            if hasattr(contract, name):
                getattr(self, name)

    def __call__(self, *arguments: Any) -> Any:
        """What the plug-in returns; whoever calls it checks that, and blames the plug-in."""
        return self.plugin(*arguments)

    def __getattr__(self, name: str) -> Any:
        """A member of the plug-in that the contract has."""
        if not hasattr(self._contract, name):
            raise AttributeError(name)
        fits, contract = MEMBERS[self._kind].get(name, (_is_any, CALLS[self._kind]))
        is_function = callable(getattr(self._contract, name, None))
        with blamed(self._kind, self._spec, contract):
            found = getattr(self.plugin, name)
            if not (callable(found) if is_function else fits(found)):
                raise UserError(f"{_option(self._kind)} {self._spec}: its {name} is {_found(found)}; {contract}")
        if is_function and name in MEMBERS[self._kind]:
            found = self._checked(found, name, fits, contract)
        setattr(self, name, found)
        return found

    def _checked(self, call: Callable[..., Any], name: str, fits: Callable[[Any], bool], contract: str) -> Any:
        def guarded(*arguments: Any) -> Any:
            with blamed(self._kind, self._spec, contract):
                result = call(*arguments)
                if not fits(result):
                    raise misfit(self._kind, self._spec, result, name, contract)
            return _Context(result, self._kind, self._spec, contract) if name == "running" else result

        return guarded


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


def model_fingerprint(spec: str, generator: Generator) -> str:
    """Identity of the weights that a loaded generator draws with."""
    return generator.fingerprint or fingerprints(spec)[spec]


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
