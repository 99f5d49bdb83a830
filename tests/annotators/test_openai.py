"""The annotator that asks a server: from the picture file to the request."""

import asyncio
import base64
import io
from collections.abc import Coroutine
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from PIL import Image

from tests.conftest import draw
from tests.servers import JSON, PICTURE_TOKENS, Server, instance, schema_of
from vpctl import flow, plugins, progress
from vpctl.annotators import openai
from vpctl.api.pictures import Encoder
from vpctl.configs import PictureConfig, ServerConfig
from vpctl.contracts import Kind, Question, Verdicts
from vpctl.flow import StopSignal
from vpctl.images.pictures import Pictures
from vpctl.judging import run as judging
from vpctl.judging.ledger import OutputLedger
from vpctl.judging.plan import Group, Plan, group_by_prompt, plan_calls
from vpctl.judging.run import Tally
from vpctl.records import Judgement
from vpctl.streams.reading import read

ASPECTS = tuple(plugins.aspect(name) for name in ("fidelity", "aesthetic"))


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")


def judged(server: Server, folder: Path, plan: Plan, *, prompts: int = 3, **how: Any) -> list[Judgement]:
    images = draw(folder, prompts=prompts, each=3)
    for image in images:
        image["file_name"] = str(folder / image["file_name"])
    annotator = openai.load("gpt-4o", server=ServerConfig(base_url=server.url, **how), folder=str(folder))
    out = str(folder / "judgements.jsonl")
    with OutputLedger(out) as ledger:
        context = judging.judging_context(annotator, "openai:gpt-4o", Pictures([str(folder)]).open, ledger)
        counter = progress.Counter("judgements", None)

        def work(stop_signal: StopSignal) -> Coroutine[Any, Any, None]:
            groups = group_by_prompt(iter(images), str)
            return judging.judge(
                groups, plan, context, at_once=8, stop_signal=stop_signal, tally=Tally(), counter=counter
            )

        flow.run(work)
    return list(read(out, Judgement))


def test_a_judgement_has_all_pictures_in_their_order_and_a_picture_is_encoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[JSON] = []
    encoded: list[str] = []
    encode = Encoder.__call__

    def counted(self: Encoder, picture: Image.Image, path: str) -> Any:
        encoded.append(path)
        return encode(self, picture, path)

    monkeypatch.setattr(Encoder, "__call__", counted)

    def answer(body: JSON) -> Any:
        seen.append(body)
        schema = schema_of(body)
        assert schema is not None
        return instance(schema, Random(len(seen)))

    with Server(answer=answer) as server:
        done = judged(server, tmp_path, Plan(ASPECTS, passes=2))
    assert len(done) == len(seen) == 3 * 2 * 2
    assert len(encoded) == len(set(encoded)) == 9, "once, for both aspects and passes"
    for record in done:
        assert sorted(record["order"]) == [0, 1, 2]
        assert record["template"].startswith("list@")
        assert record["usage"]["cost"] > 0
        ranked = [record["scores"][place] for place in record["ranking"]]
        assert ranked == sorted(ranked, reverse=True)
        shown = [str(tmp_path / Path(record["file_names"][place]).name) for place in record["order"]]
        asked = [body for body in seen if pixels(body) == [opened(path) for path in shown]]
        assert len(asked) >= 1, "the order that is written down is the one that was shown"


def pixels(body: JSON) -> list[bytes]:
    urls = [part["image_url"]["url"] for part in body["messages"][1]["content"] if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).tobytes() for url in urls]


def opened(path: str) -> bytes:
    return Image.open(path).convert("RGB").tobytes()


def requests(aspects: tuple[str, ...], **how: Any) -> list[bytes]:
    """The bodies of the requests about one prompt's four pictures, in the order in which they are sent."""
    judge = openai.load("gpt-4o", server=ServerConfig(base_url="http://here/v1"))
    pictures = [judge.prepare(Image.new("RGB", (64, 64), (60 * number, 0, 0)), "") for number in range(4)]
    images: list[Any] = [
        {"prompt": "two cats on a red sofa", "prompt_id": "p", "image_id": str(number), "file_name": f"{number}.png"}
        for number in range(4)
    ]
    context = judging.judging_context(judge, "openai:gpt-4o", lambda _: Image.new("RGB", (1, 1)), None)  # type: ignore[arg-type]
    plan = Plan(tuple(map(plugins.aspect, aspects)), **how)
    bodies = []
    for call in plan_calls(Group(images, ["x"] * 4), plan, context):
        question = Question(images[0]["prompt"], [pictures[place] for place in call.shown], *call.kind[:2])
        bodies.append(judge.model.body(judge.request(question)))
    return bodies


@pytest.mark.parametrize("mode", ["list", "point", "pair"])
def test_the_requests_about_the_same_pictures_differ_only_in_the_aspect(mode: str) -> None:
    bodies = requests(tuple(plugins.aspects()), mode=mode)
    assert len(bodies) == 4 * {"list": 1, "point": 4, "pair": 12}[mode]
    for first in range(0, len(bodies), 4):
        same = bodies[first : first + 4]
        columns = zip(*same, strict=False)
        shared = same[0][: next(place for place, column in enumerate(columns) if len({*column}) > 1)]
        assert shared.count(b"data:image/") == same[0].count(b"data:image/") > 0, "all pictures"
        for body, name in zip(same, plugins.aspects(), strict=True):
            aspect = plugins.aspect(name)
            prompt = len('The prompt, as JSON: {"prompt": "two cats on a red sofa"}') if aspect.with_prompt else 0
            rubric = len(orjson.dumps(f"{aspect.title} {aspect.name} {aspect.rubric}"))
            assert len(body) - len(shared) < rubric + prompt + 800, "the rubric, the prompt, and what to do"
    assert bodies[0] != bodies[1]


def test_a_server_that_keeps_prefixes_reads_the_pictures_once_for_all_aspects(tmp_path: Path) -> None:
    every = tuple(map(plugins.aspect, plugins.aspects()))
    with Server(caches=True) as server:
        done = judged(server, tmp_path, Plan(every, passes=2), prompts=3)
    cached = [entry.cached for entry in server.log]
    assert len(done) == len(cached) == 3 * 4 * 2
    read_once = 3 * 2  # each prompt in each of two orders
    assert sum(tokens >= 3 * PICTURE_TOKENS for tokens in cached) == len(cached) - read_once
    assert sum(one["usage"].get("cached_tokens", 0) for one in done) == sum(cached)


def test_calls_wait_for_the_first_until_a_server_has_shown_that_it_keeps_no_prefixes() -> None:
    judge = openai.load("gpt-4o", server=ServerConfig(base_url="http://here/v1"))
    budget = judge.model.engine.budget
    assert judge.first_alone()
    budget.calls = openai.TRIAL
    assert not judge.first_alone()
    budget.usage["cached_tokens"] = 1
    assert judge.first_alone()


def test_all_aspects_share_what_their_call_took(tmp_path: Path) -> None:
    with Server() as server:
        done = judged(server, tmp_path, Plan(ASPECTS, all_aspects=True), prompts=1)
        (entry,) = server.log
    assert [record["aspect"] for record in done] == ["fidelity", "aesthetic"]
    used = sum(record["usage"]["prompt_tokens"] + record["usage"]["completion_tokens"] for record in done)
    assert used == pytest.approx(entry.tokens)


@pytest.mark.parametrize(
    ("server", "pictures"),
    [
        ({"base_url": "http://elsewhere/v1"}, {}),
        ({"temperature": 0.5}, {}),
        ({"max_tokens": 99}, {}),
        ({"extra": '{"seed": 1}'}, {}),
        ({}, {"max_side": 99}),
        ({}, {"detail": "low"}),
    ],
)
def test_the_identity_has_all_that_could_change_an_answer(server: JSON, pictures: JSON) -> None:
    def identity(model: str, server: JSON, pictures: JSON) -> bytes:
        config = ServerConfig(**{"base_url": "http://here/v1", **server})
        return orjson.dumps(openai.load(model, server=config, pictures=PictureConfig(**pictures)).identity)

    usual = identity("m", {}, {})
    assert identity("m", server, pictures) != usual != identity("n", {}, {})
    unimportant = {"concurrency": 3, "rpm": 9.0, "max_requests": 4, "timeout": 7.0, "base_url": "http://me:pw@here/v1/"}
    assert identity("m", unimportant, {}) == usual


def test_what_an_estimate_says_is_about_what_is_sent() -> None:
    judge = openai.load("gpt-4o", server=ServerConfig(base_url="http://here/v1"))
    kind = Kind(ASPECTS[:1], "list", 4)
    estimate = judge.estimate(kind, "a red circle", [(512, 512)] * 4)
    assert 4 * 255 < estimate.prompt < 4 * 255 + 1500
    assert (estimate.answer, estimate.longest) == (4 * openai.TOKENS_PER_RATIONALE, 4096)
    assert judge.estimate(kind, "a red circle", [(1024, 1024)] * 4).prompt - estimate.prompt == 4 * (765 - 255)


def test_what_a_call_used_is_shared() -> None:
    found = openai.split_usage([Verdicts([1.0], ["x"], {})] * 4, {"prompt_tokens": 10.0, "calls": 2})
    assert [one.usage for one in found] == [{"prompt_tokens": 2.5, "calls": 0.5}] * 4


def test_an_answer_that_came_another_way_is_read_the_same_way() -> None:
    judge = openai.load("gpt-4o", server=ServerConfig(base_url="http://here/v1"))
    body = {"choices": [{"message": {"content": '{"A": {"because": "x", "level": "4 Sound"}}'}}]}
    (found,) = judge.read(Kind(ASPECTS[:1], "point", 1), body, {"prompt_tokens": 3.0})
    assert (found.scores, found.usage) == ([4.0], {"prompt_tokens": 3.0})
    assert asyncio.iscoroutinefunction(judge.ask)
