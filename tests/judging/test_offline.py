"""Judging by batch, against a server with files and batches. The process is killed at every request and many writes."""

import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.conftest import HOME, Ended, draw, write_lines
from tests.servers import JSON, Entry, Reply, Server, error, instance, reply, schema_of, untimed
from tests.surroundings import ENVIRONMENT
from vpctl.api.dialects import Dialect
from vpctl.errors import UserError
from vpctl.judging.offline.asked import StubFile
from vpctl.judging.offline.journal import Journal
from vpctl.judging.questions import parse_verdicts
from vpctl.progress import plural

ALL = ["fidelity", "aesthetic", "harmlessness", "prompt-following"]
PRICES = "[judge]\ninput = 1000.0\noutput = 10000.0\n"
"""Dollars per million tokens: a call costs about two dollars, and half of that by batch."""

STABLE = """
import os, signal, sys
import genai_prices, httpx2, openai, orjson
import vpctl.annotators.openai, vpctl.api.transport, vpctl.judging.offline, vpctl.judging.quality
import vpctl.commands.annotate
from vpctl.judging.offline import asked, packing
from vpctl.cli import main

def armed(number):
    left = [number]
    def counted(call):
        def wrapped(*args):
            left[0] -= 1
            if left[0] == 0:
                if call is write:
                    write(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args)
        return wrapped
    write = os.write
    os.write, os.fsync, os.replace, os.unlink = map(counted, (os.write, os.fsync, os.replace, os.unlink))

for line in sys.stdin.buffer:
    job = orjson.loads(line)
    process = os.fork()
    if process:
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
        continue
    os.chdir(job["cwd"])
    os.environ.update(job["env"])
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(os.open(os.devnull if name == "stdin" else job[name], os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    for name, value in job["limits"].items():
        setattr(asked, name, value)
    if job["kill"]:
        armed(job["kill"])
    code = main(job["argv"])
    sys.stderr.flush()
    os._exit(code)
"""
"""A process that has imported everything and forks to run the program, which takes a tenth of the usual time.

`kill` is the number of the write, sync, move or removal of a file at which the program is killed. A write is then half
done.
"""


class Stable:
    """Starts the programs. See `STABLE`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", STABLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HOME, env=ENVIRONMENT
        )
        self.running = 0

    def run(
        self, *argv: str, cwd: Path, env: dict[str, str], limits: dict[str, int] | None = None, kill: int = 0
    ) -> Ended:
        assert self._process.stdin
        assert self._process.stdout
        said = {name: str(cwd / f".{name}") for name in ("stdout", "stderr")}
        job = {"argv": argv, "cwd": str(cwd), "env": env, "limits": limits or {}, "kill": kill, **said}
        self._process.stdin.write(orjson.dumps(job, option=orjson.OPT_APPEND_NEWLINE))
        self._process.stdin.flush()
        self.running = int(self._process.stdout.readline())
        code = int(self._process.stdout.readline())
        self.running = 0
        return Ended(code, *(Path(path).read_text() for path in said.values()))

    def close(self) -> None:
        assert self._process.stdin
        with self._process:
            self._process.stdin.close()


@pytest.fixture(scope="module")
def stable() -> Iterator[Stable]:
    stable = Stable()
    yield stable
    stable.close()


class Hooked(Server):
    """A server that calls a hook before and after it handles each request."""

    before: Callable[[web.Request], Reply | None] = staticmethod(lambda request: None)
    after: Callable[[web.Request], Reply | None] = staticmethod(lambda request: None)

    def _handled(
        self, handler: Callable[[web.Request, Entry], Awaitable[Reply]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def hooked(request: web.Request, entry: Entry) -> Reply:
            if instead := self.before(request):
                return instead
            answer = await handler(request, entry)
            return self.after(request) or answer

        return super()._handled(hooked)

    @property
    def batches(self) -> list[JSON]:
        return list(self._kept["batches"].values())

    def lines(self, batch: JSON) -> list[JSON]:
        """The requests of a batch."""
        return [orjson.loads(line) for line in self._contents[batch["input_file_id"]].splitlines()]

    def forget(self) -> None:
        """Forget everything, as a new server. It keeps its address, which is part of the keys of judgements."""
        self._kept = {"files": {}, "batches": {}}
        self._contents.clear()
        self._asked.clear()
        self.log.clear()


@pytest.fixture
def server() -> Iterator[Hooked]:
    with Hooked() as server:
        yield server


class Place:
    """A folder with pictures, in which annotate runs."""

    def __init__(self, folder: Path, server: Hooked, stable: Stable) -> None:
        self.folder, self.server, self._stable = folder, server, stable
        self.out = folder / "out.jsonl"
        self.state = folder / ".out.jsonl.batches"
        self.env = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "a-key-of-tests"}

    def __call__(
        self,
        *more: str,
        judge: str = "openai:judge",
        limits: dict[str, int] | None = None,
        kill: int = 0,
    ) -> Ended:
        argv = ["annotate", "metadata.jsonl", "--annotator", judge, "--out", "out.jsonl", *more]
        return self._stable.run(*argv, cwd=self.folder, env=self.env, limits=limits, kill=kill)

    def until_done(self, *more: str, limits: dict[str, int] | None = None) -> None:
        """Run annotate until nothing is pending, as cron would. The server finishes its batches between the runs."""
        for _ in range(20):
            ended = self(*more, limits=limits)
            assert ended.code == 0, ended.err
            if "collect the answers" not in ended.err:
                return
            self.server.finish_all()
        raise AssertionError(ended.err)

    @property
    def records(self) -> list[JSON]:
        return [orjson.loads(line) for line in self.out.read_bytes().splitlines()] if self.out.exists() else []

    @property
    def known(self) -> set[bytes]:
        """The records without their order. No record occurs twice."""
        found = {orjson.dumps(untimed(record), option=orjson.OPT_SORT_KEYS) for record in self.records}
        assert len(found) == len(self.records)
        return found


@pytest.fixture
def place(tmp_path: Path, server: Hooked, stable: Stable) -> Place:
    draw(tmp_path, prompts=3)
    return Place(tmp_path, server, stable)


def test_a_batch_is_sent_and_a_later_run_collects_what_a_live_run_would_have_got(place: Place) -> None:
    (place.folder / "prices.toml").write_text(PRICES)
    prices = ("--prices", "prices.toml")
    sent = place("--batch-api", *prices)
    assert (sent.code, sent.out) == (0, "")
    assert "1 batch: 1 new (12 requests); to collect the answers" in sent.err
    [batch] = place.server.batches
    assert (batch["endpoint"], batch["completion_window"]) == ("/v1/chat/completions", "24h")
    early = place("--batch-api", *prices)
    assert "1 batch: 1 pending (0 of 12 requests done)" in early.err
    assert (early.code, place.records) == (0, [])
    place.server.finish_all()
    asked = {line["custom_id"] for line in place.server.lines(batch)}
    assert "1 batch: 1 collected (12 judgements)" in place("--batch-api", *prices).err
    by_batch = {record["key"]: record for record in place.records}
    assert by_batch.keys() == asked
    assert all(count == 1 for count in place.server.billed().values())

    place.out.unlink()
    assert place(*prices).code == 0
    live = {record["key"]: record for record in place.records}
    assert live.keys() == by_batch.keys()
    for key, record in live.items():
        usage = by_batch[key].pop("usage")
        assert usage["cost"] == pytest.approx(record.pop("usage")["cost"] / 2)
        assert untimed(by_batch[key]) == untimed(record)


def test_with_nothing_to_do_nothing_is_asked(place: Place) -> None:
    place("--batch-api")
    place.server.finish_all()
    place("--batch-api")
    before = len(place.server.log)
    idle = place("--batch-api")
    assert idle.code == 0
    assert "nothing is left to ask" in idle.err
    assert len(place.server.log) == before
    assert sorted(path.name for path in place.state.iterdir()) == ["journal.jsonl"]


def test_what_expired_is_asked_again_and_nothing_else_is(place: Place) -> None:
    place("--batch-api")
    place.server.finish("batch_0", expire_share=0.5)
    again = place("--batch-api")
    done = len(place.records)
    assert 0 < done < 12
    collected, new = plural(done, "judgement"), plural(12 - done, "request")
    assert f"2 batches: 1 collected ({collected}), 1 new ({new})" in again.err
    place.until_done("--batch-api")
    assert len(place.known) == 12
    assert sorted(place.server.billed().values()) == [1] * 12


def test_a_batch_that_was_cancelled_is_collected_as_far_as_it_came(place: Place) -> None:
    place("--batch-api")
    place.server.batches[0]["status"] = "cancelling"
    place.server.finish("batch_0", expire_share=0.5)
    assert place.server.batches[0]["status"] == "cancelled"
    place.until_done("--batch-api")
    assert len(place.known) == 12
    assert sorted(place.server.billed().values()) == [1] * 12


def test_errors_are_refusals_failures_or_asked_again_by_what_they_are(place: Place) -> None:
    """Each request of the batch gets one fault. The server's error determines what becomes of it."""
    faults = iter(["content_filter", "400", "429", "500", "refusal", "out_of_range", "cut_json"])
    place.server._fault = lambda asked: next(faults, "")  # type: ignore[method-assign]
    place("--batch-api")
    place.server.finish_all()
    collected = place("--batch-api")
    assert collected.code == 3  # one record failed
    assert "11 judgements" not in collected.err
    assert "1 collected (10 judgements), 1 new (2 requests)" in collected.err
    refused = sorted(record["refused"] for record in place.records if "refused" in record)
    assert [text.partition(":")[0] for text in refused] == [
        "I'm sorry, I can't help with that.",
        "content_policy_violation",
    ]
    failed = [record["failed"] for record in place.records if "failed" in record]
    assert failed == ["the server says 400: A fault was drawn."]
    assert sum(record.get("usage", {}).get("calls") == 2 for record in place.records) == 2, "two were mended"
    live = Counter(entry.path for entry in place.server.log)["/v1/chat/completions"]
    assert live == 2
    place.until_done("--batch-api")
    assert len(place.known) == 12


def test_an_answer_is_not_mended_where_the_pictures_are_not_what_they_were(place: Place) -> None:
    place.server.faults = {"out_of_range": 1.0}
    place("--batch-api", "--aspect", "fidelity")
    shutil.copy(place.folder / "1-0.png", place.folder / "0-0.png")
    (place.folder / "2-0.png").unlink()
    place.server.finish_all()
    place.server.faults = {}
    write_lines(place.folder / "metadata.jsonl", [])
    assert place("--batch-api", "--aspect", "fidelity").code == 3
    by_prompt = {record["prompt_id"]: record for record in place.records}
    assert "9 Superb" in by_prompt["p0"]["raw"]
    assert "9 Superb" in by_prompt["p2"]["raw"]
    assert len(by_prompt["p1"]["scores"]) == 2
    assert Counter(entry.path for entry in place.server.log)["/v1/chat/completions"] == 1


def test_a_second_try_that_meets_a_fault_loses_no_answer(place: Place) -> None:
    """The answers of the batch were paid for, and so were the other second tries."""
    place.server.faults = {"out_of_range": 1.0}
    place("--batch-api", "--aspect", "fidelity")
    place.server.finish_all()
    place.server.faults = {}
    first: list[str] = []

    def breaks_one(body: JSON) -> Any:
        asked = str(body["messages"][1])
        first.append(asked)
        if asked == first[0]:
            return web.json_response({"error": {"message": "no"}}, status=500, headers={"Retry-After": "0.01"})
        return place.server._default(body)

    place.server.answer = breaks_one
    ended = place("--batch-api", "--aspect", "fidelity")
    assert ended.code == 3
    assert "Traceback" not in ended.err
    failed = [record for record in place.records if "failed" in record]
    assert ["9 Superb" in record["raw"] for record in failed] == [True]
    assert "asking again failed: no, " in failed[0]["failed"]
    assert len(place.known) == 3


def test_a_server_that_never_answers_is_not_waited_for_for_ever(place: Place) -> None:
    place("--batch-api")
    place.server.finish_all()
    handled = place.server._one
    left = [1]

    async def silent(request: web.Request, entry: Entry) -> Reply:
        if left[0]:
            left[0] -= 1
            while request.transport is not None:
                await asyncio.sleep(0.05)
        return await handled(request, entry)

    place.server._one = silent  # type: ignore[method-assign]
    assert place("--batch-api", "--timeout", "2").code == 0
    assert len(place.known) == 12


def test_the_input_may_grow_and_what_was_asked_is_recorded_as_it_was_asked(place: Place) -> None:
    records = draw(place.folder, prompts=5)
    write_lines(place.folder / "metadata.jsonl", records[:4])
    place("--batch-api")
    changed = [{**record, "split": "test"} if record["prompt_id"] == "p0" else record for record in records]
    write_lines(place.folder / "metadata.jsonl", changed[:2] + changed[4:])  # p1 was removed and p0 was changed
    grown = place("--batch-api")
    assert "2 batches: 1 pending (0 of 8 requests done), 1 new (12 requests)" in grown.err
    place.until_done("--batch-api")
    assert sorted(Counter(record["prompt_id"] for record in place.records).items()) == [
        (f"p{number}", 4) for number in range(5)
    ]
    assert not any("split" in record for record in place.records)
    assert sorted(place.server.billed().values()) == [1] * 20


@pytest.mark.parametrize("limit", ["requests", "bytes"])
def test_files_are_as_large_as_the_server_takes_them(place: Place, limit: str) -> None:
    if limit == "requests":
        place.server.max_batch_requests = 5
        limits, sizes = {"MOST_REQUESTS": 5}, [5, 5, 2]
        place("--batch-api", limits=limits)
        assert [len(place.server.lines(batch)) for batch in place.server.batches] == sizes
    else:
        place("--batch-file", "sizes.jsonl")
        largest = max(map(len, (place.folder / "sizes.jsonl").read_bytes().splitlines(keepends=True)))
        limits = {"MOST_BYTES": 3 * largest}
        place.server.max_file_bytes = 3 * largest
        place("--batch-api", limits=limits)
        contents = [place.server._contents[batch["input_file_id"]] for batch in place.server.batches]
        assert len(contents) <= 12 / 3 + 1
        assert all(len(content) <= 3 * largest for content in contents)
    assert all(batch["status"] == "in_progress" for batch in place.server.batches)
    place.until_done("--batch-api", limits=limits)
    assert len(place.known) == 12


def test_all_aspects_in_one_call_and_ties_compared_afterwards(place: Place) -> None:
    verdict = {"rationale": "seen", "level": "3"}

    def answer(body: JSON) -> Any:
        made = instance(schema_of(body) or {}, Random(0))
        for name in ALL:
            if name in made:
                letters = [letter for letter in made[name] if len(letter) == 1]
                made[name] = {**dict.fromkeys(letters, verdict), "ranking": letters}
        return made

    place.server.answer = answer
    place("--batch-api", "--all-aspects", "--break-ties")
    [batch] = place.server.batches
    names = [line["custom_id"] for line in place.server.lines(batch)]
    assert len(names) == 3
    assert all(len(name) <= 64 for name in names)
    place.server.finish_all()
    second = place("--batch-api", "--all-aspects", "--break-ties")
    assert "1 collected (12 judgements), 1 new (24 requests)" in second.err, "both orders of each tie"
    place.until_done("--batch-api", "--all-aspects", "--break-ties")
    assert Counter(record.get("mode", "list") for record in place.records) == {"list": 12, "pair": 24}


def test_what_is_asked_again_is_recorded_again_though_it_is_there(place: Place) -> None:
    place.server.faults = {"400": 1.0}
    place("--batch-api", "--aspect", "fidelity")
    place.server.finish_all()
    assert place("--batch-api", "--aspect", "fidelity").code == 3
    assert [("failed" in record) for record in place.records] == [True] * 3
    place.server.faults = {}
    place("--batch-api", "--aspect", "fidelity", "--retry", "failed")
    place.server.finish_all()
    assert place("--batch-api", "--aspect", "fidelity").code == 0
    assert [("failed" in record) for record in place.records] == [True] * 3 + [False] * 3
    assert "nothing is left to ask" in place("--batch-api", "--aspect", "fidelity").err


def test_a_live_run_leaves_out_what_is_under_way(place: Place) -> None:
    place("--batch-api", "--aspect", "fidelity")
    live = place()
    assert "3 requests left out, in pending batches" in live.err
    assert {record["aspect"] for record in place.records} == {*ALL} - {"fidelity"}
    place.until_done("--batch-api")
    assert len(place.known) == 12
    assert sorted(place.server.billed().values()) == [1] * 12


def test_money_is_put_aside_for_batches_across_runs(place: Place) -> None:
    (place.folder / "prices.toml").write_text(PRICES)
    options = ("--batch-api", "--prices", "prices.toml", "--max-tokens", "100", "--max-cost")
    assert place(*options, "0.001").code == 5
    assert not place.server.batches
    some = place(*options, "20")
    assert some.code == 5, some.err
    assert "--max-cost 20 is reached" in some.err
    [first] = place.server.batches
    asked = len(place.server.lines(first))
    assert 0 < asked < 12
    assert place(*options, "20").code == 5, "what is under way counts"
    assert place(*options, "22").code == 5
    assert len(place.server.batches) == 2
    spent = 0.0
    for _ in range(10):
        place.server.finish_all()
        ended = place(*options, "20")
        spent = sum(record["usage"]["cost"] for record in place.records)
        if ended.code == 0 and "collect the answers" not in ended.err:
            break
    assert len(place.known) == 12
    assert spent < 20


def test_max_requests_is_how_many_are_asked_for_by_one_run(place: Place) -> None:
    assert place("--batch-api", "--max-requests", "5").code == 5
    assert [len(place.server.lines(batch)) for batch in place.server.batches] == [5]
    assert place("--batch-api", "--max-requests", "5").code == 5
    place.server.finish_all()
    place("--batch-api", "--max-requests", "5")
    place.until_done("--batch-api")
    assert sorted(place.server.billed().values()) == [1] * 12


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches", "/content"])
@pytest.mark.parametrize("how", ["429", "500 before", "500 after"])
def test_faults_that_pass_are_waited_out_and_nothing_is_begun_twice(place: Place, path: str, how: str) -> None:
    left = [1 if how == "500 after" else 2]

    def fails(request: web.Request) -> Reply | None:
        if not request.path.endswith(path) or (path != "/content" and request.method != "POST") or not left[0]:
            return None
        left[0] -= 1
        limited = error(429, "rate_limit_exceeded", "Slow down.")._replace(headers={"Retry-After": "0.01"})
        return limited if how == "429" else error(500, "server_error", "Oh.")._replace(headers={"Retry-After": "0.01"})

    if how == "500 after":
        place.server.after = fails
    else:
        place.server.before = fails
    place.until_done("--batch-api")
    assert not left[0]
    assert len(place.server.batches) == 1
    assert len(place.known) == 12


def test_a_wrong_key_is_told_in_one_line_at_the_first_answer(place: Place) -> None:
    place.server.key = "another"
    ended = place("--batch-api")
    assert ended.code == 2
    assert (
        ended.err.splitlines()[-1]
        == "vpctl annotate: error: openai:judge: the server says 401: Incorrect API key provided."
    )
    assert len(place.server.log) == 1
    place.server.key = ""
    place.until_done("--batch-api")
    assert sorted(place.server.billed().values()) == [1] * 12


def test_a_batch_that_is_not_valid_is_told_and_tried_once_more_and_not_for_ever(place: Place) -> None:
    place.server.max_batch_requests = 5
    place("--batch-api")
    once = place("--batch-api")
    assert once.code == 0
    assert "warning: batch batch_0: The file has 12 requests." in once.err
    assert "1 rejected by the server, 1 new (12 requests)" in once.err
    for _ in range(2):
        twice = place("--batch-api")
        assert twice.code == 2
        assert "12 requests failed twice, because whole batches failed: The file has 12 requests." in twice.err
    assert len(place.server.batches) == 2
    place.server.max_batch_requests = 12
    place.until_done("--batch-api", "--retry", "failed")
    assert len(place.known) == 12


def test_a_server_that_takes_only_so_much_at_once_is_given_no_more(place: Place) -> None:
    """The server's limit on pending tokens shows only when a batch fails because other batches use the limit."""
    problem = place.server._problem

    def full(rows: list[bytes], endpoint: str) -> JSON | None:
        held = sum(
            batch["request_counts"]["total"] for batch in place.server.batches if batch["status"] == "in_progress"
        )
        if held + len(rows) > 5:
            return {"code": "token_limit_exceeded", "message": "Enqueued token limit reached.", "line": None}
        return problem(rows, endpoint)

    place.server._problem = full  # type: ignore[method-assign]
    limits = {"MOST_REQUESTS": 4}
    place("--batch-api", limits=limits)
    assert [batch["status"] for batch in place.server.batches] == ["in_progress", "failed", "failed"]
    seen = place("--batch-api", limits=limits)
    assert "the server accepts no more batches now" in seen.err
    assert len(place.server.batches) == 3, "nothing is uploaded in vain"
    place.until_done("--batch-api", limits=limits)
    assert sorted(place.server.billed().values()) == [1] * 12


def test_a_server_that_takes_less_than_a_file_is_given_smaller_ones(place: Place) -> None:
    problem = place.server._problem

    def full(rows: list[bytes], endpoint: str) -> JSON | None:
        if len(rows) > 3:
            return {"code": "token_limit_exceeded", "message": "Enqueued token limit reached.", "line": None}
        return problem(rows, endpoint)

    place.server._problem = full  # type: ignore[method-assign]
    place.until_done("--batch-api")
    assert sorted(place.server.billed().values()) == [1] * 12


def test_what_a_server_refuses_in_requests_is_left_out_of_the_next(place: Place) -> None:
    place.server.refuses_parameters = ["temperature", "max_tokens"]
    place.until_done("--batch-api")
    assert len(place.known) == 12
    assert not any("failed" in record for record in place.records)
    last = place.server.lines(place.server.batches[-1])[0]["body"]
    assert "temperature" not in last
    assert "max_completion_tokens" in last
    assert len(place.server.batches) == 3, "one to learn each of them"


def test_a_server_without_batches_is_told_and_nothing_is_left_pending(place: Place) -> None:
    place.server.before = lambda request: error(404, "", "Not Found") if "/files" in request.path else None
    ended = place("--batch-api")
    assert ended.code == 2
    assert f"{place.server.url} has no Batch API; leave --batch-api out" in ended.err.splitlines()[-1]
    plain = place()
    assert plain.code == 0, plain.err
    assert "pending" not in plain.err
    assert len(place.known) == 12


def test_batches_of_another_model_are_left_to_it(place: Place) -> None:
    place("--batch-api", "--aspect", "fidelity")
    place.server.finish_all()
    other = place("--batch-api", "--aspect", "fidelity", judge="openai:other")
    assert "1 batch: 1 new (3 requests)" in other.err
    place.until_done("--batch-api", "--aspect", "fidelity")
    assert {record["annotator"] for record in place.records} == {"openai:judge"}


def test_it_needs_a_judge_that_takes_batches_and_a_file(place: Place, run: Any) -> None:
    assert "does not support batches" in place("--batch-api", judge="shapes").err
    assert place("--batch-api", "--batch-file", "r.jsonl").code == 2
    ended = run("annotate", "metadata.jsonl", "--annotator", "openai:judge", "--batch-api", env=place.env)
    assert ended.code == 2
    assert "--batch-api: needs --out FILE" in ended.err


def test_a_dry_run_knows_the_price_and_what_is_under_way(place: Place) -> None:
    (place.folder / "prices.toml").write_text(PRICES)

    def dollars(*more: str) -> float:
        ended = place("--dry-run", "--prices", "prices.toml", *more)
        return float(ended.err.split(" USD")[0].split()[-1])

    assert dollars("--batch-api") == pytest.approx(dollars() / 2, abs=0.01)
    place("--batch-api", "--aspect", "fidelity")
    assert "9 calls" in place("--dry-run", "--batch-api").err


# Interrupts and kills ------------------------------------------------------------------------------------------------


def test_an_interrupt_leaves_all_in_order(place: Place, stable: Stable) -> None:
    """The interrupt comes during packing and uploading. Running work finishes, and the next run does the rest."""
    seen = threading.Event()

    def interrupts(request: web.Request) -> None:
        if request.path == "/v1/files" and not seen.is_set():
            seen.set()
            os.kill(stable.running, signal.SIGINT)

    place.server.before = interrupts
    ended = place("--batch-api", limits={"MOST_REQUESTS": 5})
    assert ended.code == 130, ended.err
    assert len(place.server.batches) <= 1
    place.until_done("--batch-api", limits={"MOST_REQUESTS": 5})
    assert sorted(place.server.billed().values()) == [1] * 12
    assert len(place.known) == 12


LIMITS = {"MOST_REQUESTS": 5}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, stable: Stable) -> Iterator[tuple[Place, set[bytes]]]:
    """A place where no run was killed, and its records. Each killed run starts anew on its server."""
    with Hooked() as server:
        folder = tmp_path_factory.mktemp("whole")
        draw(folder, prompts=3)
        place = Place(folder, server, stable)
        place.until_done("--batch-api", limits=LIMITS)
        yield place, place.known


def anew(whole: Place, folder: Path, stable: Stable) -> Place:
    whole.server.forget()
    for file in whole.folder.iterdir():
        if file.suffix == ".png" or file.name == "metadata.jsonl":
            shutil.copy(file, folder)
    return Place(folder, whole.server, stable)


def go_on(place: Place, expected: set[bytes]) -> None:
    place.server.finish_all()
    place.until_done("--batch-api", limits=LIMITS)
    assert place.known == expected
    assert sorted(place.server.billed().values()) == [1] * 12
    assert [path.name for path in place.state.iterdir()] == ["journal.jsonl"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_number", range(1, 13))
def test_killed_at_any_request_it_ends_as_if_it_had_not_been(
    whole: tuple[Place, set[bytes]], tmp_path: Path, stable: Stable, request_number: int, when: str
) -> None:
    """The run is killed before the server handles the request, or after it, so that the answer is lost."""
    original, expected = whole
    place = anew(original, tmp_path, stable)
    left = [request_number]

    def kills(request: web.Request) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(stable.running, signal.SIGKILL)

    setattr(place.server, when, kills)
    try:
        codes = []
        while left[0] > 0:
            ended = place("--batch-api", limits=LIMITS)
            codes.append(ended.code)
            place.server.finish_all()
            if ended.code == 0 and "collect the answers" not in ended.err:
                break
        assert codes[-1] == -signal.SIGKILL
    finally:
        delattr(place.server, when)
    go_on(place, expected)


@pytest.mark.parametrize("number", range(1, 34, 2))
def test_killed_at_any_write_it_ends_as_if_it_had_not_been(
    whole: tuple[Place, set[bytes]], tmp_path: Path, stable: Stable, number: int
) -> None:
    """The run is killed while it packs, three times in a row."""
    original, expected = whole
    place = anew(original, tmp_path, stable)
    codes = []
    for _ in range(3):
        codes.append(place("--batch-api", limits=LIMITS, kill=number).code)
        place.server.finish_all()
    assert -signal.SIGKILL in codes
    go_on(place, expected)


@pytest.mark.parametrize("number", range(1, 34, 2))
def test_killed_while_it_collects_it_ends_as_if_it_had_not_been(
    whole: tuple[Place, set[bytes]], tmp_path: Path, stable: Stable, number: int
) -> None:
    """Some requests have expired, so the run must also submit requests."""
    original, expected = whole
    place = anew(original, tmp_path, stable)
    place("--batch-api", limits=LIMITS)
    place.server.finish_all(expire_share=0.3)
    assert place("--batch-api", limits=LIMITS, kill=number).code == -signal.SIGKILL
    place("--batch-api", limits=LIMITS, kill=number)
    go_on(place, expected)


def test_a_kill_in_the_middle_of_a_line_of_the_journal_is_mended(place: Place) -> None:
    place("--batch-api")
    with (place.state / "journal.jsonl").open("ab") as file:
        file.write(b'{"batch":"abc","requ')
    place.until_done("--batch-api")
    assert sorted(place.server.billed().values()) == [1] * 12


# By file -------------------------------------------------------------------------------------------------------------


def results(place: Place, lines: list[JSON]) -> list[bytes]:
    """The results that ``vllm run-batch`` would write for these requests."""
    found = []
    for line in lines:
        sent = place.server._reply("/v1/chat/completions", line["body"])
        response = {"status_code": sent.status, "request_id": "r", "body": orjson.loads(sent.body)}
        record = {"id": "vllm-1", "custom_id": line["custom_id"], "response": response, "error": None}
        found.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    return found


def requests_in(place: Place) -> list[JSON]:
    return [orjson.loads(line) for line in (place.folder / "requests.jsonl").read_bytes().splitlines()]


def test_a_batch_file_is_written_and_its_results_are_read_without_key_or_server(place: Place) -> None:
    place.env["OPENAI_API_KEY"] = ""
    written = place("--batch-file", "requests.jsonl")
    assert written.code == 0
    assert "vllm run-batch -i requests.jsonl -o requests.out.jsonl --model judge" in written.err
    asked = requests_in(place)
    assert len(asked) == 12
    assert {(line["method"], line["url"]) for line in asked} == {("POST", "/v1/chat/completions")}
    same = (place.folder / "requests.jsonl").read_bytes()
    place("--batch-file", "requests.jsonl")
    assert (place.folder / "requests.jsonl").read_bytes() == same
    assert not place.server.log

    (place.folder / "requests.out.jsonl").write_bytes(b"".join(results(place, asked)))
    read = place("--batch-file", "requests.jsonl")
    assert read.code == 0
    assert "requests.out.jsonl: 12 judgements" in read.err
    assert not (place.folder / "requests.jsonl").exists()
    place.env["OPENAI_API_KEY"] = "a-key-of-tests"
    assert place().code == 0
    assert len(place.known) == 12
    assert not place.server.log, "a live run finds all there"


def test_results_may_be_torn_foreign_and_there_twice(place: Place) -> None:
    place("--batch-file", "requests.jsonl")
    asked = requests_in(place)
    lines = results(place, asked)
    foreign = lines[0].replace(asked[0]["custom_id"].encode(), b"0123456789abcdef")
    out = place.folder / "requests.out.jsonl"
    out.write_bytes(b"".join([*lines[:4], foreign, lines[1], b"[]\n", lines[5][:40]]))
    read = place("--batch-file", "requests.jsonl")
    assert read.code == 0
    assert "4 judgements; 8 requests without a result; 2 incomplete or invalid lines" in read.err
    assert "; 2 results for unknown requests" in read.err
    assert "8 requests in requests.jsonl, 0 of them new" in read.err
    assert [line["custom_id"] for line in requests_in(place)] == [line["custom_id"] for line in asked[4:]]
    out.write_bytes(b"".join(lines))
    place("--batch-file", "requests.jsonl")
    assert len(place.known) == 12


def test_results_say_what_failed_and_what_is_to_be_asked_again(place: Place) -> None:
    faults = iter(["500", "content_filter", "out_of_range", "400"])
    place("--batch-file", "requests.jsonl")
    place.server._fault = lambda asked: next(faults, "")  # type: ignore[method-assign]
    (place.folder / "requests.out.jsonl").write_bytes(b"".join(results(place, requests_in(place))))
    assert place("--batch-file", "requests.jsonl").code == 3
    assert len(requests_in(place)) == 1
    assert len(place.records) == 11
    assert sum("raw" in record for record in place.records) == 1
    assert sum("failed" in record for record in place.records) == 2
    assert sum("refused" in record for record in place.records) == 1


def test_the_input_may_grow_while_a_batch_file_is_run(place: Place) -> None:
    records = draw(place.folder, prompts=4)
    write_lines(place.folder / "metadata.jsonl", records[:4])
    place("--batch-file", "requests.jsonl")
    first = requests_in(place)
    write_lines(place.folder / "metadata.jsonl", records[2:])
    assert "16 requests in requests.jsonl, 8 of them new" in place("--batch-file", "requests.jsonl").err
    (place.folder / "requests.out.jsonl").write_bytes(b"".join(results(place, first)))
    assert "8 requests in requests.jsonl, 0 of them new" in place("--batch-file", "requests.jsonl").err
    assert len(place.records) == 8


def test_a_file_that_is_something_else_is_not_written_over(place: Place) -> None:
    before = (place.folder / "metadata.jsonl").read_bytes()
    ended = place("--batch-file", "metadata.jsonl")
    assert ended.code == 2
    assert "this command did not write it" in ended.err
    assert (place.folder / "metadata.jsonl").read_bytes() == before


@pytest.mark.parametrize("number", range(1, 16, 2))
def test_a_run_by_file_that_is_killed_ends_as_if_it_had_not_been(place: Place, number: int) -> None:
    codes = []
    for _ in range(6):
        codes.append(place("--batch-file", "requests.jsonl", kill=number).code)
        if (place.folder / "requests.jsonl").exists() and (place.folder / ".requests.jsonl.stubs").exists():
            break
    for _ in range(3):
        if place("--batch-file", "requests.jsonl").code == 0 and len(place.records) == 12:
            break
        (place.folder / "requests.out.jsonl").write_bytes(b"".join(results(place, requests_in(place))))
        codes.append(place("--batch-file", "requests.jsonl", kill=number).code)
    assert len(place.known) == 12
    assert -signal.SIGKILL in codes


@pytest.mark.parametrize("how", ["spaces", "carriage returns", "no last newline"])
def test_a_batch_file_may_be_reformatted(place: Place, how: str) -> None:
    place("--batch-file", "requests.jsonl")
    path = place.folder / "requests.jsonl"
    asked = requests_in(place)
    text = {
        "spaces": "".join(f"{json.dumps(one)}\n" for one in asked),
        "carriage returns": path.read_text().replace("\n", "\r\n"),
        "no last newline": path.read_text().rstrip("\n"),
    }[how]
    path.write_bytes(text.encode())
    write_lines(place.folder / "metadata.jsonl", draw(place.folder, prompts=3)[:2])
    again = place("--batch-file", "requests.jsonl")
    assert "12 requests in requests.jsonl, 0 of them new" in again.err
    assert requests_in(place) == asked
    (place.folder / "requests.out.jsonl").write_bytes(b"".join(results(place, asked)))
    place("--batch-file", "requests.jsonl")
    assert len(place.known) == 12


def test_a_request_that_is_missing_is_asked_again_and_its_result_is_still_read(place: Place) -> None:
    place("--batch-file", "requests.jsonl")
    path = place.folder / "requests.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    answers = results(place, requests_in(place))
    path.write_bytes(b"".join([*lines[:3], b"no request\n", *lines[4:-1], lines[-1][:-9]]))
    few = place("--batch-file", "requests.jsonl", "--max-requests", "1")
    assert "requests.jsonl: 2 requests missing; they are asked again if their pictures are in the input" in few.err
    assert "11 requests in requests.jsonl, 1 of them new" in few.err
    assert "12 requests in requests.jsonl, 1 of them new" in place("--batch-file", "requests.jsonl").err
    assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(lines)

    path.write_bytes(b"")
    write_lines(place.folder / "metadata.jsonl", draw(place.folder, prompts=3)[:2])
    assert "12 requests missing" in place("--batch-file", "requests.jsonl").err
    (place.folder / "requests.out.jsonl").write_bytes(b"".join(answers))
    assert "12 judgements" in place("--batch-file", "requests.jsonl").err
    assert len(place.known) == 12


# Damage ---------------------------------------------------------------------------------------------------------------


def damaged(content: bytes) -> Iterator[bytes]:
    """The content with one byte changed, at every place, and without one of its lines."""
    for at, byte in enumerate(content):
        yield content[:at] + bytes([byte ^ 1]) + content[at + 1 :]
    lines = content.splitlines(keepends=True)
    for number in range(len(lines) - 1):
        yield b"".join(lines[:number] + lines[number + 1 :])


def test_no_damage_of_the_journal_is_overlooked(place: Place) -> None:
    """Only the last line may be incomplete, as a killed run leaves it. It is then cut off."""
    place("--batch-api", "--aspect", "fidelity")
    path = place.state / "journal.jsonl"
    whole = path.read_bytes()
    head = b"".join(whole.splitlines(keepends=True)[:-1])
    torn = {content: head for content in damaged(whole) if content[:-1] == whole[:-1]}
    for content, kept in {**torn, whole[:-1]: whole, whole[:-9]: head, whole: whole}.items():
        path.write_bytes(content)
        Journal(str(place.state)).close()
        assert path.read_bytes() == kept
    for content in [*damaged(whole), b"", whole.replace(b"\n", b" ")]:
        if content in torn:
            continue
        path.write_bytes(content)
        with pytest.raises(UserError, match="this journal of batches is damaged; restore it, or remove"):
            Journal(str(place.state))
        assert path.read_bytes() == content, "it can still be restored"


def test_no_damage_of_stubs_is_overlooked(place: Place) -> None:
    place("--batch-api", "--aspect", "fidelity")
    [path] = place.state.glob("*.stubs.jsonl")
    whole = path.read_bytes()
    for content in [*damaged(whole), whole[:-1], whole + b"\n", whole + whole, b""]:
        path.write_bytes(content)
        with pytest.raises(UserError, match="this file of vpctl is damaged; restore it"):
            StubFile(str(path), "; restore it")
    path.unlink()
    ended = place("--batch-api", "--aspect", "fidelity")
    assert ended.code == 2
    assert "no such file or directory; batch batch_0 cannot be read without this file: restore it, or" in ended.err


def test_the_journal_keeps_no_half_line_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(str(tmp_path))
    journal.limit(5)
    whole = (tmp_path / "journal.jsonl").read_bytes()
    write, room = os.write, [10]

    def full(file: int, content: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= (written := write(file, content[: room[0]]))
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(UserError, match="no space left on device"):
            journal.limit(6)
    assert (tmp_path / "journal.jsonl").read_bytes() == whole
    journal.limit(7)
    journal.close()
    assert Journal(str(tmp_path)).most == 7


UNREADABLE = "cannot read the answer of ADDRESS:"
LIES: dict[str, tuple[JSON, int, str]] = {
    "no id of the file": ({"/v1/files": {"object": "file"}}, 2, f"{UNREADABLE} id is missing, or is not an id"),
    "an id with a path": ({"/v1/files": {"id": "../models"}}, 2, f"{UNREADABLE} id is missing, or is not an id"),
    "an id of dots": ({"/v1/files": {"id": ".."}}, 2, f"{UNREADABLE} id is missing, or is not an id"),
    "an id that is no text": ({"/v1/batches": {"id": ["batch_0"]}}, 2, f"{UNREADABLE} id is missing, or is not an id"),
    "a status that is no text": (
        {"/v1/batches/batch_0": {"status": 3}},
        2,
        f"{UNREADABLE} the batch has no status; if",
    ),
    "no object": ({"/v1/batches/batch_0": ["completed"]}, 2, f"{UNREADABLE} it is not a JSON object; if batch batch_0"),
    "a file that is no id": (
        {"/v1/batches/batch_0": {"status": "completed", "output_file_id": {"id": "file-1"}}},
        2,
        f"{UNREADABLE} output_file_id is missing, or is not an id; if batch batch_0 is permanently lost",
    ),
    "a file that is false": (
        {"/v1/batches/batch_0": {"status": "completed", "error_file_id": False}},
        2,
        f"{UNREADABLE} error_file_id is missing, or is not an id; if batch batch_0 is permanently lost",
    ),
    "answers without a file": (
        {"/v1/batches/batch_0": {"status": "completed", "output_file_id": None, "request_counts": {"completed": 3}}},
        2,
        "3 requests are completed, but the batch has no file of answers; if batch batch_0",
    ),
    "a file that is not needed yet": (
        {"/v1/batches/batch_0": {"status": "in_progress", "output_file_id": "N/A", "error_file_id": 0}},
        0,
        "1 batch: 1 pending (0 of 3 requests done)",
    ),
    "counts that are none": (
        {"/v1/batches/batch_0": {"status": "in_progress", "request_counts": [{"completed": "all"}]}},
        0,
        "1 batch: 1 pending (0 of 3 requests done)",
    ),
    "a count below zero": (
        {"/v1/batches/batch_0": {"status": "in_progress", "request_counts": {"completed": -7}}},
        0,
        "1 batch: 1 pending (0 of 3 requests done)",
    ),
    "problems that are none": (
        {"/v1/batches/batch_0": {"status": "failed", "errors": {"data": [None, {"code": "bad\x1b[2J"}, {}, 5]}}},
        0,
        "batch batch_0: no reason",
    ),
    "problems in a list": (
        {"/v1/batches/batch_0": {"status": "failed", "errors": [{"message": "too many lines"}]}},
        0,
        "batch batch_0: too many lines",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_about_its_batches_gets_one_line(place: Place, lie: str) -> None:
    answers, code, said = LIES[lie]
    place.server.after = lambda request: reply(answers[request.path]) if request.path in answers else None
    place("--batch-api", "--aspect", "fidelity")
    ended = place("--batch-api", "--aspect", "fidelity")
    assert ended.code == code, ended.err
    assert said.replace("ADDRESS", place.server.url) in ended.err
    assert "\x1b" not in ended.err


@pytest.mark.parametrize(
    "long", ["x" * 1500, "bGl0ZWxsbV9wcm94eTph=-_" * 20, "batches/abc", "s3:bucket:file~1.jsonl@v2"]
)
def test_ids_may_be_as_gateways_make_them(place: Place, long: str) -> None:
    """A gateway encodes what it has to know in an id, which can then have hundreds of characters."""
    stored = place.server._stored

    def renamed(name: str, content: bytes, purpose: str) -> JSON:
        file = stored(name, content, purpose)
        file_id = f"{long}{file['id']}"
        place.server._contents[file_id] = place.server._contents.pop(file["id"])
        place.server._kept["files"][file_id] = {**place.server._kept["files"].pop(file["id"]), "id": file_id}
        return place.server._kept["files"][file_id]

    place.server._stored = renamed  # type: ignore[method-assign]
    place.until_done("--batch-api", "--aspect", "fidelity")
    assert len(place.known) == 3


def test_a_list_of_batches_that_has_no_end_is_not_read_forever(place: Place) -> None:
    """The run does not know whether the server has created its batch, so it looks it up."""
    page = {"data": [{"id": "batch_9", "created_at": 2**40}], "has_more": True}
    place.server.after = lambda request: reply({}) if request.method == "POST" and "batches" in request.path else None
    assert place("--batch-api").code == 2
    place.server.after = lambda request: reply(page) if request.path == "/v1/batches" else None
    ended = place("--batch-api")
    assert ended.code == 2
    assert "the server's list of batches repeats itself" in ended.err


def test_the_stubs_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    """Its aspects had four fields and its dialects three, and its answers named the reason and the level otherwise."""
    aspect = ["fidelity", "Fidelity", "1. Severe: x", ["1 Severe", "2 Marked", "3 Moderate", "4 Slight", "5 None"]]
    judgement: dict[str, Any] = {"prompt_id": "p", "prompt": "p", "aspect": "fidelity", "annotator": "openai:m"}
    judgement |= {"image_ids": ["a"], "file_names": ["a.png"], "scores": [], "order": [0], "key": "k"}
    stub = {"id": "k", "of": 0, "judgements": [judgement], "fresh": ["k"], "estimate": [1, 2, 3], "asked": "h"}
    head = {"at": 7, "dialect": ["json_object", "max_tokens", False]}
    lines = [orjson.dumps(one) + b"\n" for one in (head, {"kind": [[aspect], "list", 1]}, stub, {"bytes": 9})]
    checksum = orjson.dumps({"sha256": sha256(b"".join(lines)).hexdigest()}) + b"\n"
    path = tmp_path / "stubs.jsonl"
    path.write_bytes(b"".join([*lines, checksum]))
    stubs = StubFile(str(path))
    assert stubs.dialect == Dialect("json_object", "max_tokens", temperature=False)
    (found,) = stubs
    (kept,) = found.call.kind.aspects
    assert (kept.levels[0], kept.with_prompt, kept.with_ranking) == ("1 Severe", True, True)
    (verdicts,) = parse_verdicts(found.call.kind, {"A": {"rationale": "x", "level": "4 Slight"}})
    assert verdicts.scores == [4.0]
