"""The generator of a server: what is asked, what becomes of its answers, and that nothing is paid for twice."""

import asyncio
import base64
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from tests.conftest import Plugin, lines, rest, told, until, vpctl
from tests.servers import Server, drawing, error, png
from tests.surroundings import ENVIRONMENT
from vpctl.api.transport import Transport
from vpctl.api.wire import NoAnswer
from vpctl.cli import main
from vpctl.configs import ServerConfig
from vpctl.contracts import Settings
from vpctl.errors import RecordFailed, UserError
from vpctl.generators.openai import ImageModel, PictureDialect, check, fallback, first_dialect
from vpctl.images.pictures import decoded, saved_parameters

KEY = "sk-test-77d1"
OUT = Path("images/metadata.jsonl")
FAILED = Path("images/metadata.failed.jsonl")

Said = Callable[[], str]


class Asked:
    """Answers as `answer` does, and keeps the bodies of the requests."""

    def __init__(self, answer: Callable[[dict[str, Any]], Any] = drawing) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._answer = answer

    def __call__(self, body: dict[str, Any]) -> Any:
        self.bodies.append(body)
        return self._answer(body)


def rejection(code: str, message: str, *, status: int = 400, **headers: str) -> web.Response:
    return web.Response(
        status=status, body=error(status, code, message).body, content_type="application/json", headers=headers
    )


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with two prompts, short waits between tries, and the signals as they were before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("vpctl.api.engine.FIRST_WAIT", 0.01)
    for name in ("OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    Path("prompts.txt").write_text("a red circle\na blue star\n")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Said:
    return lambda: capfd.readouterr().err


def generate(server: Server | str, *more: str, model: str = "openai:gpt-image-2") -> int:
    url = server if isinstance(server, str) else server.url
    words = ["generate", "prompts.txt", "-m", model, "--out", str(OUT), "--base-url", url, *more]
    return main(words)


def records(path: Path = OUT) -> list[dict[str, Any]]:
    return lines(path.read_text()) if path.exists() else []


def test_each_picture_is_a_request_of_its_own(said: Said) -> None:
    asked = Asked(lambda body: drawing(body, revised_prompt=f'{body["prompt"]}, "bold", on grey'))
    with Server(answer=asked, key=KEY) as server:
        size = ["--size", "8x8", "--extra", '{"quality": "low", "output_format": "webp"}']
        assert generate(server, *size, "-n", "2") == 0
        found = records()
        assert generate(server, *size, "-n", "2") == 0
        assert len(server.log) == 4, "a second run asks nothing"
    assert "4 requests, 1128 tokens, 0.0328 USD" in said()
    assert asked.bodies[0] == {
        "model": "gpt-image-2",
        "prompt": "a red circle",
        "size": "8x8",
        "quality": "low",
        "output_format": "webp",
    }
    assert [one["prompt"] for one in found] == ["a red circle"] * 2 + ["a blue star"] * 2
    assert len({one["image_id"] for one in found}) == 4
    first = found[0]
    assert first["revised_prompt"] == 'a red circle, "bold", on grey'
    assert first["usage"] == {"prompt_tokens": 10, "completion_tokens": 272, "cost": 0.00821}
    assert first["asked"]["without"] == "a seed"
    assert first["asked"]["server"] == server.url
    size_of, text = saved_parameters(str(OUT.parent / first["file_name"]))
    assert size_of == (first["width"], first["height"]) == (8, 8)
    assert text.startswith("a red circle\n")
    assert "Seed" not in text, "a server without seeds cannot draw it again"


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_picture_whose_record_was_lost_is_not_paid_for_again(kind: str) -> None:
    revised = 'a "red", round: circle\\'
    with Server(answer=lambda body: drawing(body, revised_prompt=revised)) as server:
        assert generate(server, "--format", kind) == 0
        whole = records()
        text = OUT.read_text().splitlines(keepends=True)
        OUT.write_text("".join(text[:3]))
        assert generate(server, "--format", kind) == 0
        assert len(server.log) == 8
    spent = {"usage", "asked"}
    kept = [{name: value for name, value in one.items() if name not in spent} for one in whole]
    assert [{name: value for name, value in one.items() if name not in spent} for one in records()] == kept
    assert kept[0]["revised_prompt"] == revised


def test_what_a_server_does_not_accept_is_found_out_once(said: Said) -> None:
    """vLLM and LocalAI take a seed and a format. A strict server rejects what it does not know, one after the other."""
    asked = Asked()
    with Server(answer=asked, refuses_parameters=("seed", "response_format")) as server:
        assert generate(server, model="openai:flux") == 0
        assert [entry.status for entry in server.log] == [400, 400] + [200] * 8
    assert all(body.keys() == {"model", "prompt"} for body in asked.bodies)
    assert {one["asked"]["without"] for one in records()} == {"a seed"}
    taking = Asked()
    with Server(answer=taking) as server:
        assert generate(server, model="openai:flux") == 0
    assert all(body["response_format"] == "b64_json" for body in taking.bodies)
    assert sorted(body["seed"] for body in taking.bodies) == sorted(one["seed"] for one in records()[8:])
    assert "without" not in records()[-1]["asked"]


def test_a_server_that_does_not_say_what_is_wrong_is_asked_plainly_and_then_believed(said: Said) -> None:
    with Server(answer=Asked(lambda _: rejection("invalid", "Invalid request."))) as server:
        assert (
            generate(
                server,
                model="openai:flux",
            )
            == 2
        )
        assert len(server.log) == 8 * 2, "each picture in both forms: a rejection costs nothing"
    assert "openai:flux: the server says 400: Invalid request." in said()


@pytest.mark.parametrize(
    ("model", "url", "first"),
    [
        ("gpt-image-2", "https://api.openai.com/v1", PictureDialect(format=False, seed=False)),
        ("dall-e-3", "https://api.openai.com/v1", PictureDialect(format=True, seed=False)),
        ("openai/gpt-image-2", "https://gateway.example.com/v1", PictureDialect(format=False, seed=False)),
        ("Qwen/Qwen-Image", "http://localhost:8000/v1", PictureDialect(format=True, seed=True)),
    ],
)
def test_the_first_request_has_what_the_server_is_known_to_accept(model: str, url: str, first: PictureDialect) -> None:
    assert first_dialect(model, url) == first


@pytest.mark.parametrize(
    ("about", "left"),
    [
        ("unknown parameter: 'seed'.", PictureDialect(seed=False)),
        ("body.seed: input should be less than 2147483648", PictureDialect(seed=False)),
        ('invalid json payload received. unknown name "seed": cannot find field.', PictureDialect(seed=False)),
        ("seed invalid_value the value is too large", PictureDialect(seed=False)),
        ("unsupported response format: b64_json", PictureDialect(format=False)),
        ("prompt: 'a seed' is too long", None),
    ],
)
def test_a_rejection_shows_what_to_leave_out(about: str, left: PictureDialect | None) -> None:
    assert fallback(PictureDialect(), about) == left


@pytest.mark.parametrize("kind", ["path", "data"])
def test_a_url_in_place_of_a_picture_is_fetched(kind: str) -> None:
    def answer(body: dict[str, Any]) -> Any:
        content = base64.b64encode(png((255, 9, 9))).decode()
        url = f"data:image/png;base64,{content}" if kind == "data" else server.url.replace("/v1", "/a.png")
        return {"created": 1, "data": [{"url": url}]}

    with Server(answer=answer, key=KEY, files={"/a.png": ("image/png", png((255, 9, 9)))}) as server:
        assert generate(server, "-n", "1") == 0
    with Image.open(OUT.parent / records()[0]["file_name"]) as picture:
        assert picture.getpixel((0, 0)) == (255, 9, 9)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "its URL is not valid"),
        ("ftp://example.com/a.png", "its URL is not valid"),
        ("http://[", "its URL is not valid"),
        ("http://127.0.0.1:1/a.png", "private network"),
        ("http://169.254.169.254/latest", "private network"),
        ("http://localhost:1/a.png", "private network"),
        ("http://localhost.localdomain.example.com:1/a.png", "private network"),
    ],
)
def test_an_answer_cannot_lead_into_the_users_own_network(
    url: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(*_: object, **__: object) -> list[dict[str, object]]:
        return [{"host": "10.0.0.7", "port": 1, "hostname": "x", "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr("aiohttp.ThreadedResolver.resolve", resolve)

    async def fetch() -> bytes:
        transport = Transport("https://api.example.com/v1", KEY, {})
        try:
            return await transport.get(url)
        finally:
            await transport.close()

    with pytest.raises(NoAnswer, match=reason) as raised:
        asyncio.run(fetch())
    assert raised.value.final, "another try would end in the same way"


def test_a_file_elsewhere_gets_no_key_and_is_of_the_right_type(said: Said) -> None:
    def answer(body: dict[str, Any]) -> Any:
        return {"data": [{"url": other.url.replace("/v1", "/page" if "star" in body["prompt"] else "/a.png")}]}

    files = {"/page": ("text/html", b"<html>"), "/a.png": ("image/png", png((9, 255, 9)))}
    with Server(files=files) as other, Server(answer=answer, key=KEY) as server:
        assert generate(server, "-n", "1") == 3
    assert len(records()) == 1
    assert "it is of the type 'text/html'" in records(FAILED)[0]["failed"]


def test_a_refusal_is_recorded_with_its_reason_and_never_asked_again(said: Said) -> None:
    """The body is that of OpenAI."""

    def answer(body: dict[str, Any]) -> Any:
        if "star" not in body["prompt"]:
            return drawing(body)
        told = "Your request was rejected by the safety system. safety_violations=[violence]."
        return rejection("moderation_blocked", told)

    with Server(answer=answer) as server:
        assert generate(server, "-n", "2") == 3
        assert generate(server, "-n", "2") == 0
        assert len(server.log) == 4
    assert [one["prompt"] for one in records()] == ["a red circle"] * 2
    failed = records(FAILED)
    assert len(failed) == 2
    assert failed[0]["failed"].startswith(
        "refused: moderation_blocked: Your request was rejected by the safety system."
    )
    assert "2 pictures failed in an earlier run" in said()


def test_pictures_of_a_server_that_rejects_all_for_a_while_are_drawn_by_the_next_run(said: Said) -> None:
    """It draws five, one of which comes late. The row of rejections ends the run, so none is recorded as a refusal."""
    Path("prompts.txt").write_text("".join(f"a circle of {size} pixels\n" for size in range(40)))
    left = 5

    def answer(body: dict[str, Any]) -> Any:
        nonlocal left
        left -= 1

        async def late(request: web.Request) -> web.StreamResponse:
            while left > -2:
                await asyncio.sleep(0.005)
            return web.json_response(drawing(body))

        if left == 2:
            return late
        return drawing(body) if left >= 0 else rejection("invalid_value", "Invalid value.")

    with Server(answer=answer) as server:
        assert generate(server, "-n", "1", "--concurrency", "4") == 2
        assert "openai:gpt-image-2: the server says 400: Invalid value." in said()
        assert len(records()) == 5
        left = 100
        assert generate(server, "-n", "1") == 0
    assert len(records()) == 40
    assert not records(FAILED)


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_prompt_that_a_server_rejects_while_it_draws_others_is_a_failure(place: str, said: Said) -> None:
    Path("prompts.txt").write_text("a star\na circle\na square\n" if place == "first" else "a circle\na star\n")

    def answer(body: dict[str, Any]) -> Any:
        return rejection("invalid_value", "Invalid value.") if "star" in body["prompt"] else drawing(body)

    with Server(answer=answer) as server:
        assert generate(server, "-n", "2", "--concurrency", "1") == 3
        asked = len(server.log)
        assert generate(server, "-n", "2") == 0
        assert len(server.log) == asked, "it is not asked for again"
    assert {one["prompt"] for one in records()} == {*Path("prompts.txt").read_text().split("\n")} - {"", "a star"}
    assert [one["failed"] for one in records(FAILED)] == ["refused: the server says 400: Invalid value."] * 2
    assert "2 failed; see images/metadata.failed.jsonl" in said()


def test_a_server_that_rejects_the_last_prompts_is_asked_again_by_the_next_run(said: Said) -> None:
    """Four different prompts in a row, and no picture since: it may reject all of them for now."""
    Path("prompts.txt").write_text("".join(f"a circle of {size} pixels\n" for size in range(6)))
    broken = True

    def answer(body: dict[str, Any]) -> Any:
        late = broken and not body["prompt"].endswith(("0 pixels", "1 pixels"))
        return rejection("invalid_value", "Invalid value.", status=422) if late else drawing(body)

    with Server(answer=answer) as server:
        assert generate(server, "--concurrency", "1") == 3
        assert "16 pictures could not be drawn for now; run the same command again" in said()
        broken = False
        assert generate(server) == 0
    assert len(records()) == 24
    assert not records(FAILED)


def test_a_busy_server_is_asked_again_when_it_allows() -> None:
    times: Counter[str] = Counter()

    def answer(body: dict[str, Any]) -> Any:
        times[body["prompt"]] += 1
        if times[body["prompt"]] == 1:
            return rejection("rate_limit_exceeded", "Rate limit reached.", status=429, **{"Retry-After": "0.2"})
        if times[body["prompt"]] == 2:
            return rejection("server_error", "Try again.", status=500)
        return drawing(body)

    began = time.monotonic()
    with Server(answer=answer) as server:
        assert generate(server, "-n", "1") == 0
        assert [entry.status for entry in server.log].count(200) == 2
    assert time.monotonic() - began > 0.2
    assert len(records()) == 2


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (429, "insufficient_quota", "You exceeded your current quota."),
        (400, "billing_hard_limit_reached", "Billing hard limit has been reached."),
    ],
)
def test_a_quota_that_is_used_up_stops_the_run_in_order_and_a_later_one_goes_on(
    status: int, code: str, message: str, said: Said
) -> None:
    given = 3

    def answer(body: dict[str, Any]) -> Any:
        nonlocal given
        given -= 1
        if given < 0:
            return rejection(code, message, status=status)
        return drawing(body)

    with Server(answer=answer) as server:
        assert generate(server) == 5
        told = said()
        assert f"{message}; run the same command again when the server allows it" in told
        assert "3 pictures written" in told
        kept = records()
        given = 100
        assert generate(server) == 0
    assert len(records()) == 8
    assert records()[:3] == kept
    assert given == 95, "no picture was drawn twice"
    assert not FAILED.exists()


def test_a_budget_for_less_than_a_picture_says_so(said: Said) -> None:
    with Server() as server:
        assert generate(server, "--max-cost", "0.001") == 5
        assert not server.log
    assert "that one call may cost; raise it, or ask for smaller or simpler pictures" in said()


@pytest.mark.parametrize("limit", ["--max-requests", "--max-cost"])
def test_a_budget_stops_the_run_and_is_no_failure(limit: str, said: Said) -> None:
    with Server() as server:
        size = ["--size", "1024x1024", "--extra", '{"quality": "low"}']
        assert generate(server, *size, limit, "3" if limit == "--max-requests" else "0.026") == 5
        assert len(server.log) == 3
        assert f"{limit} " in said()
        assert len(records()) == 3
        assert generate(server, *size) == 0
        assert len(server.log) == 8
    assert not FAILED.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"=torn", "the base64 of the picture is broken"),
        (base64.b64encode(png((255, 0, 0), (64, 64))[:90]), "cannot be decoded"),
        (base64.b64encode(b"%PDF-1.4"), "not a picture"),
        (base64.b64encode(b"GIF89a" + bytes(60)), "not a picture"),
        (base64.b64encode(png((0, 0, 0))), "it is black"),
        ({}, "the answer has no picture"),
        ({"data": {}}, "the answer has no picture"),
        ({"data": [7]}, "the answer has no picture"),
        ({"data": [{"b64_json": None, "url": [], "revised_prompt": {}}]}, "the answer has no picture"),
        ({"data": [{"b64_json": 7}]}, "the base64 of the picture is broken"),
        ({"data": [{"url": ["/etc/passwd"]}]}, "its URL is not valid"),
    ],
)
def test_what_is_no_picture_is_asked_for_once_more_and_then_a_failure(
    content: bytes | dict[str, Any], reason: str
) -> None:
    bad = {"data": [{"b64_json": content.decode()}]} if isinstance(content, bytes) else content

    def answer(body: dict[str, Any]) -> Any:
        return bad if "star" in body["prompt"] else drawing(body)

    with Server(answer=answer) as server:
        assert generate(server, "-n", "1") == 3
        assert generate(server, "-n", "1") == 0
        assert len(server.log) == 3
    [failed] = records(FAILED)
    assert failed["failed"].startswith("drawn twice: ")
    assert reason in failed["failed"]
    assert not Path(OUT.parent, failed["file_name"]).exists()


def test_a_second_picture_takes_the_place_of_a_bad_one() -> None:
    times: Counter[str] = Counter()

    def answer(body: dict[str, Any]) -> Any:
        times[body["prompt"]] += 1
        return {"data": []} if times[body["prompt"]] == 1 else drawing(body)

    with Server(answer=answer) as server:
        assert generate(server, "-n", "1", model="openai:flux") == 0
    assert times.total() == 4
    assert {one["image_id"] for one in records()} != {Path(one["file_name"]).stem for one in records()}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"data": []}, "the answer has no picture"),
        ({"data": [{"b64_json": "=torn"}]}, "the base64 of the picture is broken"),
        ({"data": [{"url": "file:///x"}]}, "the file of the answer cannot be fetched: its URL is not valid"),
        ({"data": [{"url": "/page"}]}, "the file of the answer cannot be fetched: it is of the type 'text/html'"),
        ({"data": [{"url": "/none"}]}, "the file of the answer cannot be fetched: its server says 404"),
    ],
)
def test_a_server_that_never_draws_is_not_paid_without_end(answer: dict[str, Any], reason: str, said: Said) -> None:
    """One call follows the other until a picture can be used, also where that takes a file of another server."""
    Path("prompts.txt").write_text("".join(f"a circle of {size} pixels\n" for size in range(100)))
    files = {"/page": ("text/html", b"<html>")}

    def answered(_: dict[str, Any]) -> dict[str, Any]:
        url = answer["data"] and answer["data"][0].get("url", "")
        return {"data": [{"url": server.url.replace("/v1", url)}]} if url and url.startswith("/") else answer

    with Server(answer=answered, files=files) as server:
        assert generate(server, "--concurrency", "64") == 2
        paths = Counter(entry.path.rpartition("/")[2] for entry in server.log)
    assert paths.pop("generations") == 4
    assert max(paths.values(), default=0) <= 4, "what cannot change is not asked for again"
    assert f"no picture can be used: {reason}; name another model" in said()


def test_a_file_that_cannot_be_fetched_for_now_is_not_bought_again_before_the_next_run(said: Said) -> None:
    times: Counter[str] = Counter()

    def answer(body: dict[str, Any]) -> Any:
        times[body["prompt"]] += 1
        file = "http://127.0.0.1:1/a.png" if times.total() == 2 else server.url.replace("/v1", "/a.png")
        return {"data": [{"url": file}]}

    with Server(answer=answer, files={"/a.png": ("image/png", png((9, 255, 9)))}) as server:
        assert generate(server, "-n", "1") == 3
        assert times == {"a red circle": 1, "a blue star": 1}
        assert "1 picture could not be drawn for now; run the same command again" in said()
        assert generate(server, "-n", "1") == 0
    assert times == {"a red circle": 1, "a blue star": 2}
    assert not records(FAILED)


def test_a_host_of_files_that_is_away_ends_the_run_soon_and_loses_no_prompt(said: Said) -> None:
    """Pictures are paid for, and their files are on another server, which is gone after three of them."""
    Path("prompts.txt").write_text("".join(f"a circle of {size} pixels\n" for size in range(16)))
    drawn, away = 0, True

    def answer(body: dict[str, Any]) -> Any:
        nonlocal drawn
        drawn += 1
        gone = away and drawn > 3
        file = "http://name:pass@127.0.0.1:1/a.png?sig=secret" if gone else server.url.replace("/v1", "/a.png")
        return {"data": [{"url": file}]}

    with Server(answer=answer, files={"/a.png": ("image/png", png((9, 255, 9)))}) as server:
        few = ["-n", "1", "--concurrency", "4"]
        assert generate(server, *few) == 2
        assert drawn <= 3 + 4 + 3, "three that fail do not end the run, and four are in flight when it ends"
        told = said()
        assert "openai:gpt-image-2: the files of the answers cannot be fetched from 127.0.0.1:1 (" in told
        assert "; try again later" in told
        assert "secret" not in told
        assert "pass@" not in told
        assert len(records()) == 3
        away, paid = False, drawn
        assert generate(server, *few) == 0
    assert drawn == paid + 13
    assert len(records()) == 16
    assert not records(FAILED)


def test_a_bomb_is_not_decoded() -> None:
    bomb = bytearray(png((1, 2, 3)))
    bomb[16:24] = (60_000).to_bytes(4) * 2
    with pytest.raises(RecordFailed, match=r"it: (60000 × 60000 pixels is too large|cannot be decoded|not a picture)"):
        decoded(bytes(bomb), "it")


def test_a_picture_of_another_size_is_recorded_as_it_is(said: Said) -> None:
    with Server() as server:
        assert generate(server, "--size", "1024x1536", "-n", "1") == 0
    assert [(one["width"], one["height"]) for one in records()] == [(8, 8)] * 2
    assert "warning: --size 1024x1536: openai:gpt-image-2 has drawn 8x8" in said()


def test_a_call_that_gets_no_answer_in_time_is_left_for_the_next_run(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpctl.api.engine.TRIES_TIMED_OUT", 2)
    late = True

    def answer(body: dict[str, Any]) -> Any:
        async def slow(request: web.Request) -> web.StreamResponse:
            await asyncio.sleep(0.4 if late and "star" in body["prompt"] else 0)
            return web.json_response(drawing(body))

        return slow

    with Server(answer=answer) as server:
        assert generate(server, "-n", "1", "--timeout", "0.1") == 3
        assert "1 picture could not be drawn for now; run the same command again" in said()
        assert not records(FAILED)
        late = False
        assert generate(server, "-n", "1") == 0
    assert [one["prompt"] for one in records()] == ["a red circle", "a blue star"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_after_a_kill_no_finished_picture_is_asked_for_again(end: signal.Signals, tmp_path: Path) -> None:
    """Those behind the first picture are drawn and saved while it is waited for, so the kill finds no record."""
    with Server(held=5) as server:
        words = ["generate", "prompts.txt", "-m", "openai:flux", "-n", "4", "--out", str(OUT)]
        env = {**ENVIRONMENT, "OPENAI_BASE_URL": server.url}
        process = subprocess.Popen(vpctl(*words), cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
        until(lambda: len([*Path("images").glob("*/*.png")]) == 5 and server.waiting == 3, process)
        process.send_signal(end)
        if end == signal.SIGINT:
            time.sleep(0.1)
            server.release()
        assert "Traceback" not in rest(process)
        assert process.returncode == (130 if end == signal.SIGINT else -signal.SIGKILL)
        server.release()
        until(lambda: not server.waiting)
        if end == signal.SIGINT:
            assert len(records()) == 8, "what was asked has been waited for"
        assert generate(server, "-n", "4", model="openai:flux") == 0
        times = Counter(entry.fingerprint for entry in server.log)
    assert len(records()) == 8
    assert sum(number - 1 for number in times.values()) == (0 if end == signal.SIGINT else 3)
    assert not [*Path("images").rglob(".*")]


def test_an_interrupt_ends_a_model_on_this_machine_and_a_second_one_ends_the_calls(
    tmp_path: Path, plugin: Plugin
) -> None:
    """The first batch draws until the interrupt has come. What the server still draws then is waited for."""
    plugin(
        "slow",
        "import time\nfrom pathlib import Path\nfrom PIL import Image\n"
        "def draw(prompts, seeds, settings):\n"
        "    Path('begun').touch()\n"
        "    while not Path('go').exists():\n"
        "        time.sleep(0.01)\n"
        "    return [Image.new('RGB', (8, 8), 'red') for _ in prompts]\nreturn draw",
    )
    with Server(held=1) as server:
        words = ["generate", "prompts.txt", "-m", "./slow.py", "-m", "openai:flux", "-n", "40", "--batch", "4"]
        env = {**ENVIRONMENT, "OPENAI_BASE_URL": server.url}
        command = vpctl(*words, "--out", str(OUT), "--concurrency", "4")
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
        until(lambda: Path("begun").exists() and server.waiting, process)
        process.send_signal(signal.SIGINT)
        assert "waiting for running work to finish" in told(process, "interrupted")
        Path("go").touch()
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in rest(process)
        assert process.returncode == 130
    assert len([*Path("images").glob("*/*.png")]) <= 5, "a batch, and what the server has drawn"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--steps 20", "--steps 20: the Images API of openai:flux has no such setting"),
        ("--guidance 7", "--guidance 7: the Images API"),
        ("--negative blur", "--negative: the Images API"),
        ("--adapter lora", "--adapter: a LoRA belongs to weights on this machine"),
        ("--scheduler dpm++", "--scheduler: the generator openai:flux does not have this option"),
        ("--dtype float16", "--dtype: the generator openai:flux does not have this option"),
        ("--offload model", "--offload: the generator"),
        ("--compile", "--compile: the generator"),
        ("--vae-tiling", "--vae-tiling: the generator"),
        ('--extra {"n":2}', "--extra: n cannot be set with --extra"),
        ("--extra 3", "--extra 3: must be a JSON object"),
        ("-m openai:other --max-cost 1", "--max-cost: is for the calls of one model"),
        ("--max-cost 1", "the price of flux is unknown"),
    ],
)
def test_an_option_that_cannot_be_obeyed_is_refused_before_any_call(words: str, reason: str, said: Said) -> None:
    with Server() as server:
        assert generate(server, *words.split(), model="openai:flux") == 2
        assert not server.log
    assert reason in said()


def test_options_of_a_server_belong_to_a_model_on_one(said: Said) -> None:
    assert generate("http://localhost:1/v1", model="shapes") == 2
    assert "--base-url: no --model is on a server; name one, such as openai:gpt-image-2" in said()
    Path("mine.py").write_text('"""Mine."""\n\n\ndef load(argument, *, device):\n    return lambda *_: []\n')
    assert generate("http://localhost:1/v1", model="./mine.py") == 2
    assert "--base-url: no --model is on a server" in said()
    with pytest.raises(UserError, match="--model openai: name the model, as in --model openai:gpt-image-2"):
        check("")


def test_a_missing_key_and_a_wrong_one_end_the_run(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(key="another") as server:
        assert generate(server) == 2
        assert "Incorrect API key provided.; check OPENAI_API_KEY" in said()
    monkeypatch.delenv("OPENAI_API_KEY")
    assert generate("https://api.example.com/v1") == 2
    assert "OPENAI_API_KEY is not set" in said()


def test_models_on_a_server_and_on_this_machine_draw_together(plugin: Plugin) -> None:
    body = "from PIL import Image\nreturn lambda prompts, *_: [Image.new('RGB', (8, 8), 'red') for _ in prompts]"
    plugin("here", body)
    alone = ["generate", "prompts.txt", "-m", "./here.py", "-m", "openai:flux", "--model-weight", "openai:flux=2"]
    with Server() as server:
        more = ["--base-url", server.url]
        assert main([*alone, *more, "-n", "6", "--out", "whole/metadata.jsonl", "--batch", "4"]) == 0
        for part in ("1/2", "2/2"):
            assert main([*alone, *more, "-n", "6", "--out", f"{part[0]}/metadata.jsonl", "--shard", part]) == 0
    whole = records(Path("whole/metadata.jsonl"))
    assert [one["prompt"] for one in whole] == ["a red circle"] * 6 + ["a blue star"] * 6
    assert {one["model"] for one in whole} == {"./here.py", "openai:flux"}
    parts = [one for part in "12" for one in records(Path(part, "metadata.jsonl"))]
    assert {(one["image_id"], one["model"]) for one in parts} == {(one["image_id"], one["model"]) for one in whole}


def test_a_dry_run_names_the_price_and_asks_nothing(said: Said) -> None:
    with Server() as server:
        low = ["--dry-run", "--size", "1024x1024", "--extra", '{"quality": "low"}']
        assert generate(server, *low) == 0
        assert "they will cost about 0.07 USD" in said()
        assert generate(server, "--dry-run", model="openai:flux") == 0
        assert "the price of openai:flux is unknown" in said()
        assert not server.log


def test_all_that_determines_a_picture_is_in_the_fingerprint() -> None:
    made = [
        ImageModel(ServerConfig(base_url="http://localhost:1/v1", **more), model).fingerprint
        for model, more in (
            ("a", {}),
            ("b", {}),
            ("a", {"extra": '{"quality": "low"}'}),
            ("a", {"server_name": "mine"}),
            ("a", {"timeout": 3.0}),
        )
    ]
    assert len({*made}) == 4
    assert made[0] == made[4]


def test_the_estimate_of_a_picture_grows_with_its_size_and_quality() -> None:
    """OpenAI's table for gpt-image-1: 1056 tokens for medium quality of 1024x1024, 1584 for 1024x1536."""
    model = ImageModel(ServerConfig(extra='{"quality": "medium"}'), "gpt-image-2")
    assert model.expected("", Settings())["completion_tokens"] == 1056
    assert model.expected("", Settings(width=1024, height=1536))["completion_tokens"] == 1584
