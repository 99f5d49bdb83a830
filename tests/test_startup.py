import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Ended, write_lines
from tests.surroundings import ENVIRONMENT
from vpctl.cli import COMMANDS, EVALUATIONS
from vpctl.generators import shapes

HEAVY = {
    "accelerate",
    "diffusers",
    "genai_prices",
    "jinja2",
    "numpy",
    "openai",
    "peft",
    "pyarrow",
    "pydantic",
    "PIL",
    "safetensors",
    "scipy",
    "tensorboard",
    "tokenizers",
    "torch",
    "transformers",
}
LISTING = """
import atexit, json, sys
report, sys.argv = sys.argv[1], ["vpctl", *sys.argv[2:]]
atexit.register(lambda: json.dump([*sys.modules], open(report, "w")))
from vpctl.cli import main
sys.exit(main())
"""
"""A program that runs vpctl, and at its end writes the names of all loaded modules into the file named first."""


def listed(folder: Path, *words: str) -> tuple[Ended, set[str]]:
    """Run a command line. Return its result and the modules it loaded."""
    report = folder / "modules.json"
    done = subprocess.run(
        [sys.executable, "-c", LISTING, str(report), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=folder,
        env=ENVIRONMENT,
        timeout=PATIENCE,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode()), set(json.loads(report.read_text()))


def loaded(folder: Path, *words: str) -> set[str]:
    """The modules loaded by a command line that succeeds."""
    ended, modules = listed(folder, *words)
    assert ended.code == 0, ended.err
    return modules


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


PAGES = [["--help"], *([name, "--help"] for name in COMMANDS), *(["eval", name, "--help"] for name in EVALUATIONS)]


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_help_loads_nothing_heavy_and_no_command_but_its_own(tmp_path: Path, words: list[str]) -> None:
    modules = loaded(tmp_path, *words)
    assert not packages(modules) & HEAVY
    own = {f"vpctl.commands.{words[0].replace('-', '_')}"} if words[0] in COMMANDS else set()
    assert {".".join(name.split(".")[:3]) for name in modules if name.startswith("vpctl.commands.")} == own
    assert len(modules) < 380, "Rich, which draws the help, is most of them"


@pytest.mark.parametrize("words", [["--version"], ["--plugins"]], ids=" ".join)
def test_a_question_loads_little_more_than_the_parser(tmp_path: Path, words: list[str]) -> None:
    modules = loaded(tmp_path, *words)
    assert not packages(modules) & (HEAVY | {"rich", "tqdm", "asyncio"})
    assert len(modules) < 180


def test_merge_loads_nothing_heavy(tmp_path: Path) -> None:
    judgements = [
        {
            "prompt_id": str(number),
            "prompt": "x",
            "aspect": "fidelity",
            "annotator": "human",
            "image_ids": ["a", "b"],
            "file_names": ["a.png", "b.png"],
            "scores": [1, 2],
        }
        for number in range(10)
    ]
    write_lines(tmp_path / "in.jsonl", judgements)
    modules = loaded(tmp_path, "merge", "in.jsonl", "--out", "out.jsonl")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 10
    assert not packages(modules) & HEAVY
    assert len(modules) < 320, "Rich, which draws the table, is most of them"
    assert len(loaded(tmp_path, "merge", "in.jsonl", "-q", "--out", "out.jsonl")) < 200


def test_completion_loads_nothing_heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "COMP_WORDS": "vpctl score --reward s",
        "COMP_CWORD": "3",
        "_VPCTL_COMPLETE": "complete_bash",
    }.items():
        monkeypatch.setitem(ENVIRONMENT, name, value)
    modules = loaded(tmp_path)
    assert not packages(modules) & (HEAVY | {"rich"})
    assert len(modules) < 200


@pytest.mark.parametrize(("model", "steps"), [("shapes:small", 10), (f"diffusion:{shapes.WEIGHTS / 'small'}", 50)])
def test_steps_that_leave_nothing_to_train_on_are_refused_before_anything_heavy(
    tmp_path: Path, model: str, steps: int
) -> None:
    """Also if the number of steps is the default of the model."""
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    words = f"tune-ppo prompts.txt --reward shapes --model {model} --skip-last {steps} --out run".split()
    ended, modules = listed(tmp_path, *words)
    assert ended.code == 2
    assert ended.err.endswith(f"error: --skip-last {steps}: leaves none of {steps} denoising steps to train on\n")
    assert not packages(modules) & HEAVY
    assert not (tmp_path / "run").exists()
