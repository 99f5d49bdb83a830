"""polish with a language model behind a real server: what is paid for once, whatever happens meanwhile."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Protocol

import orjson
import pytest
from aiohttp import web

from tests.conftest import Ended, Run, lines, rest, told, until, vpctl
from tests.servers import Server
from tests.surroundings import ENVIRONMENT
from vpctl.polishers.openai import PER_CALL
from vpctl.shapes.grammar import describe, sample

KEY = "sk-test-77d1"
PROMPTS = 80


def cleaned(body: dict[str, Any]) -> object:
    """What a good model answers: every prompt without its stock phrase, which stands behind the last comma."""
    text = body["messages"][1]["content"][0]["text"]
    items = json.JSONDecoder().raw_decode(text, text.index("[{"))[0]
    return {"prompts": [{**one, "prompt": one["prompt"].rpartition(",")[0], "unsafe": ""} for one in items]}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(answer=cleaned, key=KEY, latency=0.01) as served:
        yield served


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    chance = Random(1)
    scenes: dict[str, None] = {}
    while len(scenes) < PROMPTS:
        scenes[describe(sample(chance))] = None
    path = tmp_path / "raw.txt"
    path.write_text("".join(f"{scene}, trending on artstation\n" for scene in scenes))
    return path


def words(raw: Path, out: Path, *more: str) -> list[str]:
    asked = ["--polisher", "openai:gpt-4o-mini", "--similarity", "1", "--concurrency", "4"]
    return ["polish", str(raw), *asked, "--out", str(out), *more]


def command(raw: Path, out: Path, *more: str) -> list[str]:
    return vpctl(*words(raw, out, *more))


class Polish(Protocol):
    """Runs polish to its end."""

    def __call__(self, server: Server, raw: Path, out: Path, *more: str) -> Ended: ...


@pytest.fixture
def polish(forked: Run) -> Polish:
    def polish(server: Server, raw: Path, out: Path, *more: str) -> Ended:
        return forked(*words(raw, out, *more), env={"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY})

    return polish


def texts(out: Path) -> list[str]:
    return [record["prompt"] for record in lines(out.read_text())] if out.exists() else []


def expected(raw: Path) -> list[str]:
    return [line.rpartition(",")[0] for line in raw.read_text().splitlines()]


def test_several_prompts_go_in_a_call_and_come_out_in_their_order(
    polish: Polish, server: Server, raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    ended = polish(server, raw, out)
    assert ended.code == 0, ended.err
    assert texts(out) == expected(raw)
    assert len(server.log) == PROMPTS / PER_CALL
    assert "10 requests" in ended.err
    assert all(record["template"].startswith("polish@") for record in lines(out.read_text()))
    assert polish(server, raw, out).code == 0
    assert len(server.log) == PROMPTS / PER_CALL, "a second run asks nothing"
    again = tmp_path / "again.jsonl"
    assert polish(server, out, again).code == 0
    assert len(server.log) == PROMPTS / PER_CALL, "what was polished in the same words is not polished again"
    assert texts(again) == texts(out)


def test_killed_at_any_moment_it_pays_for_no_more_than_was_under_way(polish: Polish, raw: Path, tmp_path: Path) -> None:
    out, kills, chance = tmp_path / "out.jsonl", 4, Random(2)
    with Server(answer=cleaned, key=KEY, latency=0.05) as server:
        env = {**ENVIRONMENT, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY}
        for _ in range(kills):
            process = subprocess.Popen(command(raw, out, "-q"), env=env)
            before = len(server.log)
            while process.poll() is None and len(server.log) < before + 2:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            process.wait()
        assert polish(server, raw, out).code == 0
        asked = sum(server.billed().values())
    assert sorted(texts(out)) == sorted(expected(raw))
    assert asked <= PROMPTS / PER_CALL + kills * (4 + 1), "four calls are under way, and one answer waits for its turn"


def test_an_interrupt_keeps_what_was_paid_for(polish: Polish, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Server(answer=cleaned, key=KEY, held=2) as server:
        env = {**ENVIRONMENT, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY}
        process = subprocess.Popen(command(raw, out), env=env, stderr=subprocess.PIPE, text=True)
        until(lambda: len(server.log) == 2 and server.waiting, process)
        process.send_signal(signal.SIGINT)
        talked = told(process, "waiting for running work to finish")
        server.release()
        talked += rest(process)
        assert process.returncode == 130, talked
        assert len(texts(out)) == PER_CALL * len(server.log) < PROMPTS
        assert texts(out) == expected(raw)[: len(texts(out))]
        assert polish(server, raw, out).code == 0
        assert set(server.billed().values()) == {1}
    assert texts(out) == expected(raw)


def test_a_rewrite_that_drifts_is_replaced_and_what_is_refused_is_dropped(
    polish: Polish, raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"

    def drifting(body: dict[str, Any]) -> object:
        answer: Any = cleaned(body)
        for one in answer["prompts"][::2]:
            one["prompt"] += " with a castle"
        answer["prompts"][1]["unsafe"] = "gore"
        return answer

    with Server(answer=drifting, key=KEY) as server:
        ended = polish(server, raw, out)
        assert ended.code == 0, ended.err
        records = lines(out.read_text())
        rejected = [record for record in records if "rejected" in record]
        assert len(rejected) == PROMPTS / 2
        assert {record["rejected"] for record in rejected} == {"adds 'castle'"}
        assert "40 rewrites rejected and replaced by the text of the rules" in ended.err
        dropped = lines((tmp_path / "out.dropped.jsonl").read_text())
        assert [record["dropped"] for record in dropped] == ["unsafe: gore"] * 10
        assert not any("castle" in text for text in texts(out))
        asked = len(server.log)
        assert polish(server, raw, out).code == 0
        assert len(server.log) == asked, "neither is asked again"


def test_the_limits_hold_and_the_key_is_nowhere(polish: Polish, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Server(answer=cleaned, key=KEY, latency=0.05) as server:
        ended = polish(server, raw, out, "--max-requests", "3")
        assert ended.code == 5, ended.err
        assert "stopped: --max-requests 3 is reached" in ended.err
        assert len(server.log) == 3
        assert texts(out) == expected(raw)[: 3 * PER_CALL]
    with Server(key="sk-another") as server:
        bad = polish(server, raw, out)
        assert (bad.code, len(server.log)) == (2, 1)
    assert KEY not in ended.err + bad.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY in path.read_text()]
    assert orjson.loads(out.read_bytes().splitlines()[0])


def test_a_prompt_is_not_dropped_for_what_all_of_them_get(polish: Polish, raw: Path, tmp_path: Path) -> None:
    """The server knows no model that is so long. Nothing is written, and the next run polishes all of them."""
    message = "This model's maximum context length is 128 tokens."
    wrong = {"error": {"message": message, "type": "BadRequestError", "code": 400}}
    out = tmp_path / "out.jsonl"
    one = tmp_path / "one.txt"
    one.write_text(raw.read_text().splitlines()[0])
    with Server(answer=lambda _: web.json_response(wrong, status=400), key=KEY) as server:
        for prompts in (raw, one):
            ended = polish(server, prompts, out)
            assert ended.code == 2
            assert message in ended.err.splitlines()[-1]
            assert not out.exists()
            assert not out.with_name("out.dropped.jsonl").exists()


def test_a_failed_or_refused_prompt_is_tried_again_when_told_to(polish: Polish, raw: Path, tmp_path: Path) -> None:
    first, second = raw.read_text().splitlines()[:2]
    raw.write_text(f"{first}\n{second}\n")
    out = tmp_path / "out.jsonl"

    def answer(body: dict[str, Any]) -> object:
        text = str(body["messages"])
        if mended:
            return cleaned(body)
        alone = not (first in text and second in text)
        return "I'm sorry, I can't assist with that." if alone and first in text else "no"

    mended: list[bool] = []
    with Server(answer=answer, key=KEY) as server:
        assert polish(server, raw, out).code == 3
        dropped = [record["dropped"] for record in lines(out.with_name("out.dropped.jsonl").read_text())]
        assert sorted(one.partition(":")[0] for one in dropped) == ["failed", "unsafe"]
        mended.append(True)
        asked = len(server.log)
        assert polish(server, raw, out).code == 0
        assert len(server.log) == asked, "neither is tried again by itself"
        assert polish(server, raw, out, "--retry", "failed").code == 0
        assert texts(out) == expected(raw)[1:]
        assert polish(server, raw, out, "--retry", "failed", "--retry", "refused").code == 0
    assert sorted(texts(out)) == sorted(expected(raw))
