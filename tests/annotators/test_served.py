"""A vision-language model behind transformers' own OpenAI-compatible server, judging from the command line."""

import base64
import io
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pytest_httpserver import HTTPServer

from tests.annotators import vlm
from tests.conftest import HOME, Ended, Run, lines
from tests.surroundings import ENVIRONMENT
from vpctl import plugins
from vpctl.annotators._vision_language import ChatRequest

pytestmark = pytest.mark.skipif(
    not (find_spec("uvicorn") and find_spec("fastapi")), reason="needs a server: pip install 'transformers[serving]'"
)
SAID = json.dumps(
    {
        "A": {"because": "the first", "level": 4},
        "B": {"because": "the second", "level": 2},
        "ranking": ["A", "B"],
    }
)


def annotate(run: Run, folder: Path, pictures: Path, server: str) -> Ended:
    """Run annotate on the pictures with the model in `folder`, which runs behind `server`."""
    spec = f"openai:{folder}"
    return run(
        "annotate",
        pictures / "metadata.jsonl",
        "--annotator",
        spec,
        "--aspect",
        "fidelity",
        env={"OPENAI_BASE_URL": server, "OPENAI_API_KEY": "none", "PYTHONPATH": str(HOME)},
    )


@pytest.fixture
def taught(tmp_path: Path, run: Run, drawn: Path, httpserver: HTTPServer) -> Path:
    """A model that was trained to give the right answer to exactly the requests of this test."""
    folder = vlm.make(tmp_path / "model", context=8192)
    message = {"role": "assistant", "content": SAID}
    httpserver.expect_request("/v1/chat/completions").respond_with_json(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": str(folder),
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    )
    assert annotate(run, folder, drawn, httpserver.url_for("/v1")).code == 0
    sent = [_conversation(request.get_data()) for request, _ in httpserver.log]
    judge = plugins.load("annotator", f"transformers:{folder}", device="cpu")
    vlm.teach(folder, judge, [(asked, SAID) for asked in sent])
    return folder


def _conversation(body: bytes) -> ChatRequest:
    """The body of a request, in the form in which the model behind the server reads it."""
    messages: list[dict[str, Any]] = []
    pictures: list[Image.Image] = []
    for message in json.loads(body)["messages"]:
        content = message["content"]
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "image_url":
                _, _, encoded = part["image_url"]["url"].partition("base64,")
                pictures.append(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
        kept = [part if part["type"] == "text" else {"type": "image"} for part in parts]
        messages.append({"role": message["role"], "content": kept})
    return ChatRequest(messages, pictures, 1)


@pytest.fixture
def server(taught: Path, tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "server.log"
    words = ["-m", "transformers.cli.transformers", "serve", str(taught), "--device", "cpu"]
    with log.open("w") as out:
        served = subprocess.Popen(
            [sys.executable, *words, "--host", "127.0.0.1", "--port", str(port)],
            stdout=out,
            stderr=out,
            env={**ENVIRONMENT, "HF_HUB_OFFLINE": "1"},
        )
    try:
        _wait(served, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        served.terminate()
        served.wait(30)


def _wait(served: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    for _ in range(3000):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert served.poll() is None, log.read_text()
            time.sleep(0.1)
    raise AssertionError(f"the server does not come up: {log.read_text()}")


def test_it_judges_what_it_is_sent_though_it_knows_no_schemas(server: str, taught: Path, drawn: Path, run: Run) -> None:
    ended = annotate(run, taught, drawn, server)
    assert ended.code == 0, ended.err
    judgements = lines(ended.out)
    assert len(judgements) == 3
    for judgement in judgements:
        shown = judgement["order"]
        assert [judgement["scores"][index] for index in shown] == [4.0, 2.0]
        assert [judgement["rationales"][index] for index in shown] == ["the first", "the second"]
        assert judgement["usage"]["prompt_tokens"] > judgement["usage"]["completion_tokens"] > 0
