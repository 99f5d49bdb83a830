"""The annotator that asks a server: from the picture file to the request."""

import asyncio
import base64
import io
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from aiohttp import web
from PIL import Image

from tests.conftest import draw
from tests.servers import JSON, PICTURE_TOKENS, Server, Tokens, completion, instance, schema_of
from vpctl import flow, plugins, progress
from vpctl.annotators import openai
from vpctl.api.pictures import Encoder
from vpctl.configs import PictureConfig, ScoringConfig, ServerConfig
from vpctl.contracts import Kind, Question, Verdicts
from vpctl.errors import UserError
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


def judged(
    server: Server,
    folder: Path,
    plan: Plan,
    *,
    prompts: int = 3,
    each: int = 3,
    scoring: ScoringConfig = ScoringConfig(),  # noqa: B008 -- it is frozen
    **how: Any,
) -> list[Judgement]:
    images = draw(folder, prompts=prompts, each=each)
    for image in images:
        image["file_name"] = str(folder / image["file_name"])
    config = ServerConfig(base_url=server.url, **how)
    annotator = openai.load("gpt-4o", server=config, scoring=scoring, folder=str(folder))
    out = str(folder / "judgements.jsonl")
    with OutputLedger(out) as ledger:
        context = judging.judging_context(annotator, "openai:gpt-4o", Pictures([str(folder)]), ledger)
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


def test_a_judgement_tells_how_it_was_asked_for_whatever_it_is(tmp_path: Path) -> None:
    """A model may be changed behind its name, and a server may not know all that was asked."""
    questions: dict[str, int] = {}
    unlike = {1: "I'm sorry, I can't assist with that.", 2: "I like it."}

    def answer(body: JSON) -> Any:
        if "temperature" in body:
            return web.json_response({"error": {"message": "temperature is not supported"}}, status=400)
        question = str(body["messages"][1]["content"])
        questions.setdefault(question, len(questions))
        schema = schema_of(body)
        assert schema is not None
        text = unlike.get(questions[question]) or instance(schema, Random(0))
        whole = orjson.loads(completion(text, "", body).body)
        return web.json_response(whole | {"model": "gpt-4o-2024-11-20"})

    prompting = (plugins.aspect("prompt-following"),)
    before = datetime.now(UTC).replace(microsecond=0)
    with Server(answer=answer) as server:
        done = judged(server, tmp_path, Plan(prompting), prompts=4, each=1)
        base = {"server": server.url, "model": "gpt-4o-2024-11-20"}
        base |= {"format": "json_schema", "without": "a temperature"}
    kinds = {next(key for key in ("refused", "failed", "rationales") if key in one): one["asked"] for one in done}
    assert kinds.keys() == {"refused", "failed", "rationales"}
    for kind, asked in kinds.items():
        assert before <= datetime.fromisoformat(asked["time"]) <= datetime.now(UTC)
        assert asked == base | {"time": asked["time"]}, kind


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
    context = judging.judging_context(judge, "openai:gpt-4o", Pictures([]), None)  # type: ignore[arg-type]
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


def test_calls_about_one_prompt_have_one_cache_key_where_the_host_takes_one() -> None:
    def key(url: str, prompt: str, aspect: int = 0) -> object:
        judge = openai.load("gpt-4o", server=ServerConfig(base_url=url))
        picture = judge.prepare(Image.new("RGB", (8, 8)), "")
        question = Question(prompt, [picture], ASPECTS[aspect : aspect + 1])
        return orjson.loads(judge.model.body(judge.request(question))).get("prompt_cache_key")

    own = "https://api.openai.com/v1"
    assert key(own, "a cat") == key(own, "a cat", 1) == key("https://api.mistral.ai/v1", "a cat")
    assert key(own, "a cat") != key(own, "a dog")
    assert key("http://localhost:8000/v1", "a cat") is key("https://api.openai.com.example/v1", "a cat") is None


POINT = Plan(ASPECTS[:1], "point")


def says(level: str, **among: float) -> Tokens:
    """An answer about one picture, with the probabilities of levels."""
    places = among and {name.removeprefix("level"): p for name, p in among.items()}
    return Tokens(({'{"A":{"because":"It does.","level":"': 1.0}, places or {level: 1.0}, {'"}}': 1.0}))


def test_expected_levels_are_recorded_where_the_server_gives_probabilities(tmp_path: Path) -> None:
    asked: list[JSON] = []

    def hesitant(body: JSON) -> Tokens:
        asked.append(body)
        return says("3", level3=0.5, level4=0.25, level5=0.25)

    with Server(answer=hesitant) as server:
        (one,) = judged(server, tmp_path, POINT, prompts=1, each=1, scoring=ScoringConfig(logprobs=True))
        (plain,) = judged(server, tmp_path / "plain", POINT, prompts=1, each=1)
    assert one["scores"] == [3 * 0.5 + 4 * 0.25 + 5 * 0.25]
    assert plain["scores"] == [3.0]
    assert [(body.get("logprobs"), body.get("top_logprobs")) for body in asked] == [(True, 5), (None, None)]
    assert one["key"] != plain["key"]


@pytest.mark.parametrize("how", [{"refuses_parameters": ["logprobs"]}, {"answer": lambda body: says("3").text}])
def test_a_server_without_probabilities_gives_levels_and_the_summary_says_so(
    how: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge: Any = None
    load = openai.load

    def kept(*args: Any, **more: Any) -> Any:
        nonlocal judge
        judge = load(*args, **more)
        return judge

    with Server(**{"answer": lambda body: says("3"), **how}) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai, "load", kept)
        (one,) = judged(server, tmp_path, POINT, prompts=1, each=1, scoring=ScoringConfig(logprobs=True))
    assert one["scores"] == [3.0]
    assert judge.summary().endswith("; 1 answer without probabilities of levels: their levels are recorded")


@pytest.mark.parametrize(
    ("how", "requests"), [({}, 1), ({"single": True}, 3), ({"refuses_parameters": ["n"]}, 4)], ids=["n", "one", "no"]
)
def test_the_score_is_the_mean_of_all_samples(how: Any, requests: int, tmp_path: Path) -> None:
    levels = iter("455" * 2)

    def answer(body: JSON) -> Tokens:
        level = next(levels)
        return Tokens(({f'{{"A":{{"because":"I say {level}.","level":"{level}"}}}}': 1.0},))

    with Server(answer=answer, **how) as server:
        scoring = ScoringConfig(samples=3)
        (one,) = judged(server, tmp_path, POINT, prompts=1, each=1, scoring=scoring, temperature=0.7)
        assert len(server.log) == requests
        keys = [entry.headers["Idempotency-Key"] for entry in server.log if entry.billed]
    assert one["scores"] == [pytest.approx(14 / 3, abs=1e-4)]
    assert one["rationales"] == ["I say 5."], "of the sample that is nearest to the mean"
    assert one["usage"].get("calls", 1) == (1 if requests == 1 else 3)
    assert len(set(keys)) == len(keys), "a server must not take one sample for another"


def test_samples_that_cannot_be_used_are_left_out_and_none_is_bought_again(tmp_path: Path) -> None:
    answers = iter(["I'm sorry, I can't assist with that.", "nothing", says("4"), says("2")])
    with Server(answer=lambda body: next(answers)) as server:
        scoring = ScoringConfig(samples=4)
        (one,) = judged(server, tmp_path, POINT, prompts=1, each=1, scoring=scoring, temperature=0.7)
        assert len(server.log) == 1
    assert one["scores"] == [3.0]


def test_a_call_whose_samples_all_refuse_is_refused(tmp_path: Path) -> None:
    with Server(answer=lambda body: "I'm sorry, I can't assist with that.") as server:
        scoring = ScoringConfig(samples=2)
        (one,) = judged(server, tmp_path, POINT, prompts=1, each=1, scoring=scoring, temperature=0.7)
    assert one["refused"] == "I'm sorry, I can't assist with that."


def test_in_a_comparison_the_samples_vote() -> None:
    kind = Kind(ASPECTS[:1], "pair", 2)
    first, second, tie = ([Verdicts(scores, ["x", "y"], {})] for scores in ([5.0, 1.0], [1.0, 5.0], [3.0, 3.0]))
    assert openai.mean_of(kind, [first, first, second])[0].scores == [5.0, 1.0]
    assert openai.mean_of(kind, [first, second])[0].scores == [3.0, 3.0]
    assert openai.mean_of(kind, [tie, second, tie])[0].scores == [1.0, 5.0]


def test_the_ranking_of_samples_agrees_with_their_mean_or_is_left_out() -> None:
    kind = Kind(ASPECTS[:1], "list", 2)
    samples = [
        [Verdicts([4.0, 4.0], ["a", "b"], {}, [1, 0])],
        [Verdicts([4.0, 3.0], ["c", "d"], {}, [0, 1])],
        [Verdicts([4.0, 4.0], ["e", "f"], {}, [1, 0])],
    ]
    (found,) = openai.mean_of(kind, samples)
    assert (found.scores, found.rationales, list(found.ranking)) == ([4.0, 3.6667], ["a", "b"], [])


def test_samples_at_temperature_0_are_refused() -> None:
    with pytest.raises(UserError, match="--samples 3: all samples are the same at --temperature 0"):
        openai.load("m", server=ServerConfig(base_url="http://here/v1"), scoring=ScoringConfig(samples=3))


def test_samples_are_in_the_estimate() -> None:
    server = ServerConfig(base_url="http://here/v1", temperature=1.0)
    one, five = (openai.load("gpt-4o", server=server, scoring=ScoringConfig(samples=n)) for n in (1, 5))
    kind = Kind(ASPECTS[:1], "list", 4)
    single, several = (judge.estimate(kind, "x", [(8, 8)] * 4) for judge in (one, five))
    assert (several.prompt, several.answer, several.longest) == (single.prompt, 5 * single.answer, 5 * single.longest)


def test_a_batch_has_the_samples_and_the_probabilities_in_its_requests() -> None:
    server = ServerConfig(base_url="http://here/v1", temperature=1.0)
    judge = openai.load("gpt-4o", server=server, scoring=ScoringConfig(samples=2, logprobs=True))
    picture = judge.prepare(Image.new("RGB", (8, 8)), "")
    body = orjson.loads(judge.model.body(judge.request(Question("x", [picture], ASPECTS[:1], "point"))))
    assert (body["n"], body["logprobs"], body["top_logprobs"]) == (2, True, 5)
    pair = orjson.loads(judge.model.body(judge.request(Question("x", [picture] * 2, ASPECTS[:1], "pair"))))
    assert "logprobs" not in pair
    choices = orjson.loads(completion(says("3", level3=0.5, level4=0.5), "", body, says("1")).body)
    (found,) = judge.read(Kind(ASPECTS[:1], "point", 1), choices, {})
    assert found.scores == [(3.5 + 1) / 2]


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
        ({"extra": '{"seed": 1}'}, {}),
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
