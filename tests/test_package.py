"""What is shipped: weights, examples, and a wheel with everything that a command needs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import HOME, PATIENCE
from vpctl.cli import COMMANDS
from vpctl.shapes.grammar import canonical, held_out, read
from vpctl.shapes.prompts import example_files

WEIGHTS = HOME / "vpctl/shapes/weights"
MEBIBYTE = 1 << 20


def test_all_weights_together_stay_small() -> None:
    size = sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file())
    assert 1 * MEBIBYTE < size <= 24 * MEBIBYTE


@pytest.mark.parametrize("name", ["prompts.txt", "held-out.txt"])
def test_the_examples_are_what_their_script_writes(name: str) -> None:
    assert (HOME / "examples" / name).read_text() == example_files()[name], "run python -m vpctl.shapes.prompts"


def test_no_prompt_to_train_on_asks_for_what_is_held_out() -> None:
    train = (HOME / "examples/prompts.txt").read_text().splitlines()
    held = (HOME / "examples/held-out.txt").read_text().splitlines()
    assert not [prompt for prompt in train if held_out(prompt)]
    assert all(map(held_out, held))
    assert not {canonical(read(prompt)) for prompt in train} & {canonical(read(prompt)) for prompt in held}
    assert len(held) >= 300


def test_a_wheel_has_all_that_a_command_opens(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=HOME,
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name.partition(".data/data/")[2] or name for name in wheel.namelist()}
    inside = {
        str(file.relative_to(HOME))
        for file in (HOME / "vpctl").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    pages = {f"share/man/man1/{name}.1" for name in ("vpctl", *(f"vpctl-{command}" for command in COMMANDS))}
    completions = {
        "share/bash-completion/completions/vpctl",
        "share/zsh/site-functions/_vpctl",
        "share/fish/vendor_completions.d/vpctl.fish",
    }
    assert not (inside | pages | completions) - packed
