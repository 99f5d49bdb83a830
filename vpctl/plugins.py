"""Finds and loads plug-ins: polishers, generators, annotators, rewards, formats and aspects. Each is one file.

A spec is ``NAME``, ``NAME:ARGUMENT`` or ``PATH.py[:ARGUMENT]``. A path must not contain a colon. The first line of a
module's docstring is its help. Its function ``load(argument, *, device)`` returns the plug-in. An aspect is a Markdown
file: a title, then the rubric. Plug-ins are listed without being imported.

For completion, a module may declare the values of its argument in a constant, which is read without importing the
module: ``ARGUMENTS = ("base", "small")`` for a few words, ``ARGUMENTS = "DIR"`` for a folder, or the name of another
kind, such as ``ARGUMENTS = "reward"``, for a spec of that kind.
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
    RECORD_KINDS,
    Annotator,
    Aspect,
    AsyncGenerator,
    AsyncPolisher,
    Format,
    Generator,
    Polisher,
    Reward,
    Settings,
    TunableGenerator,
)
from .errors import OutputClosed, RecordFailed, Refused, Stopped, UserError, is_out_of_memory
from .records import digest, fingerprint

KINDS = {
    "polisher": "polishers",
    "generator": "generators",
    "annotator": "annotators",
    "reward": "rewards",
    "format": "formats",
}
_HOME = Path(__file__).parent
C = TypeVar("C")

CALLS = {
    "polisher": "a polisher takes a list of prompts and returns one Polished for each",
    "generator": "a generator takes (prompts, seeds, settings) and returns one PIL image for each prompt",
    "annotator": "an annotator takes (prompt, images, aspect) and returns Verdicts(scores, rationales, usage)",
    "reward": "a reward takes (images, prompts) and returns one number for each image",
    "format": "a format takes the kind of the records and yields (place, record) for each row",
}
"""For each kind: how a plug-in is called and what it returns, in one line for messages."""

CONTRACTS: dict[str, tuple[Any, ...]] = {
    "polisher": (Polisher, AsyncPolisher),
    "generator": (Generator, AsyncGenerator, TunableGenerator),
    "annotator": (Annotator,),
    "reward": (Reward,),
    "format": (Format,),
}
"""For each kind: the contracts that a plug-in may implement. A plain function is called as the first one."""

LORA_FILE = "pytorch_lora_weights.safetensors"
"""Name of the weights file in the folder of a LoRA, as in diffusers. The tune commands write it, and a generator's
``adapt`` reads it."""


def catalog(kind: str) -> dict[str, str]:
    """Name and help of every packaged plug-in of a kind, in alphabetical order. Nothing is imported."""
    folder = _HOME / KINDS[kind]
    return {path.stem.replace("_", "."): _help(path) for path in sorted(folder.glob("[!_]*.py"))}


def _packaged(kind: str, name: str) -> Path:
    """The file of a packaged plug-in. A dot in the name is an underscore in the file, because modules have no dots."""
    return _HOME / KINDS[kind] / f"{name.replace('.', '_')}.py"


def is_packaged(kind: str, name: str) -> bool:
    """Whether a packaged plug-in has this name."""
    return re.fullmatch(r"[a-z0-9][a-z0-9.]*", name) is not None and _packaged(kind, name).is_file()


def _module(kind: str, name: str) -> ModuleType:
    return importlib.import_module(f"vpctl.{KINDS[kind]}.{_packaged(kind, name).stem}")


def _help(path: Path) -> str:
    import ast

    docstring = ast.get_docstring(ast.parse(path.read_bytes(), str(path))) or ""
    return docstring.partition("\n")[0]


def completions(kind: str, incomplete: str) -> list[tuple[str, str]]:
    """Specs of a kind, or names of aspects, that begin with `incomplete`, each with its help. Nothing is imported.

    If only one plug-in matches, or `incomplete` has a colon, the arguments of the plug-in are included.
    """
    known = aspects() if kind == "aspect" else catalog(kind)
    found = [(name, about) for name, about in known.items() if name.startswith(incomplete)]
    name, colon, typed = incomplete.partition(":")
    if kind != "aspect" and (colon or len(found) == 1):
        name = name if colon else found[0][0]
        found += [(f"{name}:{argument}", about) for argument, about in _arguments(kind, name, typed)]
    return found


def _arguments(kind: str, name: str, typed: str) -> list[tuple[str, str]]:
    """Values of a plug-in's argument that begin with `typed`, each with its help."""
    expected = _expected(Path(name) if name.endswith(".py") else _packaged(kind, name))
    if expected in KINDS:
        return completions(str(expected), typed)
    offered = _folders(typed) if expected == "DIR" else expected
    return [(argument, "") for argument in offered if argument.startswith(typed)]


def _expected(path: Path) -> str | tuple[str, ...]:
    """The constant ARGUMENTS of a module, read without importing it. Empty if there is none that can be read."""
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
    """Folders whose paths begin with `typed`, each with a slash at the end. Hidden ones only after a typed dot."""
    parent, start = os.path.split(typed)
    try:
        with os.scandir(parent or ".") as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
    return [os.path.join(parent, name, "") for name in names if start.startswith(".") or not name.startswith(".")]


def check(kind: str, spec: str, **settings: Any) -> str:
    """Return `spec` if a check of at most a second finds no fault in it; otherwise raise `UserError`.

    The name must be a packaged plug-in or an existing file. If a packaged plug-in has a function ``check(argument)``,
    it is called, with those of `settings` that are among its parameters. Other plug-ins and files of the user are not
    imported.
    """
    import inspect

    name, argument = split(_known(kind, spec))
    if not name.endswith(".py") and _has_check(_packaged(kind, name)):
        checker = _module(kind, name).check
        known = inspect.signature(checker).parameters
        checker(argument, **{name: value for name, value in settings.items() if name in known})
    return spec


def _known(kind: str, spec: str) -> str:
    """Return `spec` if it names a packaged plug-in or an existing file; otherwise raise `UserError`."""
    name, _ = split(spec)
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise UserError(f"{_option(kind)} {spec}: there is no file {name}")
    elif name not in catalog(kind):
        raise UserError(f"{_option(kind)} {spec}: {_no_such(kind, name, catalog(kind))}")
    return spec


def _has_check(path: Path) -> bool:
    """Whether a module has a function ``check``. The module is not imported.

    A module without ``check`` may import heavy packages at its top.
    """
    import ast

    return any(isinstance(one, ast.FunctionDef) and one.name == "check" for one in ast.parse(path.read_bytes()).body)


def takes(kind: str, spec: str, setting: str) -> bool:
    """Whether the ``load`` of a spec's plug-in has this parameter. The module is not imported."""
    import ast

    name, _ = split(_known(kind, spec))
    try:
        statements = ast.parse((Path(name) if name.endswith(".py") else _packaged(kind, name)).read_bytes()).body
    except (OSError, SyntaxError, ValueError):  # which `load` reports
        return False
    loaders = [one for one in statements if isinstance(one, ast.FunctionDef) and one.name == "load"]
    return any(one.arg == setting for loader in loaders for one in (*loader.args.args, *loader.args.kwonlyargs))


def _option(kind: str) -> str:
    """The command-line option, or the argument, that takes specs of a kind."""
    return {"generator": "--model", "format": "FILE"}.get(kind, f"--{kind}")


def split(spec: str) -> tuple[str, str]:
    """Split a spec into its name or path and its argument. The argument may be empty, and may contain colons."""
    name, _, argument = spec.partition(":")
    return name, argument


def load(kind: str, spec: str, *, device: str = "auto", **settings: Any) -> Any:
    """Load the plug-in of a spec: call its ``load`` with the argument, the device, and matching `settings`.

    `settings` come from the command. ``load`` gets those that are among its parameters. Raises `UserError` if there is
    no such plug-in, or if a plug-in of the user fails or does not fulfil its contract.
    """
    import inspect

    name, argument = split(_known(kind, spec))
    module = _from_file(name) if _is_user_file(spec) else _module(kind, name)
    loader: Callable[..., Any] | None = getattr(module, "load", None)
    if not callable(loader):
        raise UserError(f"{_option(kind)} {spec}: {name} has no function load(argument, *, device)")
    with blamed(kind, spec, "load takes (argument, *, device) and returns the plug-in"):
        known = inspect.signature(loader).parameters
        made = loader(argument, device=device, **{name: value for name, value in settings.items() if name in known})
    return _conforming(kind, spec, made)


def accepts(kind: str, spec: str, setting: str) -> bool:
    """Whether the ``load`` of a plug-in that was loaded has a parameter `setting`."""
    import inspect

    name, _ = split(_known(kind, spec))
    module = sys.modules[f"vpctl_plugin_{Path(name).stem}"] if _is_user_file(spec) else _module(kind, name)
    return setting in inspect.signature(module.load).parameters


def _conforming(kind: str, spec: str, made: Any) -> Any:
    """Return what `load` made as an object of its contract. A function gets the contract's defaults for all members.

    An annotator that is a function stays a function: `judging` calls it. The members of a user's own class are checked;
    see `Guarded`. Raises `UserError` if the object does not fit the contract.
    """
    import inspect

    for contract in reversed(CONTRACTS[kind]):  # the narrower contract first
        if implements(made, contract):
            return Guarded(kind, spec, made, contract) if _is_user_file(spec) else made
    inherit = f"have its class inherit from vpctl.contracts.{CONTRACTS[kind][0].__name__}"
    known = {name for contract in CONTRACTS[kind] for name in vars(contract) if not name.startswith("_")}
    if members := sorted(known & {*dir(made)}):
        raise UserError(f"{_option(kind)} {spec}: load returned {_described(made)}, which has {members[0]}; {inherit}")
    if not callable(made):
        raise contract_error(kind, spec, made, "load")
    if kind == "annotator":
        return made
    if kind == "polisher" and inspect.iscoroutinefunction(made):
        return from_function(AsyncPolisher, made)
    if kind == "generator" and inspect.iscoroutinefunction(made):
        return from_function(AsyncGenerator, made)
    return from_function(CONTRACTS[kind][0], made)


def from_function(contract: Callable[..., C], call: Callable[..., Any]) -> C:
    """An object of a contract that calls `call`, with the contract's defaults for all other members."""
    made: C = type("Function", (cast(type, contract),), {"__call__": staticmethod(call)})()
    return made


def implements(made: Any, contract: type) -> bool:
    """Whether an object that `load` returned implements a contract."""
    return contract in type(made.plugin if isinstance(made, Guarded) else made).__mro__


def tunable(spec: str, *, device: str, dtype: str = "") -> Any:
    """Load a `TunableGenerator`, without its weights.

    `dtype` is the precision in which it shall open them, if its ``load`` has such a parameter. Raises `UserError` if
    the generator cannot be tuned.
    """
    made = load("generator", spec, device=device, dtype=dtype)
    if not implements(made, TunableGenerator):
        raise UserError(f"--model {spec}: this generator cannot be tuned; only a vpctl.contracts.TunableGenerator can")
    return made


def _is_user_file(spec: str) -> bool:
    """Whether a spec names a file of the user, not a packaged plug-in."""
    return split(spec)[0].endswith(".py")


@contextmanager
def blamed(kind: str, spec: str, contract: str = "") -> Iterator[None]:
    """Turn any exception of a user's plug-in into a `UserError` that names the file and function of the plug-in.

    The exceptions that a plug-in may raise pass unchanged. So do exceptions of packaged plug-ins: they are bugs of
    vpctl.
    """
    try:
        yield
    except (UserError, RecordFailed, Refused, Stopped, OutputClosed):
        raise
    except (Exception, SystemExit) as error:
        if not _is_user_file(spec) or is_out_of_memory(error):
            raise
        file, expected = split(spec)[0], contract or CALLS[kind]
        own = os.path.realpath(file)
        frames = [one for one in traceback.extract_tb(error.__traceback__) if os.path.realpath(one.filename) == own]
        where = f"{file}:{frames[-1].lineno}, in {frames[-1].name}" if frames else file
        raise UserError(f"{where}: {_error_text(error)}; {expected}; --traceback shows more") from error


def _error_text(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception:  # the exception class of the plug-in cannot be printed
        return type(error).__name__


def contract_error(kind: str, spec: str, returned: object, function: str = "it", contract: str = "") -> UserError:
    """Return the error for a plug-in that returned something its contract does not allow."""
    return UserError(f"{_option(kind)} {spec}: {function} returned {_described(returned)}; {contract or CALLS[kind]}")


def _described(value: object) -> str:
    return "None" if value is None else f"{_article(type(value).__name__)}, {reprlib.repr(value)}"


def is_text(value: object) -> bool:
    """Whether `value` is text that a record can hold. UTF-8 cannot encode lone surrogates."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def is_number(value: object) -> bool:
    """Whether `value` is a finite number that a record can hold."""
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 63
    return isinstance(value, float) and math.isfinite(value)


def check_texts(kind: str, spec: str, *texts: str) -> None:
    """Raise `UserError` if a record cannot hold one of the texts that a plug-in returned."""
    for text in texts:
        if not is_text(text):
            raise UserError(
                f"{_option(kind)} {spec}: it returned the text {reprlib.repr(text)}, which UTF-8 cannot encode; "
                "a text must not contain lone surrogates"
            )


def _are_settings(value: object) -> bool:
    """Whether `value` is a `Settings` whose fields have the right types."""
    if not isinstance(value, Settings):
        return False
    whole = (value.num_inference_steps, value.width, value.height)
    return (
        (value.guidance_scale is None or is_number(value.guidance_scale))
        and all(one is None or (type(one) is int and one > 0) for one in whole)
        and (value.negative_prompt is None or is_text(value.negative_prompt))
    )


def is_usage(value: object) -> bool:
    """Whether `value` is a dict of finite numbers by name."""
    return isinstance(value, dict) and all(is_text(name) and is_number(one) for name, one in value.items())


def _is_any(_: object) -> bool:
    return True


def _are_kinds(value: object) -> bool:
    """Whether `value` names kinds of records, at least one."""
    return isinstance(value, tuple) and bool(value) and all(one in RECORD_KINDS for one in value)


def _are_kinds_or_none(value: object) -> bool:
    return value == () or _are_kinds(value)


def _is_count_or_none(value: object) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_length(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_size(value: object) -> bool:
    return is_number(value) and cast(float, value) >= 0


def _is_json(value: object) -> bool:
    return bool(digest([value]))


def _is_object(value: object) -> bool:
    return isinstance(value, dict) and _is_json(value)


def _is_context(value: object) -> bool:
    return isinstance(value, AbstractAsyncContextManager)


_RUNNING = (_is_context, "running takes a StopSignal and returns an async context manager")
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
        "sampler": (is_text, "sampler is text"),
        "side": (_is_length, "side is a whole number from 0 up"),
        "adapt": (_is_any, "adapt takes the folder of a LoRA and its weight"),
        "check": _CHECK,
        "running": _RUNNING,
        "summary": _SUMMARY,
        "expected": (is_usage, "expected takes (prompt, settings) and returns numbers by name"),
        "pipeline": (_is_any, "pipeline is a diffusers pipeline"),
    },
    "annotator": {
        "identity": (_is_json, "identity is a value that JSON can hold"),
        "max_side": (_is_length, "max_side is a whole number from 0 up"),
        "needs_pixels": (_is_bool, "needs_pixels is True or False"),
        "preparing": (_is_count, "preparing is a whole number from 1 up"),
        "running": _RUNNING,
        "check": _CHECK,
        "prepare": (_is_any, "prepare takes (image, path)"),
        "pixels": (_is_size, "pixels takes what prepare returned and returns a number"),
        "deterministic": (_is_bool, "deterministic takes nothing and returns True or False"),
        "first_alone": (_is_bool, "first_alone takes nothing and returns True or False"),
        "template": (is_text, "template takes a Kind and returns text"),
        "status": (is_text, "status takes the share done and returns text"),
        "summary": _SUMMARY,
        "expected": (is_usage, "expected takes (kind, prompt, sizes) and returns numbers by name"),
        "allowance": (is_usage, "allowance takes (kind, prompt, sizes) and returns numbers by name"),
        "assumptions": (is_text, "assumptions takes nothing and returns text"),
    },
    "reward": {
        "differentiable": (_is_any, "differentiable is True or False"),
        "prepare": (_is_any, "prepare takes an image"),
        "is_truncated": (_is_any, "is_truncated takes a prompt and returns True or False"),
        "provenance": (_is_object, "provenance takes nothing and returns a dict that JSON can hold"),
    },
    "format": {
        "gives": (_are_kinds, f"gives is a tuple of some of {', '.join(RECORD_KINDS)}"),
        "takes": (_are_kinds_or_none, f"takes is a tuple of some of {', '.join(RECORD_KINDS)}, or empty"),
        "copies_pictures": (_is_bool, "copies_pictures is True or False"),
        "count": (_is_count_or_none, "count takes nothing and returns a whole number or None"),
        "write": (_is_any, "write takes records and returns their number"),
        "publishes": (_is_bool, "publishes is True or False"),
        "publish": (_is_any, "publish takes prompts and a summary and returns the number of the prompts"),
    },
}
"""For each kind and member: a check of the member's value, or of what it returns if it is a function, and its contract
in one line."""


class Guarded:
    """A plug-in of the user, wrapped so that the values of its members and their results are checked.

    An exception in a member, or a value that does not fit `contract`, becomes a `UserError`, as in `blamed`. All
    members are read once, in the constructor, except `pipeline`, which would load weights.
    """

    def __init__(self, kind: str, spec: str, plugin: Any, contract: type) -> None:
        self.plugin, self._kind, self._spec, self._contract = plugin, kind, spec, contract
        for name in MEMBERS[kind].keys() - {"pipeline"}:
            if hasattr(contract, name):
                getattr(self, name)

    def __call__(self, *arguments: Any) -> Any:
        """Call the plug-in. The caller checks the result and turns its exceptions into a `UserError`."""
        return self.plugin(*arguments)

    def __getattr__(self, name: str) -> Any:
        """Return a member of the plug-in, if the contract has this member."""
        if not hasattr(self._contract, name):
            raise AttributeError(name)
        fits, contract = MEMBERS[self._kind].get(name, (_is_any, CALLS[self._kind]))
        is_function = callable(getattr(self._contract, name, None))
        with blamed(self._kind, self._spec, contract):
            found = getattr(self.plugin, name)
            if not (callable(found) if is_function else fits(found)):
                raise UserError(f"{_option(self._kind)} {self._spec}: its {name} is {_described(found)}; {contract}")
        if is_function and name in MEMBERS[self._kind]:
            found = self._checked(found, name, fits, contract)
        setattr(self, name, found)
        return found

    def _checked(self, call: Callable[..., Any], name: str, fits: Callable[[Any], bool], contract: str) -> Any:
        def guarded(*arguments: Any) -> Any:
            with blamed(self._kind, self._spec, contract):
                result = call(*arguments)
                if not fits(result):
                    raise contract_error(self._kind, self._spec, result, name, contract)
            return _Context(result, self._kind, self._spec, contract) if name == "running" else result

        return guarded


class _Context(AbstractAsyncContextManager[Any]):
    """The async context manager of a plug-in.

    Its own exceptions become a `UserError` that names the plug-in. Exceptions of the block inside it do not.
    """

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
        raise UserError(f"{path}: cannot be loaded: {_error_text(error)}; --traceback shows more") from error
    return module


def fingerprints(*specs: str) -> dict[str, str]:
    """For each spec, a hash of it and of the local files it names: code or weights.

    Without local files, the spec itself.
    """
    found = {}
    for spec in specs:
        local = _local(spec)
        found[spec] = digest([spec, *map(fingerprint, local)]) if local else spec
    return found


def model_fingerprint(spec: str, generator: Generator | AsyncGenerator) -> str:
    """Identity of the weights that a loaded generator draws with."""
    return generator.fingerprint or fingerprints(spec)[spec]


def last_modified(spec: str) -> float:
    """The last modification time of the local files that a spec names, in seconds since 1970.

    0 if the spec names no local file.
    """
    places = map(Path, _local(spec))
    files = [file for place in places for file in (place, *place.rglob("*")) if file.is_file()]
    return max((file.stat().st_mtime for file in files), default=0.0)


def _local(spec: str) -> list[str]:
    """The parts of a spec that are existing files or folders on this machine."""
    name, argument = split(spec)
    parts = argument.split(":")
    tails = [":".join(parts[start:]) for start in range(len(parts))]  # as in hpsv2:antialias:FILE
    return [part for part in (name, *tails) if part and os.path.exists(part)]


def aspects() -> dict[str, str]:
    """Name and title of every packaged aspect, in alphabetical order."""
    return {path.stem: aspect(path.stem).title for path in sorted((_HOME / "aspects").glob("*.md"))}


def aspect(spec: str) -> Aspect:
    """Load the aspect of a name or of a Markdown file. Raises `UserError` if there is none, or if it is malformed."""
    path = Path(spec) if spec.endswith(".md") else _HOME / "aspects" / f"{spec}.md"
    if not path.is_file():
        reason = f"there is no file {path}" if spec.endswith(".md") else _no_such("aspect", spec, aspects())
        raise UserError(f"--aspect {spec}: {reason}")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--aspect {spec}: cannot be read: {error}") from None
    settings, text = _aspect_settings(path, text)
    title, _, rubric = text.partition("\n")
    if not title.startswith("# ") or not rubric.strip():
        raise UserError(f"{path}: an aspect must begin with a title line, '# …', and a rubric must follow")
    named = re.findall(r"^(\d+)\. ([^:\n]+):", rubric, re.MULTILINE)
    if named and tuple(number for number, _ in named) != LEVELS:
        raise UserError(
            f"{path}: an aspect has five levels, from '1. Name: ...' to '5. Name: ...'; this has {len(named)}"
        )
    levels = tuple(f"{number} {name.strip()}" for number, name in named) or LEVELS
    return Aspect(path.stem, title.removeprefix("# ").strip(), rubric.strip(), levels, **settings)


_ASPECT_SETTINGS = {
    "prompt": ("with_prompt", {"shown": True, "hidden": False}),
    "ranking": ("with_ranking", {"asked": True, "none": False}),
}
"""The settings in front of an aspect's title: the field of `Aspect`, and its value for each word."""


def _aspect_settings(path: Path, text: str) -> tuple[dict[str, bool], str]:
    """The settings in front of the title of an aspect, by field, and the rest of the text. There may be none."""
    found = re.match(r"---\n(.*?)^---\n", text, re.DOTALL | re.MULTILINE)
    settings: dict[str, bool] = {}
    for line in found[1].splitlines() if found else ():
        key, _, word = (part.strip() for part in line.partition(":"))
        field, values = _ASPECT_SETTINGS.get(key, ("", {}))
        if word not in values:
            known = "; ".join(f"{name}: {' or '.join(words)}" for name, (_, words) in _ASPECT_SETTINGS.items())
            raise UserError(f"{path}: {line.strip()!r} is no setting of an aspect; there are {known}")
        settings[field] = values[word]
    return settings, text[found.end() :] if found else text


_WHERE_NAMES_BELONG = {"generator": "diffusion", "annotator": "openai", "polisher": "openai"}
"""For each kind, the plug-in that takes the name of a model as its argument."""


def _no_such(kind: str, name: str, known: dict[str, str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    if not near and kind in _WHERE_NAMES_BELONG and {*"/-"} & {*name}:
        meant = f"did you mean {_WHERE_NAMES_BELONG[kind]}:{name}? "
    return f"there is no {kind} {name!r}; {meant}known: {', '.join(known)}, or the path of your own file"
