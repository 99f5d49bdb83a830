"""The server of the tests behaves as documented."""

import asyncio
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import aiohttp
import openai
import orjson
import pytest
from aiohttp import web

from tests.conftest import HOME, until
from tests.servers import FAULTS, PICTURE_TOKENS, Server, read_log

LEVELS = ["1 Bad", "2 Poor", "3 Fair", "4 Good", "5 Excellent"]
VERDICT = {
    "type": "object",
    "properties": {"rationale": {"type": "string"}, "level": {"type": "string", "enum": LEVELS}},
}
RANKING = {"type": "array", "items": {"type": "string", "enum": ["A", "B", "C"]}}
SCHEMA = {"type": "object", "properties": {"A": VERDICT, "B": VERDICT, "C": VERDICT, "ranking": RANKING}}
BY_ASPECT = {"type": "object", "properties": {"fidelity": SCHEMA, "aesthetic": SCHEMA}}


def question(number: int = 0, schema: dict[str, Any] = SCHEMA, **more: Any) -> dict[str, Any]:
    asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return {"messages": [{"role": "user", "content": f"question {number}"}], "response_format": asked, **more}


Got = tuple[int, dict[str, Any], dict[str, str]]


def ask(server: Server, *bodies: dict[str, Any], path: str = "/chat/completions", key: str = "any") -> list[Got]:
    """The status, body and headers of each answer.

    All questions are asked at once. Status 0 means no complete answer.
    """

    async def one(session: aiohttp.ClientSession, body: dict[str, Any]) -> Got:
        try:
            async with session.post(server.url + path, json=body) as response:
                return response.status, await response.json(), dict(response.headers)
        except aiohttp.ClientError:
            return 0, {}, {}

    async def all_of() -> list[Got]:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), headers={"Authorization": f"Bearer {key}"}
        ) as session:
            return await asyncio.gather(*(one(session, body) for body in bodies))

    return asyncio.run(all_of())


def said(got: Got) -> Any:
    return orjson.loads(got[1]["choices"][0]["message"]["content"])


def statuses(answers: list[Got]) -> Counter[int]:
    return Counter(status for status, _, _ in answers)


@pytest.mark.parametrize("schema", [SCHEMA, BY_ASPECT])
def test_an_answer_fits_its_schema_and_ranks_as_its_levels_do(schema: dict[str, Any]) -> None:
    with Server() as server:
        contents = [said(got) for got in ask(server, *(question(number, schema) for number in range(20)))]
        again = [said(got) for got in ask(server, *(question(number, schema) for number in range(20)))]
    assert contents == again
    assert len({orjson.dumps(content) for content in contents}) == 20
    for content in contents:
        for judged in [content] if schema is SCHEMA else content.values():
            assert sorted(judged) == ["A", "B", "C", "ranking"]
            assert all(judged[letter]["level"] in LEVELS for letter in "ABC")
            assert judged["ranking"] == sorted("ABC", key=lambda letter: (-int(judged[letter]["level"][0]), letter))


def test_a_schema_in_the_words_of_the_question_is_found_too() -> None:
    text = f'The form is {{"this"}}: {orjson.dumps(SCHEMA).decode()}'
    with Server() as server:
        (got,) = ask(server, {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]})
    assert sorted(said(got)) == ["A", "B", "C", "ranking"]


def test_pictures_are_counted_as_tokens_of_their_own() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + "A" * 80_000}}
    with Server() as server:
        (got,) = ask(server, question(messages=[{"role": "user", "content": [picture] * 4}]))
    assert 4 * 255 < got[1]["usage"]["prompt_tokens"] < 4 * 255 + 500
    assert server.log[0].tokens == got[1]["usage"]["total_tokens"]


def test_one_more_than_its_capacity_is_refused_at_once() -> None:
    limits = {"Retry-After": "{wait:.0f}", "X-RateLimit-Remaining-Requests": "{remaining}"}
    with Server(capacity=30, latency=0.2, limit_headers=limits) as server:
        answers = ask(server, *(question(number) for number in range(40)))
    assert statuses(answers) == {200: 30, 429: 10}
    refused = next(got for got in answers if got[0] == 429)
    assert refused[1]["error"]["code"] == "rate_limit_exceeded"
    assert (refused[2]["Retry-After"], refused[2]["X-RateLimit-Remaining-Requests"]) == ("1", "0")
    assert server.peak == 31
    assert server.billed().total() == 30


@pytest.mark.parametrize("window", [0.0, 0.5])
def test_a_rate_is_kept_whether_it_is_refilled_steadily_or_counted_anew(
    window: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("tests.servers.clock", lambda: now[0])
    with Server(per_minute=600, window=window) as server:
        first = statuses(ask(server, *(question(number) for number in range(20))))
        now[0] += 0.55
        later = statuses(ask(server, *(question(number) for number in range(20))))
    assert first[200] == (5 if window else 10)
    assert later[200] == 5


def test_faults_are_the_same_in_whatever_order_questions_come() -> None:
    faults = {"429": 0.1, "500": 0.1, "drop": 0.1, "cut_body": 0.1, "refusal": 0.1}
    found = []
    for order in (1, -1):
        with Server(faults=faults, seed=3) as server:
            for _ in range(2):
                ask(server, *[question(number) for number in range(300)][::order])
        found.append(Counter((entry.fingerprint, entry.fault) for entry in server.log))
    assert found[0] == found[1]
    shares = Counter(entry.fault for entry in server.log)
    assert all(40 <= shares[fault] <= 80 for fault in faults), shares
    assert all(entry.billed == (entry.fault in ("", "refusal")) for entry in server.log)
    assert len(server.billed()) < 300
    assert set(server.billed().values()) == {1, 2}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_what_it_is_called(fault: str) -> None:
    with Server(faults={fault: 1}, hang=0.1 if fault == "timeout" else 3600) as server:
        began = time.monotonic()
        ((status, body, _),) = ask(server, question())
        took = time.monotonic() - began
    (entry,) = server.log
    assert entry.fault == fault
    assert status == {"drop": 0, "cut_body": 0, "content_filter": 400}.get(fault, 200)
    assert fault != "timeout" or took >= 0.1
    if fault == "content_filter":
        assert body["error"]["code"] == "content_policy_violation"
    if status != 200:
        return
    choice = body["choices"][0]
    text = choice["message"]["content"]
    assert (choice["finish_reason"] == "length") == (fault == "cut_json")
    assert bool(choice["message"]["refusal"]) == (text is None) == (fault == "refusal")
    assert (text == "") == (fault == "empty")
    assert ("\n```json\n{" in (text or "")) == (fault == "fenced")
    if fault in ("wrong_count", "out_of_range"):
        assert orjson.loads(text).get("C", {}).get("level") == (None if fault == "wrong_count" else "9 Superb")


def test_what_it_does_not_support_it_refuses_by_name() -> None:
    with Server(supports=["text"], refuses_parameters={"temperature"}, key="sk-test") as server:
        ((schema, first, _),) = ask(server, question(), key="sk-test")
        ((heat, second, _),) = ask(server, {"messages": [], "temperature": 0}, key="sk-test")
        ((stranger, third, _),) = ask(server, question())
    assert (schema, heat, stranger) == (400, 400, 401)
    assert [body["error"].get("param") for body in (first, second, third)] == ["response_format", "temperature", None]
    assert third["error"]["code"] == "invalid_api_key"


def test_hooks_say_what_they_like() -> None:
    def answer(body: dict[str, Any]) -> object:
        number = int(body["messages"][0]["content"].split()[1])
        return [{"number": number}, "words", web.json_response({"odd": True}, status=418)][number]

    with Server(answer=answer) as server:
        made, raw, own = ask(server, *(question(number) for number in range(3)))
    assert said(made) == {"number": 0}
    assert raw[1]["choices"][0]["message"]["content"] == "words"
    assert own[:2] == (418, {"odd": True})


def test_moderations_name_what_they_flag() -> None:
    with (
        Server(moderate=lambda body: {"hate": 0.7} if body["input"] == "b" else {}) as server,
        openai.OpenAI(base_url=server.url, api_key="any") as client,
    ):
        results = client.moderations.create(input=["a", "b", "violence"]).results
        picture: Any = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
        assert not client.moderations.create(input=picture, model="omni-moderation-latest").results[0].flagged
        assert [model.id for model in client.models.list()] == ["judge"]
    assert [result.flagged for result in results] == [False, True, True]
    assert results[1].categories.hate
    assert results[2].categories.violence


URL: Literal["/v1/chat/completions"] = "/v1/chat/completions"
ROWS = [{"custom_id": f"q{number}", "method": "POST", "url": URL, "body": question(number)} for number in range(200)]


@pytest.fixture
def batches() -> Iterator[tuple[Server, openai.OpenAI]]:
    """A server that accepts small batches, and a client for it."""
    with (
        Server(faults={"500": 0.1}, max_file_bytes=200_000, max_batch_requests=200) as server,
        openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as client,
    ):
        yield server, client


def batch_of(client: openai.OpenAI, rows: list[dict[str, Any]]) -> str:
    file = client.files.create(file=("in.jsonl", b"\n".join(map(orjson.dumps, rows))), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h", metadata={"part": "1"})
    assert (batch.status, batch.metadata) == ("validating", {"part": "1"})
    return batch.id


def test_a_batch_is_answered_but_for_what_expires(batches: tuple[Server, openai.OpenAI]) -> None:
    server, client = batches
    name = batch_of(client, ROWS)
    assert client.batches.retrieve(name).status == "in_progress"
    server.finish(name, expire_share=0.2)
    batch = client.batches.retrieve(name)
    assert batch.status == "expired"
    good, bad = (
        [orjson.loads(line) for line in client.files.content(file or "none").content.splitlines()]
        for file in (batch.output_file_id, batch.error_file_id)
    )
    assert {line["custom_id"] for line in good + bad} == {row["custom_id"] for row in ROWS}
    assert batch.request_counts
    assert (batch.request_counts.completed, batch.request_counts.failed) == (len(good), len(bad))
    assert server.billed().total() == len(good)
    errors = Counter(line["error"]["code"] if line["error"] else line["response"]["status_code"] for line in bad)
    assert 20 <= errors["batch_expired"] <= 60
    assert 5 <= errors[500] <= 35
    (online,) = ask(server, question(int(good[0]["custom_id"][1:])))
    assert good[0]["response"]["body"]["choices"] == online[1]["choices"]


def test_a_batch_is_checked_and_can_be_cancelled(batches: tuple[Server, openai.OpenAI]) -> None:
    server, client = batches
    twice = client.batches.retrieve(batch_of(client, ROWS[:1] * 2))
    assert (twice.status, twice.to_dict()["errors"]) == (
        "failed",
        {
            "object": "list",
            "data": [
                {"code": "duplicate_custom_id", "message": "Line 2 is not valid: duplicate_custom_id.", "line": 2}
            ],
        },
    )
    assert client.batches.retrieve(batch_of(client, ROWS + ROWS[:1])).status == "failed"
    name = batch_of(client, ROWS[:2])
    assert client.batches.cancel(name).status == "cancelling"
    server.finish(name, expire_share=1)
    cancelled = client.batches.retrieve(name)
    assert (cancelled.status, cancelled.output_file_id) == ("cancelled", None)
    assert [one.id for one in client.batches.list(limit=1)] == ["batch_2", "batch_1", "batch_0"]


def test_files_have_a_limit_and_can_be_deleted(batches: tuple[Server, openai.OpenAI]) -> None:
    _, client = batches
    with pytest.raises(openai.APIStatusError, match="more than 200000"):
        client.files.create(file=("in.jsonl", b"x" * 200_001), purpose="batch")
    content = "é\r\n\n--\r\n".encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    assert (file.filename, file.purpose, file.bytes) == ("in.jsonl", "batch", len(content))
    assert client.files.content(file.id).content == content
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)


def test_a_batch_finishes_by_itself_after_its_delay() -> None:
    with (
        Server(batch_delay=0.05, expire_share=1) as server,
        openai.OpenAI(base_url=server.url, api_key="any") as client,
    ):
        name = batch_of(client, ROWS[:2])
        until(lambda: client.batches.retrieve(name).status == "expired")


def test_who_has_gone_is_billed_all_the_same() -> None:
    body = b'{"model": "judge", "messages": []}'
    with Server(held=0) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
            client.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            until(lambda: server.waiting)
        with openai.OpenAI(base_url=server.url, api_key="any") as another:
            another.models.list()  # the server works in order, so by then it has noticed the disconnection
        server.release()
        until(lambda: len(server.log) == 2)
    entry = server.log[-1]
    assert (entry.status, entry.billed, entry.heard) == (200, True, False)


def test_in_a_process_of_its_own_it_writes_its_log_as_it_goes(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    command = [sys.executable, "-m", "tests.servers", "--log", str(log), "--key", "7", "--faults", '{"500": 1}']
    with subprocess.Popen(command, cwd=HOME, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        with (
            openai.OpenAI(base_url=url, api_key="7", max_retries=0) as client,
            pytest.raises(openai.InternalServerError),
        ):
            client.chat.completions.create(model="judge", messages=[])
        process.kill()
    (entry,) = read_log(log)
    assert (entry.status, entry.fault, entry.billed) == (500, "500", False)
    assert "OpenAI" in entry.headers["User-Agent"]


def test_a_kept_prefix_is_reported_as_far_as_it_is_the_same_and_only_after_its_answer() -> None:
    text, picture = ({"type": "text", "text": "x" * 400}, {"type": "image_url", "image_url": {"url": "data:,a"}})

    def asked(last: str) -> dict[str, Any]:
        return {
            **question(),
            "messages": [{"role": "user", "content": [text, picture, {"type": "text", "text": last}]}],
        }

    def cached(*bodies: dict[str, Any]) -> list[int]:
        return [body["usage"]["prompt_tokens_details"]["cached_tokens"] for _, body, _ in ask(server, *bodies)]

    with Server(caches=True, latency=0.05) as server:
        assert cached(asked("one"), asked("two")) == [0, 0], "at the same time"
        (before,) = cached(asked("three"))
        assert before >= 100 + PICTURE_TOKENS
        assert cached(asked("four")) == [before]
        other = {**asked("five"), "response_format": {"type": "text"}}
        assert cached(other) == [0], "the schema comes first"
        assert [entry.cached for entry in server.log] == [0, 0, before, before, 0]
