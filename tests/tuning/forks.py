"""vpctl in forks of one process that has imported the libraries once: a run costs no more than its own work."""

import os
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from tests.conftest import ENVIRONMENT, HOME, Ended


class Forks:
    """Runs vpctl; `watch` is given the process and may send it signals, `limit` is the most bytes of a file."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.tuning.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=HOME,
            env={**ENVIRONMENT, "PYTHONPATH": str(HOME)},
        )

    def __call__(
        self, arguments: list[str], folder: Path, *, watch: Callable[[int], None] | None = None, limit: int = 0
    ) -> Ended:
        """Run ``vpctl ARGUMENTS`` in `folder` to its end."""
        said = folder / "stderr"
        said.write_bytes(b"")
        asked = {"arguments": arguments, "folder": str(folder), "stderr": str(said), "limit": limit}
        assert self._server.stdin
        self._server.stdin.write(orjson.dumps(asked, option=orjson.OPT_APPEND_NEWLINE))
        self._server.stdin.flush()
        process = self._number()
        if watch:
            watch(process)
        return Ended(self._number(), "", said.read_text())

    def _number(self) -> int:
        assert self._server.stdout
        return int(self._server.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate(timeout=60)


def serve() -> None:
    """Answer every line with the number of a fork and, when it has ended, with its exit."""
    for module in ("commands.train_rm", "commands.tune_dpo", "commands.tune_ppo", "tuning.dpo", "tuning.ppo"):
        __import__(f"vpctl.{module}")
    for module in ("tuning.reward", "reward_model", "intervals", "generators.shapes", "rewards.shapes"):
        __import__(f"vpctl.{module}")
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            run(orjson.loads(line))
        os.write(1, b"%d\n" % child)
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
        sys.argv = ["vpctl", *asked["arguments"]]
        code = main()
    except BaseException:
        traceback.print_exc()
    os._exit(code)


if __name__ == "__main__":
    serve()
