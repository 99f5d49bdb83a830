"""Runs that end before their input does, as a person or a limit makes them."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import draw, lines, rest, told, until, vpctl
from tests.servers import Server
from tests.surroundings import ENVIRONMENT
from vpctl import flow
from vpctl.errors import LimitReached, Stopped, UserError
from vpctl.flow import StopSignal, WeightedSemaphore


class Annotating:
    """A run of `annotate` that asks a slow server, until it has begun to."""

    def __init__(self, folder: Path, server: Server) -> None:
        draw(folder / "images", prompts=40, each=2)
        self.out = folder / "judgements.jsonl"
        self.server = server
        arguments: list[str | Path] = [
            "annotate",
            "images/metadata.jsonl",
            "--annotator",
            "openai:judge",
            "--out",
            self.out,
        ]
        self.arguments = [*arguments, "--base-url", server.url, "--concurrency", "4"]
        self.folder = folder
        self.process = self.start()

    def start(self) -> "subprocess.Popen[str]":
        env = {**ENVIRONMENT, "OPENAI_API_KEY": "sk-0123456789"}
        return subprocess.Popen(
            vpctl(*self.arguments),
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str]:
        said = rest(self.process)
        return self.process.returncode, said

    @property
    def keys(self) -> list[str]:
        return [record["key"] for record in lines(self.out.read_text())]


def test_an_interrupt_keeps_all_that_was_paid_for_and_the_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with Server(held=6) as server:
        run = Annotating(tmp_path, server)
        until(lambda: len(server.log) == 6 and server.waiting, run.process)
        run.process.send_signal(signal.SIGINT)
        told(run.process, "waiting for running work to finish")
        server.release()
        code, said = run.end()
        assert code == 130
        assert "Traceback" not in said
        answered = len(server.log)
        assert all(entry.heard for entry in server.log), "nobody left before the answer"
        assert 6 < len(run.keys) == answered < 160
        run.process = run.start()
        assert run.end()[0] == 0
        assert len(run.keys) == len(set(run.keys)) == len(server.log) == 160
        assert set(server.billed().values()) == {1}


def test_a_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    with Server(held=0) as server:
        run = Annotating(tmp_path, server)
        until(lambda: server.waiting, run.process)
        run.process.send_signal(signal.SIGINT)
        told(run.process, "waiting for running work to finish")
        run.process.send_signal(signal.SIGINT)
        assert run.end()[0] == 130
        assert not server.log, "no answer was waited for"


def test_a_slow_annotator_of_ones_own_does_not_hold_up_a_second_interrupt(tmp_path: Path) -> None:
    draw(tmp_path, prompts=2)
    (tmp_path / "slow.py").write_text(
        '"""Slow."""\nimport time\n\n\ndef load(argument, *, device):\n'
        '    def annotate(prompt, images, aspect):\n        open("begun", "w").close()\n        time.sleep(3600)\n'
        "    return annotate\n"
    )
    process = subprocess.Popen(
        vpctl("annotate", "metadata.jsonl", "--annotator", "slow.py", "--out", "out.jsonl"),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        until((tmp_path / "begun").exists, process)
        process.send_signal(signal.SIGINT)
        told(process, "waiting for running work to finish")
        process.send_signal(signal.SIGINT)
        rest(process)
    assert process.returncode == 130


def test_the_first_reason_to_stop_counts_and_whoever_sleeps_is_woken() -> None:
    async def work(stop_signal: StopSignal) -> None:
        sleeper = asyncio.ensure_future(stop_signal.sleep(3600))
        await asyncio.sleep(0)
        stop_signal.stop("one")
        stop_signal.stop("two")
        with pytest.raises(Stopped):
            await sleeper
        with pytest.raises(Stopped):
            stop_signal.check()

    with pytest.raises(LimitReached, match=r"^stopped: one; run the same command again to continue$"):
        flow.run(work)


def test_results_come_in_order_and_no_more_are_under_way_than_may_be() -> None:
    now = most = 0

    async def numbers() -> AsyncIterator[int]:
        for number in range(50):
            yield number

    async def work(number: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001 * (number * 7 % 5))
        now -= 1
        return number

    async def all_of_them(stop_signal: StopSignal) -> list[int]:
        return [one async for one in flow.in_order(numbers(), work, at_once=4, stop_signal=stop_signal)]

    assert flow.run(all_of_them) == list(range(50))
    assert most == 4


def test_what_was_under_way_when_the_stop_signal_was_set_comes_too() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(1000):
            yield number

    found: list[int] = []

    async def all_of_them(stop_signal: StopSignal) -> None:
        async def work(number: int) -> int:
            if number == 3:
                stop_signal.stop("enough")
                raise Stopped
            await asyncio.sleep(0.01)
            return number

        async for one in flow.in_order(numbers(), work, at_once=6, stop_signal=stop_signal):
            found.append(one)

    with pytest.raises(LimitReached):
        flow.run(all_of_them)
    assert found[:3] == [0, 1, 2]
    assert 3 not in found
    assert found == sorted(found)
    assert len(found) <= 6


def test_an_error_in_the_input_comes_after_all_that_was_before_it() -> None:
    found: list[int] = []

    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number
        raise UserError("line 4")

    async def work(number: int) -> int:
        await asyncio.sleep(0.01)
        return number

    async def all_of_them(stop_signal: StopSignal) -> None:
        async for one in flow.in_order(numbers(), work, at_once=8, stop_signal=stop_signal):
            found.append(one)

    with pytest.raises(UserError, match="line 4"):
        flow.run(all_of_them)
    assert found == [0, 1, 2]


def test_who_finds_no_room_waits_and_one_alone_always_fits() -> None:
    room = WeightedSemaphore(10)
    inside: list[float] = []
    most: list[float] = []

    async def take(size: float) -> None:
        async with room.holding(size):
            inside.append(size)
            most.append(sum(inside))
            await asyncio.sleep(0)
            inside.remove(size)

    async def all_of_them() -> None:
        await asyncio.gather(*(take(size) for size in (4, 4, 4, 30, 1, 10, 0)))

    asyncio.run(asyncio.wait_for(all_of_them(), 20))
    assert len(most) == 7
    assert {total for total in most if total > 10} == {30}
    assert 8 in most, "what fits together is let in together"
