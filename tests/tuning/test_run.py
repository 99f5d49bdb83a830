"""The folder of a training run."""

import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import orjson
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vpctl.errors import OutputLocked, UserError
from vpctl.tuning.run import Run, descend, random_state, restore_random_state


def metrics(folder: Path) -> list[dict[str, float]]:
    return [orjson.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]


def test_a_run_that_was_killed_goes_on_from_its_checkpoint_and_forgets_what_came_after(tmp_path: Path) -> None:
    with Run(str(tmp_path), {"beta": 2.0}) as run:
        assert not run.resumes
        for step in range(1, 6):
            run.log(step, loss=step / 10)
            if step == 3:
                run.save(step, {"weights": torch.arange(3)})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step":6,"lo')
    with Run(str(tmp_path), {"beta": 2.0}) as run:
        assert run.step == run.saved == 3
        with run.restoring() as state:
            assert state["weights"].tolist() == [0, 1, 2]
        run.log(4, loss=0.5)
    assert metrics(tmp_path) == [{"step": step, "loss": step / 10} for step in (1, 2, 3)] + [{"step": 4, "loss": 0.5}]


def test_an_ended_run_has_nothing_left_to_do_and_no_checkpoint(tmp_path: Path) -> None:
    with Run(str(tmp_path), {}) as run:
        run.save(1, {})
        with run.results() as folder:
            (folder / "weights").write_text("all of them")
    assert (tmp_path / "weights").read_text() == "all of them"
    assert not (tmp_path / "results.part").exists()
    assert not (tmp_path / "checkpoint.pt").exists()
    with Run(str(tmp_path), {}) as run:
        assert run.ended


def test_whoever_may_read_the_run_may_read_its_weights(tmp_path: Path) -> None:
    with Run(str(tmp_path), {}) as run, run.results() as folder:
        save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
        (folder / "model.safetensors").chmod(0o600)
    modes = {(tmp_path / name).stat().st_mode & 0o777 for name in ("run.json", "model.safetensors")}
    assert len(modes) == 1
    assert modes != {0o600}


@pytest.mark.parametrize(
    ("then", "named"), [({"beta": 3.0}, "beta 2.0, not 3.0"), ({"beta": 2.0, "new": 1}, "new None, not 1")]
)
def test_other_options_in_the_same_folder_are_refused_by_name(
    tmp_path: Path, then: dict[str, object], named: str
) -> None:
    with Run(str(tmp_path), {"beta": 2.0}) as run:
        run.save(1, {})
    with pytest.raises(UserError, match=named):
        Run(str(tmp_path), then)


def test_a_run_that_failed_at_once_binds_nobody(tmp_path: Path) -> None:
    with Run(str(tmp_path), {"beta": 2.0}) as run:
        run.log(1, loss=1.0)
    with Run(str(tmp_path), {"beta": 3.0}) as run:
        assert not run.resumes
        assert not run.ended
    assert metrics(tmp_path) == []
    assert orjson.loads((tmp_path / "run.json").read_bytes())["options"] == {"beta": 3.0}


@pytest.mark.parametrize("name", ["README.md", "run.json"])
def test_a_folder_that_is_no_runs_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=name):
        Run(str(tmp_path), {})
    assert (tmp_path / name).read_text() == "{}"


def test_a_gradient_that_is_no_number_moves_nothing() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    (weight * torch.tensor([1.0, float("nan")])).sum().backward()
    with pytest.raises(UserError, match="step 7: training has diverged"):
        descend(optimizer, [weight], where="step 7")
    assert weight.tolist() == [1.0, 1.0]


def test_what_was_asked_for_is_written_down_with_versions(tmp_path: Path) -> None:
    with Run(str(tmp_path), {"learning_rate": 1e-4}):
        pass
    written = orjson.loads((tmp_path / "run.json").read_bytes())
    assert written["options"] == {"learning_rate": 1e-4}
    assert written["versions"]["torch"] == torch.__version__
    assert written["argv"] == sys.argv


def test_a_folder_in_use_is_refused_and_free_again_when_its_run_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from vpctl.tuning.run import Run\n"
            "run = Run(sys.argv[1], {}); print('held', flush=True); time.sleep(60)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(OutputLocked, match="another run is writing it"):
        Run(str(tmp_path), {})
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with Run(str(tmp_path), {}) as run:
        assert not run.ended


def test_a_folder_that_cannot_be_made_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a directory"):
        Run(str(tmp_path / "file" / "run"), {})


def test_the_checkpoint_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(state: object, file: BinaryIO) -> None:
        file.write(b"half a checkpo")
        raise KeyboardInterrupt

    with Run(str(tmp_path), {}) as run:
        run.save(1, {"value": 1})
        monkeypatch.setattr(torch, "save", half)
        with pytest.raises(KeyboardInterrupt):
            run.save(2, {"value": 2})
    with Run(str(tmp_path), {}) as run:
        assert run.saved == 1
        with run.restoring() as state:
            assert state["value"] == 1
    assert not list(tmp_path.glob("*.part"))


def test_tensorboard_has_the_same_numbers_and_the_previews(tmp_path: Path) -> None:
    with Run(str(tmp_path), {}) as run:
        run.log(1, loss=0.5)
        run.log(2, loss=0.25)
        run.preview(2, Image.new("RGB", (8, 4), "red"))
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(one.step, one.value) for one in board.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert board.Images("preview")[0].step == 2
    assert Image.open(tmp_path / "previews" / "000002.png").getpixel((7, 3)) == (255, 0, 0)


def test_random_state_put_back_gives_the_same_numbers_again() -> None:
    own = torch.Generator().manual_seed(1)
    state = random_state(own)
    first = torch.rand(3), torch.rand(3, generator=own)
    restore_random_state(state, own)
    second = torch.rand(3), torch.rand(3, generator=own)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
