"""vpctl in forks of one process that has imported the libraries once: a run costs no more than its own work."""

import atexit
import functools
import gc
import importlib
import io
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

import numpy as np
import orjson

from tests.conftest import HOME, PATIENCE, Ended, as_anyone
from tests.killed import watched
from tests.surroundings import ENVIRONMENT

MODULES = (
    *("aiohttp", "json_repair", "rich.table", "rich.progress"),
    *("diffusers.pipelines.auto_pipeline", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion"),
    *("vpctl.generators.shapes", "vpctl.polishers.rules", "vpctl.rewards.judge", "vpctl.rewards.shapes"),
    *("vpctl.models.denoiser.sd", "vpctl.models.denoiser.unet", "vpctl.models.reward"),
    *("vpctl.tuning.ddpo", "vpctl.tuning.dpo", "vpctl.tuning.reward"),
    *("vpctl.api.transport", "vpctl.drawing.run", "vpctl.judging.live", "vpctl.judging.merging", "vpctl.pages.page"),
)
"""Modules that the commands import only when they need them."""


class Forks:
    """Runs vpctl. A run that takes longer than `PATIENCE` fails.

    `stdin` is its standard input, and `env` is added to the environment. `limit` is the most bytes of a file. With
    `kill` it is killed at this event: see `tests.killed`.

    With `signals` the process is sent these, by shell commands such as ``kill -INT $PPID``, at the given `call` of the
    `moment`, a function named as ``vpctl.tuning.run:Run.log``. It waits there until the first has come.
    """

    def __init__(self) -> None:
        self._folder = TemporaryDirectory()
        self._runs = 0
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=HOME,
            env={**ENVIRONMENT, "PYTHONPATH": str(HOME), "PYTHONUTF8": "1"},
            preexec_fn=as_anyone,
        )

    def __call__(
        self,
        arguments: list[str],
        folder: Path,
        *,
        stdin: str = "",
        limit: int = 0,
        signals: str = "",
        moment: str = "",
        call: int = 0,
        kill: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run ``vpctl ARGUMENTS`` in `folder` to its end."""
        self._runs += 1
        read, *said = (Path(self._folder.name, f"{self._runs}.{name}") for name in ("stdin", "stdout", "stderr"))
        for file in (read, *said):
            file.write_bytes(stdin.encode() if file is read else b"")
        asked = {"arguments": arguments, "folder": str(folder), "files": [*map(str, (read, *said))], "limit": limit}
        asked |= {"signals": signals, "moment": moment, "call": call, "kill": kill, "env": dict(env or {})}
        assert self._server.stdin
        self._server.stdin.write(orjson.dumps(asked, option=orjson.OPT_APPEND_NEWLINE))
        self._server.stdin.flush()
        ended = Ended(self._code(), *(file.read_bytes().decode() for file in said))
        assert ended.code != -signal.SIGALRM, f"it took more than {PATIENCE} seconds: {ended.err}"
        for file in (read, *said):
            file.unlink()
        return ended

    def _code(self) -> int:
        assert self._server.stdout
        ready, _, _ = select.select([self._server.stdout], [], [], 2 * PATIENCE)
        assert ready, "the process that is forked does not answer"
        answer = self._server.stdout.readline()
        assert answer, f"the process that is forked has ended with {self._server.wait()}"
        return int(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._server.communicate(timeout=PATIENCE)
        finally:
            self._server.kill()
            self._folder.cleanup()


def serve() -> None:
    """Answer every line with the exit of a fork."""
    from vpctl import cli

    for name in cli.COMMANDS:
        cli.load(f"{name} accuracy" if name == "eval" else name)
    for module in MODULES:
        importlib.import_module(module)
    gc.freeze()  # otherwise the first garbage collection of every fork would copy memory
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            run(orjson.loads(line))
        status = os.waitpid(child, 0)[1]
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # its own children, which would write into its files
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(status))


def run(asked: dict[str, Any]) -> NoReturn:
    """Be vpctl, and end."""
    from vpctl.cli import main

    def begin() -> int:
        os.setsid()
        signal.alarm(PATIENCE)
        np.random.seed()  # otherwise every fork would draw the same numbers
        os.chdir(asked["folder"])
        os.environ.update(asked["env"])
        for number, path in enumerate(asked["files"]):
            os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND if number else os.O_RDONLY), number)
        renew_streams()
        if asked["limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["limit"], resource.RLIM_INFINITY))
        if asked["signals"]:
            interrupt(asked["moment"], asked["call"], asked["signals"])
        sys.argv = ["vpctl", *asked["arguments"]]
        return main() if asked["kill"] is None else watched(main, asked["kill"])

    be(begin)


def renew_streams() -> None:
    """In a fork: give Python new streams for the descriptors 0, 1 and 2, as it has them when it starts."""
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8", "surrogateescape")
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BufferedWriter(io.FileIO(number, "w", closefd=False)), "utf-8", errors)
        for number, errors in ((1, "strict"), (2, "backslashreplace"))
    )


def be(program: Callable[[], int]) -> NoReturn:
    """In a fork: run the program, and end the process with its exit code, as Python ends."""
    code = 1
    try:
        code = program()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    try:
        for thread in threading.enumerate():
            if thread is not threading.main_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        code = 120  # as Python does
    os._exit(code)


def interrupt(moment: str, call: int, signals: str) -> None:
    """Have a call of a function send signals to this process before it does anything."""
    module, _, path = moment.partition(":")
    *outer, name = path.split(".")
    place = functools.reduce(getattr, outer, importlib.import_module(module))
    function = getattr(place, name)
    calls = 0

    @functools.wraps(function)
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            came: list[int] = []
            tell(came)
            sender = subprocess.Popen(["/bin/sh", "-c", signals])
            while not came and sender.poll() is None:
                time.sleep(0.0005)
        return function(*args, **kwargs)

    setattr(place, name, interrupted)


def tell(came: list[int]) -> None:
    """Note each signal before it is handled as it is now."""
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        assert callable(handler)

        def handle(number: int, frame: FrameType | None, handler: Any = handler) -> None:
            came.append(number)
            handler(number, frame)

        signal.signal(number, handle)


if __name__ == "__main__":
    serve()
