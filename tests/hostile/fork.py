"""vpctl many times over without starting Python each time: every run is a fork of one process that has imported all.

A run has its own process, so it can change or break nothing for the next one. `python -m tests.hostile.fork` is the
process that is forked; `Forks` starts it and asks it. The libraries are imported once, in about ten seconds, and a run
costs twenty milliseconds beside its own work.
"""

import atexit
import contextlib
import gc
import io
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import orjson

from tests.conftest import ENVIRONMENT, HOME, as_anyone

MEMORY = 8 << 30
"""Bytes of address space: torch and its libraries map three gigabytes before anything is done."""
WITHOUT_MODELS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "0",
}
"""A process that forks must have no threads but one."""
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9", "OPENAI_BASE_URL": "http://127.0.0.1:9"}
"""Nobody listens there, so a run that asks the network is refused at once."""


class Ended(NamedTuple):
    """How a run ended: its exit, negative for a signal, and every byte it wrote."""

    code: int
    out: bytes
    err: bytes


class Forks:
    """Runs vpctl in forks of a process that is started when it is first needed."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None

    def __call__(
        self,
        arguments: list[str],
        cwd: Path,
        *,
        stdin: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        seconds: int = 60,
        cpu_seconds: int = 60,
        err: str | None = None,
        memory: int = MEMORY,
    ) -> Ended:
        """Run ``vpctl ARGUMENTS`` in `cwd`.

        What takes longer than `seconds` is killed by SIGALRM (code -14), after `cpu_seconds` by SIGXCPU (-24).

        `err` may name a terminal that is to be its standard error.
        """
        outputs = [cwd.with_name(f"{cwd.name}.{name}") for name in ("out", "err")]
        for one in outputs:
            one.unlink(missing_ok=True)
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
        code = self._ask(asked)
        return Ended(code, *(one.read_bytes() if one.exists() else b"" for one in outputs))

    def _ask(self, asked: Mapping[str, Any]) -> int:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile.fork"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=HOME,
                env={**ENVIRONMENT, **NO_HUB, **WITHOUT_MODELS, "PYTHONPATH": str(HOME)},
                preexec_fn=as_anyone,
            )
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(orjson.dumps(asked, option=orjson.OPT_APPEND_NEWLINE))
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the process that is forked has ended"
        return int(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server:
            assert self._server.stdin
            self._server.stdin.close()
            self._server.wait(10)


def serve() -> None:
    """Read what is asked, a line each, and answer with the exit of a fork that did it."""
    _import_everything()
    gc.freeze()  # or every fork copies what its first collection touches
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    for line in sys.stdin.buffer:
        asked = orjson.loads(line)
        child = os.fork()
        if child == 0:
            _run(asked)
        _, status = os.waitpid(child, 0)
        answers.write(b"%d\n" % os.waitstatus_to_exitcode(status))


def _import_everything() -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # what transformers says of torchvision as it is imported
        import diffusers
        import openai
        import peft
        import rich.console
        import scipy.stats
        import torch.utils.tensorboard
        import tqdm
        import transformers
        from diffusers import StableDiffusionPipeline
        from transformers import AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval, CLIPModel

        import vpctl.cli
        import vpctl.rewards.vp
        import vpctl.tuning.dpo
        import vpctl.tuning.ppo
        import vpctl.tuning.run

    for name in vpctl.cli.COMMANDS:
        vpctl.cli.load(f"{name} accuracy" if name == "eval" else name)
    _ = (diffusers, openai, peft, rich.console, scipy.stats, torch, tqdm, transformers, StableDiffusionPipeline)
    _ = (AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval, CLIPModel)


def _run(asked: Mapping[str, Any]) -> None:
    """In the fork: become the run that is asked for, and never return."""
    code = 1
    try:
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
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8", "surrogateescape")
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.BufferedWriter(io.FileIO(number, "w", closefd=False)), "utf-8", errors)
            for number, errors in ((1, "strict"), (2, "backslashreplace"))
        )
        sys.argv = ["vpctl", *asked["arguments"]]
        from vpctl.cli import main

        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        code = 120  # as Python itself ends
    os._exit(code)


if __name__ == "__main__":
    serve()
