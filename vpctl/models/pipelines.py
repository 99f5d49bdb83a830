"""Reads the source files of diffusers to find out about its pipelines. Importing diffusers would take seconds."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@cache
def home() -> Path:
    """The folder of the diffusers package."""
    spec = find_spec("diffusers")
    assert spec, "diffusers is a dependency"
    assert spec.origin, "diffusers is a package"
    return Path(spec.origin).parent


def exists(name: str) -> bool:
    """Whether diffusers lists a class of this name."""
    return f'"{name}"' in (home() / "__init__.py").read_text("utf-8")


def needs_nothing_more(name: str) -> bool:
    """Whether a pipeline needs at most torch and transformers, which are dependencies of vpctl."""
    stand_ins = home() / "utils" / "dummy_torch_and_transformers_objects.py"
    return stand_ins.is_file() and f"class {name}(" in stand_ins.read_text("utf-8")


@cache
def parameters(name: str) -> dict[str, Any]:
    """The parameters of a pipeline's ``__call__`` and their defaults; empty if there is no such pipeline.

    A value is None if there is no default, or if the default is not a literal.
    """
    opening = f"class {name}(".encode()
    for file in (home() / "pipelines").rglob("*.py"):
        content = file.read_bytes()
        if opening in content:
            for node in ast.parse(content).body:
                if isinstance(node, ast.ClassDef) and node.name == name:
                    return _of_call(node)
    return {}


def _of_call(pipeline: ast.ClassDef) -> dict[str, Any]:
    for node in pipeline.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__call__":
            plain = [*node.args.posonlyargs, *node.args.args]
            defaults = [None] * (len(plain) - len(node.args.defaults)) + [*map(_literal, node.args.defaults)]
            named = zip(node.args.kwonlyargs, map(_literal, node.args.kw_defaults), strict=True)
            return {one.arg: default for one, default in [*zip(plain, defaults, strict=True), *named]}
    return {}


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node else None
    except ValueError:
        return None
