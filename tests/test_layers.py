"""Imports run downward only, as section 3 of DESIGN says."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import HOME

FLOORS = (
    "__init__ errors records",
    "streams progress flow contracts images plugins sources options configs",
    "models prompts api",
    "judging report pages drawing voting",
    "shapes polishers generators annotators rewards formats tuning",
    "commands",
    "cli manual __main__",
)
"""The floors from bottom to top, each in the order of imports. A room may import only rooms before it."""
RANK = {name: rank for rank, name in enumerate(" ".join(FLOORS).split())}
GROUND = FLOORS[0].split()
FOLDERS = ("annotators", "formats", "generators", "polishers", "rewards", "tuning")
"""Whose modules import none of another folder of their floor, but for shapes."""
PARSERS = ("typer", "click")
FENCE = ("cli", "options")
"""The modules that may import a parser."""


def place(module: str) -> str:
    """The room of a module: ``rewards`` for ``vpctl.rewards.vp``, ``records`` for ``vpctl.records``."""
    return f"{module}.__init__".split(".")[1]


def name_of(path: str) -> str:
    """The module name of a path: ``vpctl.rewards`` for ``vpctl/rewards/__init__.py``."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def command_of(module: str) -> str:
    """The command that a module belongs to, such as ``vpctl.commands.eval`` of ``vpctl.commands.eval.compare``."""
    return ".".join(module.split(".")[:3])


def imports(path: str, source: str, known: set[str]) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every import, also inside functions and under TYPE_CHECKING."""
    module = name_of(path)
    package = module.split(".") if path.endswith("/__init__.py") else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield node.lineno, inner if inner in known else origin


def violations(files: Mapping[str, str]) -> list[str]:
    """The violations of the rules, as ``path:line: why``. `files` maps paths in the repository to their text."""
    known = {name_of(path) for path in [*package(), *files]}
    found = []
    for path, source in files.items():
        module = name_of(path)
        own = place(module)
        if own not in RANK:
            found.append(f"{path}:1: {own} is on no floor of the house; give it one in {Path(__file__).name}")
            continue
        for line, target in imports(path, source, known):
            if why := forbidden(module, own, target):
                found.append(f"{path}:{line}: {why}")
    return found


def forbidden(module: str, own: str, target: str) -> str:
    """Why `module`, which is at `own`, may not import `target`; empty if it may."""
    package = target.partition(".")[0]
    if package != "vpctl":
        if own in GROUND and package not in {*sys.stdlib_module_names, "orjson"}:
            return f"{own} imports {package}; the ground floor has the standard library and orjson"
        if package in PARSERS and own not in FENCE:
            return f"{own} imports {package}"
        return ""
    other = place(target)
    if RANK.get(other, -1) > RANK[own]:
        return f"{own} imports {other}, which is above it"
    if own == other == "commands" and target != "vpctl.commands" and command_of(target) != command_of(module):
        return f"a command imports the command {target.rpartition('.')[2]}"
    if own in FOLDERS and other in FOLDERS and own != other:
        return f"{own} imports its neighbour {other}"
    return ""


@cache
def package() -> dict[str, str]:
    """Path and text of every module."""
    return {str(path.relative_to(HOME)): path.read_text() for path in sorted((HOME / "vpctl").rglob("*.py"))}


def test_imports_run_downward_only() -> None:
    assert violations(package()) == []


def test_only_a_denoiser_knows_the_parts_of_a_pipeline() -> None:
    """A new model family is one file in models/denoiser. It changes nothing in training or in a command."""
    trainers = {path: source for path, source in package().items() if path.split("/")[1] in ("tuning", "commands")}
    parts = {"pipe", "scheduler", "unet", "vae", "text_encoder"}
    found = [
        f"{path}:{node.lineno}: .{node.attr}"
        for path, source in trainers.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr in parts
    ]
    assert found == []
    known = {name_of(path) for path in package()}
    targets = {target for path, source in trainers.items() for _, target in imports(path, source, known)}
    assert not {target.partition(".")[0] for target in targets} & {"diffusers", "peft"}
    assert "vpctl.models.denoiser" in targets
    assert "vpctl.models.denoiser.sd" not in targets


def named(source: str) -> Iterator[str]:
    """The public classes of a module, and its type aliases, which are capitalised too."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id


def test_no_two_public_types_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for path, source in package().items():
        for name in named(source):
            if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name):
                places.setdefault(name, []).append(path)
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_every_room_is_lived_in() -> None:
    there = {place(name_of(path)) for path in package()}
    assert there == set(RANK)


def test_no_module_needs_itself() -> None:
    """Also within a floor: a module that is imported at the top must be complete before the module that imports it."""
    files = package()
    known = {name_of(path) for path in files}
    needs: dict[str, set[str]] = {}
    for path, source in files.items():
        top = ast.unparse(ast.Module([node for node in ast.parse(source).body if not isinstance(node, ast.If)], []))
        needs[name_of(path)] = {target for _, target in imports(path, top, known) if target in known}
    order: list[str] = []
    while rest := {name for name in needs if name not in order}:
        free = {name for name in rest if needs[name] - {name} <= set(order)}
        assert free, f"these import one another: {sorted(rest)}"
        order += sorted(free)


@pytest.mark.parametrize(
    ("path", "source", "why"),
    [
        (
            "vpctl/records.py",
            "import numpy",
            "records imports numpy; the ground floor has the standard library and orjson",
        ),
        (
            "vpctl/streams/reading.py",
            "def f():\n    from ..plugins import load",
            "streams imports plugins, which is above it",
        ),
        ("vpctl/errors.py", "from . import progress", "errors imports progress, which is above it"),
        ("vpctl/images/pictures.py", "from ..rewards import vp", "images imports rewards, which is above it"),
        (
            "vpctl/images/pictures.py",
            "if TYPE_CHECKING:\n    from ..shapes.judge import judge",
            "images imports shapes, which is above it",
        ),
        ("vpctl/plugins.py", "import typer", "plugins imports typer"),
        ("vpctl/configs.py", "from click import Choice", "configs imports click"),
        ("vpctl/manual.py", "from typer.models import OptionInfo", "manual imports typer"),
        ("vpctl/commands/score.py", "import typer", "commands imports typer"),
        ("vpctl/streams/reading.py", "from .. import sources", "streams imports sources, which is above it"),
        ("vpctl/formats/csv.py", "from ..rewards import vp", "formats imports its neighbour rewards"),
        ("vpctl/rewards/vp.py", "import typer.testing", "rewards imports typer"),
        ("vpctl/rewards/vp.py", "from ..annotators.openai import load", "rewards imports its neighbour annotators"),
        ("vpctl/rewards/vp.py", "from ..commands.score import score", "rewards imports commands, which is above it"),
        ("vpctl/tuning/ddpo.py", "import vpctl.generators.shapes", "tuning imports its neighbour generators"),
        (
            "vpctl/shapes/judge.py",
            "from ..tuning import run",
            "shapes imports tuning, which is above it",
        ),
        ("vpctl/commands/score.py", "from .merge import merge", "a command imports the command merge"),
        ("vpctl/commands/eval/compare.py", "from ..merge import merge", "a command imports the command merge"),
        ("vpctl/streams/writing.py", "from .. import progress", "streams imports progress, which is above it"),
        ("vpctl/api/chat.py", "from ..judging.questions import Question", "api imports judging, which is above it"),
        ("vpctl/commands/score.py", "from . import merge", "a command imports the command merge"),
        ("vpctl/commands/score.py", "from .. import cli", "commands imports cli, which is above it"),
        ("vpctl/commands/score.py", "from vpctl.cli import main", "commands imports cli, which is above it"),
        ("vpctl/extra.py", "import json", "extra is on no floor of the house; give it one in test_layers.py"),
    ],
)
def test_a_breach_is_seen(path: str, source: str, why: str) -> None:
    line = 2 if "\n" in source else 1
    assert f"{path}:{line}: {why}" in violations({path: source})


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "vpctl/rewards/vp.py",
            "from ..shapes.judge import judge\nfrom . import clip\nfrom ..models import tensors\nimport torch",
        ),
        (
            "vpctl/commands/score.py",
            "from ..rewards import vp\nfrom .. import __version__\nfrom . import score",
        ),
        ("vpctl/commands/eval/compare.py", "from ._reports import gate\nfrom .. import eval"),
        (
            "vpctl/streams/writing.py",
            "import fcntl\nimport orjson\nfrom ..records import Prompt\nfrom .places import folder_of",
        ),
        ("vpctl/cli.py", "from . import __version__, plugins\nfrom .commands import score\nimport typer"),
        ("vpctl/options.py", "import typer"),
    ],
)
def test_what_is_allowed_is_not_taken_for_a_breach(path: str, source: str) -> None:
    assert violations({path: source}) == []
