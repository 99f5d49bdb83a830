"""A judge as a reward: what it asks, what it does with faults, and that nothing is paid for twice."""

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from tests.conftest import lines, until
from tests.servers import Server
from vpctl.configs import ServerConfig
from vpctl.errors import LimitReached, UserError
from vpctl.judging.reward import JudgeReward, open_judge

PROMPTS = [f"{number} red circles" for number in range(12)]
Opened = Callable[..., JudgeReward]


def pictures(count: int = 12) -> list[Image.Image]:
    return [Image.new("RGB", (16, 16), (20 * number, 0, 0)) for number in range(count)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Opens a judge on a server. It is closed at the end of the test."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-3f9a71c2d8e4")
    judges: list[JudgeReward] = []

    def open_one(
        server: Server,
        aspects: list[str] | None = None,
        answers: Path | None = None,
        others: list[str] | None = None,
        **limits: Any,
    ) -> Any:
        config = ServerConfig(base_url=server.url, **limits)
        judges.append(open_judge("openai:judge", aspects or [], config, str(answers or ""), others=others or []))
        return judges[-1]

    yield open_one
    for judge in judges:
        judge.close()


def level(body: dict[str, Any]) -> dict[str, Any]:
    """An answer with the levels 1, 2, 3 and 4 on the four aspects."""
    verdict = {"rationale": "It is there."}
    names = ("aesthetic", "fidelity", "harmlessness", "prompt-following")
    found = {name: {"A": {**verdict, "level": str(number)}} for number, name in enumerate(names, 1)}
    return found if '"aesthetic"' in str(body).replace("'", '"') else found["fidelity"]


def test_one_call_asks_about_one_picture_on_all_aspects_and_the_score_is_their_mean(
    opened: Opened, tmp_path: Path
) -> None:
    with Server(answer=level, latency=0.3) as server:
        judge = opened(server, answers=tmp_path / "answers.jsonl")
        assert judge(pictures(), PROMPTS) == [2.5] * 12
        assert len(server.log) == 12
        assert server.peak > 1, "they are asked at the same time"
        assert opened(server, ["fidelity"])(pictures(1), PROMPTS[:1]) == [2.0]
        judge.close()
    kept = lines((tmp_path / "answers.jsonl").read_text())
    assert len(kept) == 48
    assert {(one["mode"], one["annotator"], len(one["scores"])) for one in kept} == {("point", "openai:judge", 1)}


def test_other_work_goes_on_while_it_is_asked(opened: Opened) -> None:
    with Server(held=0, answer=level) as server:
        wait = opened(server).begin(pictures(3), PROMPTS[:3])
        until(lambda: server.waiting)
        assert not server.log
        server.release()
        assert wait() == [2.5] * 3


def test_nothing_that_was_answered_is_asked_again(opened: Opened, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    with Server(faults={"refusal": 0.3}, seed=3) as server:
        first = opened(server, answers=answers)
        scores = first(pictures(), PROMPTS)
        refused = sum(map(math.isnan, scores))
        assert 0 < refused < 12
        assert [*map(repr, first(pictures(), PROMPTS))] == [*map(repr, scores)]
        first.close()
        again = opened(server, answers=answers)
        assert [*map(repr, again(pictures(), PROMPTS))] == [*map(repr, scores)]
        assert again.take_faults()[0] == [refused, 0, 0], "also of an earlier run"
        assert again.take_faults() == ([0, 0, 0], "")
        assert len(server.log) == 12, "a refusal is an answer"
        assert again([Image.new("RGB", (16, 16), "blue")], PROMPTS[:1])
        assert len(server.log) == 13, "another picture is another question"


def test_the_answers_of_other_processes_are_read_and_not_changed(opened: Opened, tmp_path: Path) -> None:
    """As when a run is resumed with fewer processes."""
    other = tmp_path / "other.jsonl"
    with Server(answer=level) as server:
        opened(server, answers=other)(pictures(3), PROMPTS[:3])
        with other.open("ab") as file:
            file.write(b'{"key": "torn')  # as while another process writes
        before = other.read_bytes()
        assert (
            opened(server, answers=tmp_path / "own.jsonl", others=[str(other)])(pictures(4), PROMPTS[:4]) == [2.5] * 4
        )
        assert len(server.log) == 4
    assert other.read_bytes() == before
    assert len(lines((tmp_path / "own.jsonl").read_text())) == 4


def test_equal_pictures_of_a_batch_are_one_question(opened: Opened) -> None:
    with Server(answer=level) as server:
        judge = opened(server)
        assert judge([pictures(1)[0]] * 5, PROMPTS[:1] * 5) == [2.5] * 5
        assert len(server.log) == 1


def test_a_judge_that_was_never_asked_leaves_no_file(opened: Opened, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    with Server() as server:
        judge = opened(server, answers=answers)
        assert answers.exists()
        judge.close()
        assert not answers.exists()
        opened(server, answers=answers)  # which is no longer locked


def test_an_answer_that_cannot_be_used_is_asked_for_once_more_and_counts_until_the_end_of_the_run(
    opened: Opened, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "answers.jsonl"
    with Server(faults={"out_of_range": 1.0}) as server:
        judge = opened(server, answers=answers)
        for _ in range(2):
            assert [*map(math.isnan, judge(pictures(2), PROMPTS[:2]))] == [True, True]
            counts, reason = judge.take_faults()
            assert counts == [0, 2, 0]
            assert reason
        assert len(server.log) == 4
        judge.close()
        assert "; 2 pictures without a score: 0 refused, 2 unusable, 0 calls failed" in capsys.readouterr().err
        opened(server, answers=answers)(pictures(2), PROMPTS[:2])
        assert len(server.log) == 8, "another run may have more luck"


def test_a_call_that_failed_is_made_again_by_the_next_run(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpctl.api.engine.FIRST_WAIT", 0.001)
    monkeypatch.setattr("vpctl.api.engine.TRIES", 3)
    answers = tmp_path / "answers.jsonl"
    failing = threading.Event()

    def answer(body: dict[str, Any]) -> Any:
        broken = web.json_response({"error": {"message": "out of order"}}, status=500)
        return broken if failing.is_set() else level(body)

    with Server(answer=answer) as server:
        judge = opened(server, answers=answers)
        assert judge(pictures(2), PROMPTS[:2]) == [2.5, 2.5]
        failing.set()
        assert [*map(math.isnan, judge(pictures(4)[2:], PROMPTS[2:4]))] == [True, True]
        assert len(server.log) == 2 + 2 * 3
        failing.clear()
        judge.close()
        assert opened(server, answers=answers)(pictures(4), PROMPTS[:4]) == [2.5] * 4
        assert set(server.billed().values()) == {1}


def test_a_bad_key_ends_it_in_one_line(opened: Opened) -> None:
    with Server(key="sk-another") as server, pytest.raises(UserError, match="the server says 401"):
        opened(server)(pictures(), PROMPTS)


def test_a_limit_ends_it_and_what_was_answered_is_kept(opened: Opened, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    with Server() as server:
        judge = opened(server, answers=answers, max_requests=5)
        with pytest.raises(LimitReached, match="--max-requests 5 is reached; run the same command again to continue"):
            judge(pictures(), PROMPTS)
        judge.close()
        assert len(server.log) == 5
        assert len(lines(answers.read_text())) == 20
        assert opened(server, answers=answers)(pictures(), PROMPTS)
        assert set(server.billed().values()) == {1}


def test_closing_waits_for_running_calls_and_begins_none(opened: Opened, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    with Server(held=1, answer=level) as server:
        judge = opened(server, answers=answers, concurrency=3)
        judge.begin(pictures(), PROMPTS)
        until(lambda: len(server.log) == 1 and server.waiting > 0)
        closing = threading.Thread(target=judge.close)
        closing.start()
        server.release()
        closing.join()
        assert 1 < len(server.log) < 12
        assert len(lines(answers.read_text())) == 4 * len(server.log)


def test_the_pixel_judge_gives_the_scores_of_the_reward_shapes() -> None:
    from vpctl.rewards.shapes import load

    judge = open_judge("shapes", [], ServerConfig(), "")
    assert judge(pictures(4), PROMPTS[:4]) == pytest.approx(load("")(pictures(4), PROMPTS[:4]).tolist())
    judge.close()
