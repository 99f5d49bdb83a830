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
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import orjson

from tests.conftest import ENVIRONMENT, HOME, PATIENCE, Ended


class Forks:
    """Runs vpctl; `limit` is the most bytes of a file.

    With `signals` the process is sent these, by shell commands such as ``kill -INT $PPID``, at the given `call` of the
    `moment`, a function named as ``vpctl.tuning.run:Run.log``. It waits there until the first has come.
    """

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.tuning.forks"],
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
    ) -> Ended:
        """Run ``vpctl ARGUMENTS`` in `folder` to its end."""
        said = folder / "stderr"
        said.write_bytes(b"")
        asked = {"arguments": arguments, "folder": str(folder), "stderr": str(said), "limit": limit}
        asked |= {"signals": signals, "moment": moment, "call": call}
        assert self._server.stdin
        self._server.stdin.write(orjson.dumps(asked, option=orjson.OPT_APPEND_NEWLINE))
        self._server.stdin.flush()
        return Ended(self._number(), "", said.read_text())

    def _number(self) -> int:
        assert self._server.stdout
        return int(self._server.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate(timeout=PATIENCE)


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
        os.dup2(os.open(asked["stderr"], os.O_WRONLY | os.O_APPEND), 2)
        for number, (path, flags) in enumerate(((os.devnull, os.O_RDONLY), (os.devnull, os.O_WRONLY))):
            os.dup2(os.open(path, flags), number)
        if asked["limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["limit"], resource.RLIM_INFINITY))
        if asked["signals"]:
            interrupt(asked["moment"], asked["call"], asked["signals"])
        sys.argv = ["vpctl", *asked["arguments"]]
        code = main()
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
