"""Runs vpctl many times without starting Python each time: every run is a fork of a process with all imports done.

Each run is its own process, so it cannot affect the next one. There are two processes to fork. The small one has
imported everything except torch and packages that need torch; a fork of it takes five milliseconds. A run that imports
torch ends there, and is repeated in a fork of the large one, which takes ten times as long.
`python -m tests.hostile.fork` starts either one; `Forks` starts them when they are first needed.
"""

import contextlib
import gc
import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

import orjson

from tests.conftest import HOME, as_anyone
from tests.forks import be, renew_streams
from tests.surroundings import ENVIRONMENT

MEMORY = 8 << 30
"""Bytes of address space per run. torch and its libraries alone map three gigabytes."""
NEEDS_MODELS = 99
"""Exit code of a run in the small process that imports torch."""
MODELS = frozenset(["torch", "transformers", "diffusers", "peft"])
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9", "OPENAI_BASE_URL": "http://127.0.0.1:9"}
"""Nothing listens at this address, so network requests of a run fail at once."""


class Ended(NamedTuple):
    """The result of a run: its exit code (negative for a signal), and every byte it wrote."""

    code: int
    out: bytes
    err: bytes


class Forks:
    """Runs vpctl in forks of two processes, which are started when they are first needed."""

    def __init__(self) -> None:
        self._servers: dict[str, subprocess.Popen[bytes]] = {}

    def __call__(
        self,
        arguments: list[str],
        cwd: Path,
        *,
        stdin: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        seconds: int = 300,
        cpu_seconds: int = 60,
        err: str | None = None,
        memory: int = MEMORY,
        afresh: Callable[[], object] = lambda: None,
    ) -> Ended:
        """Run ``vpctl ARGUMENTS`` in `cwd`.

        A run that takes longer than `seconds` is killed by SIGALRM (code -14), after `cpu_seconds` of CPU time by
        SIGXCPU (-24). `err` may name a terminal, which becomes the standard error. `afresh` restores `cwd` before a run
        is repeated.
        """
        outputs = [cwd.with_name(f"{cwd.name}.{name}") for name in ("out", "err")]
        wanted = {**ENVIRONMENT, **NO_HUB, **(env or {})}
        asked = {
            "arguments": arguments,
            "cwd": str(cwd),
            "env": {name: value for name, value in wanted.items() if value is not None},
            "files": [str(stdin or os.devnull), str(outputs[0]), err or str(outputs[1])],
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "memory": memory,
        }
        code = self._ask("small", asked, outputs)
        if code == NEEDS_MODELS:
            afresh()
            code = self._ask("large", asked, outputs)
        return Ended(code, *(one.read_bytes() if one.exists() else b"" for one in outputs))

    def _ask(self, size: str, asked: Mapping[str, Any], outputs: list[Path]) -> int:
        if size not in self._servers:
            self._servers[size] = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile.fork", size],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=HOME,
                env={**ENVIRONMENT, **NO_HUB, "PYTHONPATH": str(HOME)},
                preexec_fn=as_anyone,
            )
        for one in outputs:
            one.unlink(missing_ok=True)
        server = self._servers[size]
        assert server.stdin
        assert server.stdout
        server.stdin.write(orjson.dumps(asked, option=orjson.OPT_APPEND_NEWLINE))
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, f"the {size} process that is forked has ended"
        return int(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers.values():
            with server:  # closes its pipes, so that it ends, and waits for its end
                pass


def serve(size: str) -> None:
    """Read one request per line. Answer each with the exit code of a fork that ran it."""
    _import_small()
    if size == "large":
        _import_models()
    else:
        sys.meta_path.insert(0, _NoModels())
    gc.freeze()  # otherwise the first garbage collection of every fork would copy memory
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    for line in sys.stdin.buffer:
        asked = orjson.loads(line)
        child = os.fork()
        if child == 0:
            _run(asked)
        _, status = os.waitpid(child, 0)
        answers.write(b"%d\n" % os.waitstatus_to_exitcode(status))


class _NoModels:
    """An import hook that ends the process if it imports a package that only the large process has."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Called for modules that are not imported yet. Returns nothing, or ends the process."""
        if name in MODELS:
            os._exit(NEEDS_MODELS)


def _import_small() -> None:
    import genai_prices
    import numpy
    import openai
    import rich.table
    import tqdm

    import vpctl.api.chat
    import vpctl.api.transport
    import vpctl.cli
    import vpctl.judging.run
    import vpctl.pages.page
    import vpctl.polishers.rules
    import vpctl.prompts.clip_tokens
    import vpctl.report.intervals

    for name in vpctl.cli.COMMANDS:
        vpctl.cli.load(f"{name} accuracy" if name == "eval" else name)
    _ = (genai_prices, numpy, openai, rich.table, tqdm)


def _import_models() -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # hides a message about torchvision from the import of transformers
        import peft
        import torch.utils.tensorboard
        from diffusers import StableDiffusionPipeline
        from transformers import AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval, CLIPModel

    _ = (peft, torch, StableDiffusionPipeline, AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval, CLIPModel)


def _run(asked: Mapping[str, Any]) -> NoReturn:
    """In the fork: run the requested command line, and exit."""

    def begin() -> int:
        os.chdir(asked["cwd"])
        flags = (
            os.O_RDONLY,
            os.O_WRONLY | os.O_CREAT | os.O_APPEND,
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY,
        )
        for number, (path, how) in enumerate(zip(asked["files"], flags, strict=True)):
            opened = os.open(path, how, 0o666)
            os.dup2(opened, number)
            os.close(opened)
        os.environ.clear()
        os.environ.update(asked["env"])
        resource.setrlimit(resource.RLIMIT_AS, (asked["memory"], asked["memory"]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (asked["cpu_seconds"], asked["cpu_seconds"] + 5))
        signal.alarm(asked["seconds"])
        renew_streams()
        sys.argv = ["vpctl", *asked["arguments"]]
        from vpctl.cli import main

        return main()

    be(begin)


if __name__ == "__main__":
    serve(sys.argv[1])
