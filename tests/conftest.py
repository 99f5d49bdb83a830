"""Shared by all tests: vpctl run as a user runs it, small pictures, and files of records."""

import ast
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random
from textwrap import dedent
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from tests.surroundings import ENVIRONMENT
from vpctl import progress
from vpctl.records import Image
from vpctl.shapes.grammar import describe, sample
from vpctl.shapes.render import render

if TYPE_CHECKING:
    from tests.forks import Forks

settings.register_profile("vpctl", deadline=None, derandomize=True, database=None)
settings.load_profile("vpctl")

# A test suite started in the background inherits ignored interrupts, and its child processes would inherit them too.
signal.signal(signal.SIGINT, signal.default_int_handler)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
"""Any value of JSON that is read back as it was written."""
HOME = Path(__file__).parent.parent
PATIENCE = 300
"""Seconds after which a test fails if an event has not happened. Enough for a machine that is busy with other work."""


class Ended(NamedTuple):
    """The result of a process: its exit code, output and messages."""

    code: int
    out: str
    err: str


class Run(Protocol):
    """Runs vpctl, in the folder of the test unless another one is named."""

    def __call__(
        self, *arguments: str | Path, stdin: str = "", cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Ended: ...


def as_anyone() -> None:
    """Called in a child process: drops root's right to open every file, so that permissions work in a container."""
    system = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        system.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; it fails for users other than root, who do not need it


def vpctl(*arguments: str | Path) -> list[str]:
    """The words of a command line that runs vpctl."""
    return [sys.executable, "-m", "vpctl", *map(str, arguments)]


MODELS = {"datasets", "diffusers", "peft", "safetensors", "tokenizers", "torch", "transformers"}
PROCESSES = {"subprocess", "tests.conftest.Run", "tests.conftest.bash", "tests.conftest.vpctl"}
"""Imports that show that a test file works with models, or that it starts vpctl many times."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="Leave out the test files that need models or processes.")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --quick, leave out the test files with such imports, their own or those of the helpers they import."""
    is_file = collection_path.suffix == ".py" and collection_path.name.startswith("test_")
    return True if config.getoption("--quick") and is_file and needs(collection_path) & (MODELS | PROCESSES) else None


LONGEST = """
    tuning/test_processes.py test_examples.py test_pipeline.py tuning/test_reward.py test_kills.py
    tuning/test_interrupts.py tuning/test_judge.py drawing/test_parts.py tuning/test_dpo.py tuning/test_ddpo.py
    tuning/test_refl.py tuning/test_d3po.py tuning/test_nft.py tuning/test_sdxl.py tuning/test_flow.py
""".split()
"""The test files that take longest, the longest first."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first. Otherwise one of them may begin last, and the other workers would wait for it.

    By default, pytest-xdist begins with the files that have most tests. Those are short. So the settings turn this off.
    """
    places = {HOME / "tests" / name: place for place, name in enumerate(LONGEST)}
    assert all(path.exists() for path in places)
    items.sort(key=lambda item: places.get(item.path, len(places)))


@cache
def needs(file: Path) -> set[str]:
    """The packages and names that a test file imports, including those that its helpers import."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module.partition(".")[0], *(f"{node.module}.{alias.name}" for alias in node.names)}
            helper = HOME / f"{node.module.replace('.', '/')}.py"
            if node.module.startswith("tests.") and node.module != "tests.conftest" and helper.exists():
                found |= needs(helper)
    return found


@pytest.fixture(autouse=True)
def spoken() -> None:
    """Print messages as without options, whatever an earlier command in this process has set."""
    progress.begin("vpctl", quiet=False)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run("merge", "in.jsonl")` runs vpctl. Without `stdin`, standard input is empty."""

    def run(
        *arguments: str | Path, stdin: str = "", cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Ended:
        done = subprocess.run(
            vpctl(*arguments),
            input=stdin.encode(),
            capture_output=True,
            cwd=cwd or tmp_path,
            env={**ENVIRONMENT, **(env or {})},
            timeout=PATIENCE,
            preexec_fn=as_anyone,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture(scope="session")
def forks() -> "Iterator[Forks]":
    """Runs vpctl without the time to import the libraries."""
    from tests.forks import Forks

    with Forks() as forks:
        yield forks


@pytest.fixture
def forked(forks: "Forks", tmp_path: Path) -> Run:
    """As `run`, in a fork of a process that has imported the libraries."""

    def run(
        *arguments: str | Path, stdin: str = "", cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Ended:
        return forks([*map(str, arguments)], cwd or tmp_path, stdin=stdin, env=env)

    return run


def until(happened: Callable[[], object], process: "subprocess.Popen[Any] | None" = None) -> None:
    """Wait until `happened` returns true. Fail if `process` ends before that, or after `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert process is None or process.poll() is None, "the process ended before it happened"
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def told(process: "subprocess.Popen[str]", words: str) -> str:
    """The text that a process writes to standard error, up to the line that contains `words`."""
    assert process.stderr
    said = ""
    with patience(process):
        for line in process.stderr:
            said += line
            if words in line:
                return said
    raise AssertionError(f"it ended without {words!r}: {said}")


def rest(process: "subprocess.Popen[str]") -> str:
    """The text that a process writes to standard error from now until it ends."""
    assert process.stderr
    with patience(process):
        said = process.stderr.read()
        process.stderr.close()
        process.wait()
    return said


@contextmanager
def patience(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Kill the process if the context takes longer than `PATIENCE` seconds."""
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def bash(line: str, cwd: Path, **env: str) -> Ended:
    """Run a line of shell in which `vpctl` is the program under test."""
    done = subprocess.run(
        ["bash", "-c", line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=cwd,
        env={**ENVIRONMENT, "PATH": f"{_shims()}:{os.environ['PATH']}", **env},
        timeout=PATIENCE,
        preexec_fn=as_anyone,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def _shims() -> Path:
    """The folder of the installed vpctl, which need not be on the path."""
    folder = Path(sys.executable).parent
    assert shutil.which("vpctl", path=str(folder)), f"vpctl is not installed in {folder}"
    return folder


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write a file of records as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records))
    return path


def lines(text: str) -> list[dict[str, Any]]:
    """The records in a text of JSON Lines."""
    return [orjson.loads(line) for line in text.splitlines()]


def code_of_card(card: str, start: str = "    from transformers") -> str:
    """The Python code in a model card that begins with `start`."""
    return dedent(next(block for block in card.split("\n\n") if block.startswith(start)))


def draw(folder: Path, *, prompts: int, each: int = 2) -> list[Image]:
    """Write `each` pictures per prompt of the shapes world and `metadata.jsonl` to `folder`. Return the records."""
    chance = Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    records: list[Image] = []
    for prompt in range(prompts):
        scene = sample(chance)
        for number in range(each):
            name = f"{prompt}-{number}.png"
            render(scene, chance).save(folder / name)
            records.append(
                {
                    "prompt": describe(scene),
                    "prompt_id": f"p{prompt}",
                    "image_id": f"i{prompt}-{number}",
                    "file_name": name,
                    "model": "rendered",
                    "seed": number,
                }
            )
    write_lines(folder / "metadata.jsonl", records)
    return records


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures of three prompts, two each, and their `metadata.jsonl`. Tests must not write to it."""
    folder = tmp_path_factory.mktemp("drawn")
    draw(folder, prompts=3)
    return folder


Plugin = Callable[[str, str], Path]
FAIR = """
from vpctl.contracts import Verdicts
return lambda prompt, images, aspect: Verdicts([sum(i.tobytes()) % 5 + 1.0 for i in images], ["x"] * len(images), {})
"""
"""An annotator that looks at every byte of the picture."""
ONE = "import array\nreturn lambda images, prompts: array.array('d', [float(argument or 1)] * len(images))"
"""A reward that is always the same: its argument, or one."""


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    """`plugin(name, body)` writes a user's plug-in; `body` is the body of its `load(argument, *, device)`."""

    def write(name: str, body: str) -> Path:
        indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
        path = tmp_path / f"{name}.py"
        path.write_text(f'"""A plug-in of the tests."""\n\n\ndef load(argument, *, device):\n{indented}')
        return path

    return write
