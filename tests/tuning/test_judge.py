"""Tunings whose reward is a judge on a server: win rates, faults of the server, limits, interrupts and resuming."""

import math
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Run, lines, rest, told, until, vpctl
from tests.servers import Server
from tests.surroundings import ENVIRONMENT
from vpctl.configs import ServerConfig
from vpctl.contracts import Reward
from vpctl.errors import LimitReached, OutputLocked, UserError
from vpctl.judging.reward import JudgeReward
from vpctl.models.devices import World, join_world
from vpctl.plugins import load
from vpctl.records import Judgement
from vpctl.streams.writing import Out
from vpctl.tuning.advantages import win_rates
from vpctl.tuning.asked import judge_options, load_rewards, share_of_limits
from vpctl.tuning.objective import Objective

ALONE = join_world("cpu")
NAN = math.nan
KEY = "sk-test-3f9a71c2d8e4"
TUNE = (
    "tune-ppo prompts.txt -m shapes:small --reward judge:openai:judge --judge-aspect fidelity --epochs 3 --steps 3 "
    "--prompts-per-epoch 2 -n 4 --batch 4 --preview-every 0 --save-every 1"
).split()
"""Three rounds of eight pictures."""


class Known(JudgeReward):
    """A judge that gives each picture the score that its prompt says."""

    def __init__(self) -> None:
        pass

    def begin(self, images: Any, prompts: list[str]) -> Callable[[], list[float]]:
        return lambda: [*map(float, prompts)]

    def take_faults(self) -> tuple[list[int], str]:
        return [2, 0, 1], "I'm sorry"


def objective(**others: Any) -> Objective:
    rewards = {"judge:known": cast(Reward, Known()), **others}
    return Objective(rewards, dict.fromkeys(rewards, 1.0))


def scored(scores: list[float], **others: Any) -> tuple[Objective, torch.Tensor]:
    made = objective(**others)
    return made, made.score(torch.zeros(len(scores), 3, 8, 8), [*map(str, scores)])


def test_a_win_rate_by_hand() -> None:
    scores = torch.tensor([1, 5, 5, 3, 2, 2, 2, 2.0])
    assert win_rates(scores, 4).tolist() == pytest.approx([0, 5 / 6, 5 / 6, 1 / 3, 0.5, 0.5, 0.5, 0.5])
    assert win_rates(100 * scores**3, 4).tolist() == win_rates(scores, 4).tolist(), "only the order counts"


def test_a_picture_without_a_score_is_an_average_one() -> None:
    found = win_rates(torch.tensor([1, NAN, 3, 2, NAN, NAN, NAN, 4, NAN, NAN, NAN, NAN]), 4)
    assert found.tolist() == [0, 0.5, 1, 0.5, *[0.5] * 8]


def test_the_advantages_of_a_judge_are_those_of_win_rates() -> None:
    made, rewards = scored([1, 5, 5, 3, NAN, 2, 3, 4])
    advantages = made.advantages(rewards, 4, 5.0)
    centred = torch.tensor([0, 5 / 6, 5 / 6, 1 / 3, 0.5, 0, 0.5, 1]) - 0.5
    assert advantages.tolist() == pytest.approx((centred / centred.square().mean().sqrt()).tolist(), abs=1e-4)
    assert advantages[4] == 0
    found = made.metrics(rewards, 4)
    assert found["unscored"] == 1 / 8
    assert found["reward"] == pytest.approx(23 / 7), "the mean of the scores"
    made.check_scored(rewards, "in round 1", ALONE)


def test_a_picture_without_a_score_changes_neither_the_equal_groups_nor_the_std() -> None:
    """Its prompt has other scores than the round."""
    made, rewards = scored([0.1, 0.1, 0.1, NAN, 9, 9, 9, 9])
    found = made.metrics(rewards, 4)
    assert (found["reward_std"], found["equal_groups"]) == (0, 1)
    made, rewards = scored([NAN, NAN, 1, 3])
    assert made.metrics(rewards, 2)["equal_groups"] == 0.5


def test_beside_another_reward_a_picture_without_a_score_has_only_that_ones_advantage() -> None:
    made, rewards = scored([1, NAN, 3, 2], brightness=lambda images, prompts: [0.0, 9.0, 0.0, 0.0])
    advantages = made.advantages(rewards, 4, 5.0)
    assert advantages[1] > 1
    assert made.names == ["judge:known", "brightness"]


def test_too_few_scores_end_the_training() -> None:
    made, rewards = scored([NAN, 1, NAN, NAN])
    with pytest.raises(
        UserError,
        match="judge:known: gave 3 of 4 pictures no score, in round 7: 2 refused, 0 unusable, 1 calls failed; the "
        "first: I'm sorry; take another judge, or run the same command again",
    ):
        made.check_scored(rewards, "in round 7", ALONE)


class Two(World):
    """One of two processes. `other` is what the other one says in the next gathering."""

    other: torch.Tensor

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack([values, self.__dict__.pop("other", torch.zeros_like(values))])


class Heard(World):
    """What a process says to the others."""

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        self.__dict__["said"] = values
        return values[None]


@pytest.mark.parametrize("kind", [LimitReached, UserError])
def test_an_error_of_one_process_ends_all_of_them(kind: type[UserError]) -> None:
    failing = Heard(torch.device("cpu"), 1, 2)
    with pytest.raises(kind, match="too much ½"), failing.failing_together():
        raise kind("too much ½" + "…" * 1000)
    other = Two(torch.device("cpu"), 0, 2)
    other.__dict__["other"] = failing.__dict__["said"]
    with pytest.raises(kind, match="too much ½…") as raised, other.failing_together():
        pass
    assert type(raised.value) is kind
    with other.failing_together():
        pass


@pytest.mark.parametrize("sharded", [False, True])
def test_with_divided_weights_an_error_waits_for_the_last_prediction(*, sharded: bool) -> None:
    """A process that predicts no more would let the others wait forever."""
    world, predicted = World(torch.device("cpu"), 0, 1, sharded=sharded), []

    def predict() -> None:
        with world.failing_together() as deferred:
            for number in range(4):
                predicted.append(number)
                with deferred():
                    if number:
                        raise UserError(f"picture {number}")

    with pytest.raises(UserError, match="picture 1"):
        predict()
    assert predicted == ([0, 1, 2, 3] if sharded else [0, 1])


def test_the_limits_are_divided_among_judges_and_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two = ["judge:openai:a", "judge:openai:b", "judge:shapes", "shapes"]
    given = ServerConfig(max_cost=20.0, max_requests=9, rpm=60.0)
    assert share_of_limits(two[1:], given) is given
    monkeypatch.setenv("WORLD_SIZE", "4")
    found = share_of_limits(two, given)
    assert (found.max_cost, found.max_requests, found.rpm, found.tpm, found.concurrency) == (2.5, 1, 7.5, None, 8)
    assert "each judge in each process has --max-cost 2.5 --max-requests 1 --rpm 7.5" in capsys.readouterr().err
    with pytest.raises(
        UserError, match="--max-requests 7: is divided by the 8 judges of all processes; name at least 8"
    ):
        share_of_limits(two, ServerConfig(max_requests=7))


def test_what_the_answers_depend_on_is_an_option_of_the_run() -> None:
    def options(**given: Any) -> dict[str, Any]:
        return judge_options(["judge:openai:gpt-4o"], [], ServerConfig(**given))

    for given in ({"base_url": "http://other/v1"}, {"max_tokens": 9}, {"temperature": 0.5}, {"extra": "{}"}):
        assert options(**given) != options()
    assert options(base_url="http://me:secret@other/v1")["base_url"] == "http://other/v1"


def test_a_judge_reads_the_answers_of_all_processes_of_its_run(tmp_path: Path) -> None:
    """A run of three processes is resumed with one."""
    colour = torch.zeros(1, 3, 8, 8)
    for rank in (2, 0):
        rewards = load_rewards(["judge:shapes"], tmp_path, [], ServerConfig(), rank=rank, device="cpu")
        judge = cast(JudgeReward, rewards["judge:shapes"])
        judge(colour, ["a red circle"])
        judge.close()
    assert [path.name[-8:] for path in tmp_path.iterdir()] == ["-2.jsonl"], "the second one had nothing to ask"


def test_answers_that_another_run_writes_are_told_with_its_exit_code(tmp_path: Path) -> None:
    answers = str(tmp_path / "answers.jsonl")
    with (
        Out(answers, Judgement, lambda one: one["key"]),
        pytest.raises(OutputLocked, match="another run is writing it"),
    ):
        load("reward", "judge:shapes", answers=answers)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\ntwo green stars\n")
    return tmp_path


def environment(server: Server) -> dict[str, str]:
    return {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "pytorch_lora_weights.safetensors")


def test_stopped_at_a_limit_and_resumed_it_is_as_if_it_had_not_been_and_pays_for_nothing_twice(
    forked: Run, prompts: Path
) -> None:
    """The server has faults, too. Its answers depend on the question alone."""
    faults = {"refusal": 0.06, "out_of_range": 0.1, "429": 0.1, "cut_body": 0.05}
    with Server(key=KEY, faults=faults, seed=2, limit_headers={"Retry-After": "0"}) as server:
        whole = forked(*TUNE, "--out", "whole", env=environment(server))
        assert whole.code == 0, whole.err
        port = server.port
    metrics = lines((prompts / "whole" / "metrics.jsonl").read_text())
    assert 0 < sum(one["unscored"] for one in metrics) < 0.6
    with Server(key=KEY, faults=faults, seed=2, limit_headers={"Retry-After": "0"}, port=port) as server:
        first = forked(*TUNE, "--max-requests", "14", "--out", "cut", env=environment(server))
        assert first.code == 5, first.err
        assert first.err.splitlines()[-1] == (
            "vpctl tune-ppo: stopped: --max-requests 14 is reached; run the same command again to continue"
        )
        ended = forked(*TUNE, "--out", "cut", env=environment(server))
        assert ended.code == 0, ended.err
        assert "resuming at round 2 of 3" in ended.err
        answered = [one for one in server.log if one.billed and one.fault not in ("out_of_range", "cut_body")]
        assert len({one.fingerprint for one in answered}) == len(answered)
    assert all(torch.equal(one, weights(prompts / "cut")[name]) for name, one in weights(prompts / "whole").items())
    assert (prompts / "cut" / "metrics.jsonl").read_bytes() == (prompts / "whole" / "metrics.jsonl").read_bytes()


def test_an_interrupt_waits_for_the_running_calls_and_the_next_run_uses_their_answers(
    forked: Run, prompts: Path
) -> None:
    with Server(key=KEY, held=10) as server:  # the first round and two pictures of the second
        command = vpctl(*TUNE, "--out", "cut")
        process = subprocess.Popen(
            command, cwd=prompts, env={**ENVIRONMENT, **environment(server)}, stderr=subprocess.PIPE, text=True
        )
        until(lambda: len(server.log) == 10 and server.waiting, process)
        process.send_signal(signal.SIGINT)
        said = told(process, "waiting for its running calls")
        server.release()
        said += rest(process)
        assert process.returncode == 130, said
        assert "interrupted at round 1 of 3; the checkpoint is in cut/; run the same command again to resume" in said
        assert "Traceback" not in said
        asked = len(server.log)
        done = forked(*TUNE, "--out", "cut", env=environment(server))
        assert done.code == 0, done.err
        assert 10 < asked < len(server.log)
        assert set(server.billed().values()) == {1}


def test_a_limit_of_a_judge_that_watches_keeps_the_rounds_before_it(forked: Run, prompts: Path) -> None:
    held_out = '{"prompt":"a red circle"}\n{"prompt":"a blue square","split":"validation"}\n'
    (prompts / "prompts.jsonl").write_text(held_out)
    words = [*TUNE, "--save-every", "100", "--watch", "judge:openai:judge", "--watch-every", "1", "-n", "2"]
    words[1], words[words.index("--reward") + 1] = "prompts.jsonl", "shapes"
    with Server(key=KEY) as server:
        cut = forked(*words, "--out", "cut", "--max-requests", "2", env=environment(server))
        assert cut.code == 5, cut.err
        assert "resuming" not in cut.err
        ended = forked(*words, "--out", "cut", env=environment(server))
        assert ended.code == 0, ended.err
        assert "resuming at round 3 of 3" in ended.err
        whole = forked(*words, "--out", "whole", env=environment(server))
        assert whole.code == 0, whole.err
    assert (prompts / "cut" / "metrics.jsonl").read_bytes() == (prompts / "whole" / "metrics.jsonl").read_bytes()
    assert all(torch.equal(one, weights(prompts / "cut")[name]) for name, one in weights(prompts / "whole").items())


def test_a_judge_that_judges_nothing_ends_the_training_in_one_line(forked: Run, prompts: Path) -> None:
    with Server(key=KEY, faults={"refusal": 1.0}) as server:
        ended = forked(*TUNE, "--out", "run", env=environment(server))
    assert ended.code == 2
    assert "judge:openai:judge: gave 8 of 8 pictures no score, in round 1: 8 refused, 0 unusable, 0 calls" in ended.err
    assert "; the first: " in ended.err
    assert "Traceback" not in ended.err


def test_d3po_prefers_by_a_judge_and_a_judge_watches(forked: Run, prompts: Path) -> None:
    words = "tune-dpo prompts.txt --algorithm d3po -m shapes:small --reward judge:shapes --max-steps 2 --steps 3"
    ended = forked(*words.split(), *"--guidance 1 --batch 2 --accumulate 1 --preview-every 0 --out d3po".split())
    assert ended.code == 0, ended.err
    assert "unscored" in lines((prompts / "d3po" / "metrics.jsonl").read_text())[0]
    (prompts / "watched.jsonl").write_text(
        '{"prompt":"a red circle"}\n{"prompt":"a blue square","split":"validation"}\n'
    )
    words = "tune-ppo watched.jsonl --algorithm nft -m shapes:small --watch judge:shapes --epochs 1 -n 2 --steps 3"
    ended = forked(*words.split(), "--preview-every", "0", "--out", "watched")
    assert ended.code == 0, ended.err
    first = lines((prompts / "watched" / "metrics.jsonl").read_text())[0]
    assert first["watched:judge:shapes"] == pytest.approx(first["watched:shapes"])
