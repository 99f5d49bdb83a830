"""The loop of all trainings, on an algorithm without a model; and how a command opens its run."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from PIL import Image

from tests.tuning.conftest import Killed, Mortal
from vpctl.contracts import Settings
from vpctl.errors import Interrupted, LimitReached, UserError
from vpctl.models.devices import join_world
from vpctl.tuning.loop import Algorithm, train
from vpctl.tuning.opening import opened
from vpctl.tuning.preview import PREVIEWS, previews
from vpctl.tuning.run import Run, random_state, restore_optimizer, restore_random_state

ALONE = join_world("cpu")
TOTAL = 5


class Descent(Algorithm):
    """Fits three numbers to noise. In the step `interrupted` a signal comes once the state has changed."""

    def __init__(self, unit: str = "step", interrupted: int = 0) -> None:
        self.unit = "round" if unit == "round" else "step"
        self.total = TOTAL
        self.interrupted = interrupted
        self.weights = torch.zeros(3, requires_grad=True)
        self.optimizer = torch.optim.AdamW([self.weights], lr=0.1)
        self.generator = torch.Generator().manual_seed(0)

    def step(self, number: int) -> dict[str, float]:
        loss = (self.weights - torch.randn(3, generator=self.generator) - torch.rand(3)).square().sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if number == self.interrupted:
            os.kill(os.getpid(), signal.SIGINT)
        return {"loss": loss.item()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": self.weights.detach(),
            "optimizer": self.optimizer.state_dict(),
            "random": random_state(self.generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            self.weights.copy_(state["weights"])
        restore_optimizer(self.optimizer, state["optimizer"])
        restore_random_state(state["random"], self.generator)


def nothing(number: int) -> dict[str, float]:
    return {}


def trained(folder: Path, algorithm: Descent, *, save_every: int = 1, last: int = 0) -> torch.Tensor:
    """The weights after a run, which is killed when it has finished `last` steps; 0 is never."""
    torch.manual_seed(3)
    with Mortal(folder, {}, last=last) as run:
        train(algorithm, run, save_every=save_every, evaluate=nothing)
    return algorithm.weights.detach()


def lines(folder: Path) -> list[dict[str, float]]:
    return [orjson.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """Weights and metrics of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    weights = trained(folder, Descent())
    assert [line["step"] for line in lines(folder)] == [1, 2, 3, 4, 5]
    return weights, lines(folder)


Whole = tuple[torch.Tensor, list[dict[str, float]]]


@pytest.mark.parametrize("unit", ["step", "round"])
@pytest.mark.parametrize(("save_every", "last"), [(1, 1), (2, 1), (2, 3), (2, 4), (100, 4), (100, 5)])
def test_a_killed_run_resumes_to_the_same_end(
    tmp_path: Path, whole: Whole, unit: str, save_every: int, last: int
) -> None:
    with pytest.raises(Killed):
        trained(tmp_path, Descent(unit), save_every=save_every, last=last)
    assert torch.equal(trained(tmp_path, Descent(unit), save_every=save_every), whole[0])
    assert lines(tmp_path) == whole[1]


def run_to(folder: Path, total: int, *, ends: bool = True, **options: Any) -> torch.Tensor:
    """The weights after a run of tune-dpo with so many steps, which writes its results if it `ends`."""
    torch.manual_seed(3)
    algorithm = Descent()
    algorithm.total = total
    asked = {"pairs": "p.jsonl", "model": "m", "max_steps": total, **options}
    with opened(str(folder), asked, "cpu") as run:
        assert run
        train(algorithm, run, save_every=100, evaluate=nothing)
        if ends:
            with run.results() as results:
                (results / "weights").write_text(str(total))
    return algorithm.weights.detach()


@pytest.mark.parametrize("ends", [True, False])
def test_a_run_goes_on_when_its_number_of_steps_is_raised(
    tmp_path: Path, whole: Whole, ends: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a kill between the last step and the results, too."""
    run_to(tmp_path, 3, ends=ends)
    assert torch.equal(run_to(tmp_path, TOTAL), whole[0])
    assert "resuming at step 4 of 5" in capsys.readouterr().err
    assert lines(tmp_path) == whole[1]
    assert (tmp_path / "weights").read_text() == "5"
    with pytest.raises(UserError, match="holds a run with max_steps 5, not 4"):
        run_to(tmp_path, 4)
    with pytest.raises(UserError, match="holds a run with seed None, not 1;"):
        run_to(tmp_path, 6, seed=1)
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(
        UserError, match="holds a run with max_steps 5, not 6, and no checkpoint from which it could go"
    ):
        run_to(tmp_path, 6)


def test_a_damaged_checkpoint_is_told_before_a_raised_run_changes_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_to(tmp_path, 3)
    before = (tmp_path / "run.json").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"checkpoint.pt: is damaged, or belongs to another run"):
        run_to(tmp_path, 5)
    assert (tmp_path / "run.json").read_bytes() == before
    with opened(str(tmp_path), {"pairs": "p.jsonl", "model": "m", "max_steps": 3}, "cpu") as run:
        assert run is None
    assert "already holds the finished run" in capsys.readouterr().err


@pytest.mark.parametrize("interrupted", [1, 3, 5])
@pytest.mark.parametrize("unit", ["step", "round"])
def test_an_interrupt_lets_a_step_finish_and_discards_a_round(
    tmp_path: Path, whole: Whole, unit: str, interrupted: int
) -> None:
    kept = interrupted if unit == "step" else interrupted - 1
    said = f"at {unit} {kept} of 5; the checkpoint is in" if kept else "in round 1 of 5; .* to start over"
    with pytest.raises(Interrupted, match=said):
        trained(tmp_path, Descent(unit, interrupted), save_every=100)
    assert len(lines(tmp_path)) == kept
    assert (tmp_path / "checkpoint.pt").exists() == bool(kept)
    assert torch.equal(trained(tmp_path, Descent(unit), save_every=100), whole[0])
    assert lines(tmp_path) == whole[1]


def test_the_state_before_a_round_takes_no_memory_of_the_device(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_small(self: torch.Tensor, memo: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError  # a deep copy is on the device of the tensor

    monkeypatch.setattr(torch.Tensor, "__deepcopy__", too_small)
    with pytest.raises(Interrupted, match="at round 2 of 5"):
        trained(tmp_path, Descent("round", 3), save_every=100)
    assert torch.equal(trained(tmp_path, Descent("round"), save_every=100), whole[0])


def test_an_interrupt_after_a_round_does_not_discard_it(tmp_path: Path) -> None:
    def interrupt(number: int) -> dict[str, float]:
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    with (
        pytest.raises(Interrupted, match="at round 2 of 5; the checkpoint is in"),
        Run(str(tmp_path), {}, ALONE) as run,
    ):
        train(Descent("round"), run, save_every=100, evaluate=interrupt)


@pytest.mark.parametrize("number", [2, TOTAL])
def test_an_error_in_an_evaluation_keeps_the_step_and_the_next_run_evaluates_it(tmp_path: Path, number: int) -> None:
    """As when a judge that watches reaches a limit."""

    def train_to(folder: str, *, limit: int) -> torch.Tensor:
        algorithm = Descent("round")

        def evaluate(step: int) -> dict[str, float]:
            if step == limit:
                raise LimitReached("stopped: --max-requests 3 is reached")
            return {} if step % 2 else {"accuracy": float(algorithm.weights.detach().sum())}

        torch.manual_seed(3)
        with Run(str(tmp_path / folder), {}, ALONE) as run:
            train(algorithm, run, save_every=100, evaluate=evaluate)
        return algorithm.weights.detach()

    for _ in range(2):  # again at once, too
        with pytest.raises(LimitReached):
            train_to("cut", limit=number)
    assert lines(tmp_path / "cut")[-1]["step"] == number
    assert torch.equal(train_to("cut", limit=-1), train_to("whole", limit=-1))
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert (
        torch.load(tmp_path / "cut" / "checkpoint.pt").keys() == torch.load(tmp_path / "whole" / "checkpoint.pt").keys()
    )


def test_an_error_in_a_round_keeps_the_rounds_before_it(tmp_path: Path) -> None:
    class Judged(Descent):
        def step(self, number: int) -> dict[str, float]:
            found = super().step(number)
            if number == 3:
                raise UserError("--reward judge:known: gave 3 of 4 pictures no score")
            return found

    with pytest.raises(UserError, match="no score"):
        trained(tmp_path / "cut", Judged("round"), save_every=100)
    assert [line["step"] for line in lines(tmp_path / "cut")] == [1, 2]
    assert torch.equal(
        trained(tmp_path / "cut", Descent("round"), save_every=100), trained(tmp_path / "whole", Descent("round"))
    )


def test_a_model_is_evaluated_before_the_first_step_and_after_each(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def evaluation(run: Run) -> Callable[[int], dict[str, float]]:
        def evaluate(number: int) -> dict[str, float]:
            seen.append((number, run.step))
            return {} if number % 2 else {"accuracy": 1.0}

        return evaluate

    with pytest.raises(Killed), Mortal(tmp_path, {}, last=2) as cut:
        train(Descent(), cut, save_every=1, evaluate=evaluation(cut))
    assert seen == [(0, 0), (1, 0), (2, 1)], "a step is finished when it has been evaluated"
    with Run(str(tmp_path), {}, ALONE) as run:
        train(Descent(), run, save_every=1, evaluate=evaluation(run))
    assert [number for number, _ in seen[3:]] == [2, 3, 4, 5], "a run that resumes is not evaluated before"
    assert [(line["step"], *line)[::2] for line in lines(tmp_path)] == [
        (0, "accuracy"),
        (1, "loss"),
        (2, "loss"),
        (2, "accuracy"),
        (3, "loss"),
        (4, "loss"),
        (4, "accuracy"),
        (5, "loss"),
    ]


def test_a_checkpoint_that_the_algorithm_refuses_is_damaged(tmp_path: Path) -> None:
    with Run(str(tmp_path), {}, ALONE) as run:
        run.log(1, loss=0.5)
        run.save(1, {**Descent().state_dict(), "weights": torch.zeros(2)})
    with pytest.raises(UserError, match=r"checkpoint\.pt: is damaged, or belongs to another run"):
        trained(tmp_path, Descent())


class Painter:
    """A policy that only draws: one red picture for each prompt, whatever the noise."""

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def draw(self, prompts: list[str], generators: list[torch.Generator], settings: Settings) -> torch.Tensor:
        self.drawn += prompts
        return torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(len(prompts), 3, 8, 8)


@pytest.mark.parametrize(("every", "shown"), [(2, [0, 2, 4]), (5, [0, 5]), (7, [0]), (0, [])])
def test_previews_are_drawn_at_the_start_and_every_few_steps(tmp_path: Path, every: int, shown: list[int]) -> None:
    painter: Any = Painter()
    prompts = [f"prompt\n{number // 2}" for number in range(80)]
    with Run(str(tmp_path), {}, ALONE) as run:
        show = previews(run, painter, iter(prompts), Settings(), every=every, seed=0)
        train(Descent(), run, save_every=1, evaluate=show)
    files = sorted((tmp_path / "previews").glob("*.png"))
    assert [file.name for file in files] == [f"{number:06d}.png" for number in shown]
    assert painter.drawn == [f"prompt\n{number}" for number in range(PREVIEWS)] * len(shown)
    if shown:
        told = (tmp_path / "previews" / "prompts.txt").read_text().splitlines()
        assert told == [f"prompt {number}" for number in range(PREVIEWS)]
    assert all(Image.open(file).getpixel((5, 5)) == (255, 0, 0) for file in files)


def test_a_command_gets_its_run_until_the_run_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    with opened(out, {"beta": 2.0}, "cpu") as run:
        assert run
        with run.results() as folder:
            (folder / "weights").write_text("all of them")
    assert capsys.readouterr().err == ""
    with opened(out, {"beta": 2.0}, "cpu") as run:
        assert run is None
    # As if the other process had ended the run after this one looked.
    monkeypatch.setattr("vpctl.tuning.opening.ended", lambda out, options: False)
    with opened(out, {"beta": 2.0}, "cpu") as run:
        assert run is None
    assert capsys.readouterr().err == f"vpctl: {out} already holds the finished run; nothing to do\n" * 2


def test_the_peak_of_memory_is_told_once_after_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vpctl.models.devices.World.peak_memory", lambda self: "7 GB")
    with pytest.raises(Killed):
        trained(tmp_path, Descent(), last=2)
    assert capsys.readouterr().err.splitlines() == ["vpctl: in step 1, at most 7 GB"]
    trained(tmp_path, Descent())
    assert "vpctl: in step 2, at most 7 GB" in capsys.readouterr().err.splitlines()
