"""vpctl in forks of one process that has imported the libraries once: a run costs no more than its own work."""

import functools
import importlib
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType, TracebackType
from typing import Any, Self

import orjson

from tests.conftest import ENVIRONMENT, HOME, PATIENCE, Ended
from tests.killed import watched


class Forks:
    """Runs vpctl; `limit` is the most bytes of a file. With `kill` it is killed at this event: see `tests.killed`.

    With `signals` the process is sent these, by shell commands such as ``kill -INT $PPID``, at the given `call` of the
    `moment`, a function named as ``vpctl.tuning.run:Run.log``. It waits there until the first has come.
    """

    def __init__(self) -> None:
        self._said = TemporaryDirectory()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=HOME,
            env={**ENVIRONMENT, "PYTHONPATH": str(HOME)},
        )

    def __call__(
        self,
        arguments: list[str],
        folder: Path,
        *,
        limit: int = 0,
        signals: str = "",
        moment: str = "",
        call: int = 0,
        kill: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run ``vpctl ARGUMENTS`` in `folder` to its end."""
        said = [Path(self._said.name, name) for name in ("stdout", "stderr")]
        for file in said:
            file.write_bytes(b"")
        asked = {"arguments": arguments, "folder": str(folder), "said": [*map(str, said)], "limit": limit}
        asked |= {"signals": signals, "moment": moment, "call": call, "kill": kill, "env": dict(env or {})}
        assert self._server.stdin
        self._server.stdin.write(orjson.dumps(asked, option=orjson.OPT_APPEND_NEWLINE))
        self._server.stdin.flush()
        return Ended(self._number(), *(file.read_text() for file in said))

    def _number(self) -> int:
        assert self._server.stdout
        return int(self._server.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate(timeout=PATIENCE)
        self._said.cleanup()


def serve() -> None:
    """Answer every line with the exit of a fork."""
    for module in ("commands.train_rm", "commands.tune_dpo", "commands.tune_ppo", "tuning.dpo", "tuning.ddpo"):
        __import__(f"vpctl.{module}")
    for module in ("tuning.reward", "models.reward", "report.intervals", "generators.shapes", "rewards.shapes"):
        __import__(f"vpctl.{module}")
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            run(orjson.loads(line))
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def run(asked: dict[str, Any]) -> None:
    """Be vpctl, and end."""
    from vpctl.cli import main

    code = 1
    try:
        os.chdir(asked["folder"])
        os.environ.update(asked["env"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in enumerate(asked["said"], 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
        if asked["limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["limit"], resource.RLIM_INFINITY))
        if asked["signals"]:
            interrupt(asked["moment"], asked["call"], asked["signals"])
        sys.argv = ["vpctl", *asked["arguments"]]
        code = main() if asked["kill"] is None else watched(main, asked["kill"])
    except BaseException:
        traceback.print_exc()
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
