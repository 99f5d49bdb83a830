"""The folder of a training run."""

import contextlib
import io
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import orjson
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vpctl.errors import Interrupted, OutputLocked, UserError
from vpctl.models.devices import World, join_world
from vpctl.tuning.folder import check, ended, without_secrets
from vpctl.tuning.run import Run, optimizer_step, random_state, restore_random_state

ALONE = join_world("cpu")


def metrics(folder: Path) -> list[dict[str, float]]:
    return [orjson.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]


def test_a_run_that_was_killed_goes_on_from_its_checkpoint_and_forgets_what_came_after(tmp_path: Path) -> None:
    with Run(str(tmp_path), {"beta": 2.0}, ALONE) as run:
        assert not run.resumes
        for step in range(1, 6):
            run.log(step, loss=step / 10)
            if step == 3:
                run.save(step, {"weights": torch.arange(3)})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step":6,"lo')
    with Run(str(tmp_path), {"beta": 2.0}, ALONE) as run:
        assert run.step == run.saved == 3
        with run.restoring() as state:
            assert state["weights"].tolist() == [0, 1, 2]
        run.log(4, loss=0.5)
    assert metrics(tmp_path) == [{"step": step, "loss": step / 10} for step in (1, 2, 3)] + [{"step": 4, "loss": 0.5}]


def test_an_ended_run_has_nothing_left_to_do_and_no_checkpoint(tmp_path: Path) -> None:
    with Run(str(tmp_path), {}, ALONE) as run:
        run.save(1, {})
        with run.results() as folder:
            (folder / "weights").write_text("all of them")
    assert (tmp_path / "weights").read_text() == "all of them"
    assert not (tmp_path / "results.part").exists()
    assert not (tmp_path / "checkpoint.pt").exists()
    with Run(str(tmp_path), {}, ALONE) as run:
        assert run.ended


def test_whoever_may_read_the_run_may_read_its_weights(tmp_path: Path) -> None:
    with Run(str(tmp_path), {}, ALONE) as run, run.results() as folder:
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
    with Run(str(tmp_path), {"beta": 2.0}, ALONE) as run:
        run.save(1, {})
    with pytest.raises(UserError, match=named):
        Run(str(tmp_path), then, ALONE)


def test_a_run_that_failed_at_once_binds_nobody(tmp_path: Path) -> None:
    with Run(str(tmp_path), {"beta": 2.0}, ALONE) as run:
        run.log(1, loss=1.0)
    with Run(str(tmp_path), {"beta": 3.0}, ALONE) as run:
        assert not run.resumes
        assert not run.ended
    assert metrics(tmp_path) == []
    assert orjson.loads((tmp_path / "run.json").read_bytes())["options"] == {"beta": 3.0}


@pytest.mark.parametrize("name", ["README.md", "run.json"])
def test_a_folder_that_is_no_runs_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=name):
        Run(str(tmp_path), {}, ALONE)
    assert (tmp_path / name).read_text() == "{}"


def test_a_gradient_that_is_no_number_moves_nothing() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    (weight * torch.tensor([1.0, float("nan")])).sum().backward()
    with pytest.raises(UserError, match="step 7: training has diverged"):
        optimizer_step(optimizer, [weight], where="step 7", largest_norm=1.0)
    assert weight.tolist() == [1.0, 1.0]


def test_what_was_asked_for_is_written_down_with_versions(tmp_path: Path) -> None:
    with Run(str(tmp_path), {"learning_rate": 1e-4}, ALONE):
        pass
    written = orjson.loads((tmp_path / "run.json").read_bytes())
    assert written["options"] == {"learning_rate": 1e-4}
    assert written["versions"]["torch"] == torch.__version__
    assert written["argv"] == sys.argv


def test_the_values_of_headers_are_not_written_down() -> None:
    """They may be keys."""
    words = ["vpctl", "tune-ppo", "--header", "X-Key=hush", "--header=X-Gate=hush\nhush", "--extra", '{"a=b": 1}']
    shown = ["vpctl", "tune-ppo", "--header", "X-Key=[hidden]", "--header=X-Gate=[hidden]", "--extra", '{"a=b": 1}']
    assert without_secrets(words) == shown
    words = ["--base-url", "https://bob:hu/sh@host/v1?key=hush", "--base-url=http://host/v1", "a//b@c"]
    assert without_secrets(words) == ["--base-url", "https://host/v1", "--base-url=http://host/v1", "a//b@c"]


def test_a_folder_in_use_is_refused_and_free_again_when_its_run_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from vpctl.tuning.run import Run\n"
            "from vpctl.models.devices import join_world\n"
            "run = Run(sys.argv[1], {}, join_world('cpu')); print('held', flush=True); time.sleep(60)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(OutputLocked, match="another run is writing it"):
        Run(str(tmp_path), {}, ALONE)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with Run(str(tmp_path), {}, ALONE) as run:
        assert not run.ended


def test_a_folder_that_cannot_be_made_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a directory"):
        Run(str(tmp_path / "file" / "run"), {}, ALONE)


def test_the_checkpoint_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(state: object, file: BinaryIO) -> None:
        file.write(b"half a checkpo")
        raise KeyboardInterrupt

    with Run(str(tmp_path), {}, ALONE) as run:
        run.save(1, {"value": 1})
        monkeypatch.setattr(torch, "save", half)
        with pytest.raises(KeyboardInterrupt):
            run.save(2, {"value": 2})
    with Run(str(tmp_path), {}, ALONE) as run:
        assert run.saved == 1
        with run.restoring() as state:
            assert state["value"] == 1
    assert not list(tmp_path.glob("*.part"))


def test_tensorboard_has_the_same_numbers_and_the_previews(tmp_path: Path) -> None:
    with Run(str(tmp_path), {}, ALONE) as run:
        run.log(1, loss=0.5)
        run.log(2, loss=0.25)
        run.preview(2, Image.new("RGB", (8, 4), "red"), ["red"])
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


def begun(folder: Path, *, steps: int = 2) -> None:
    """A run that was cut short after its checkpoint."""
    with Run(str(folder), {"beta": 2.0}, ALONE) as run:
        for step in range(1, steps + 1):
            run.log(step, loss=0.5)
        run.save(steps, {"weights": torch.zeros(1000)})


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("evil"),)


def flipped(content: bytes) -> bytes:
    """One bit of the weights is another."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def saved(value: object) -> bytes:
    torch.save(value, buffer := io.BytesIO())
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"\0" * len(whole),
        lambda whole: b"hello\n",
        flipped,
        lambda whole: pickle.dumps(Evil()),
        lambda whole: saved({"step": Evil()}),
        lambda whole: saved(torch.zeros(3)),
        lambda whole: saved({"lora": {}}),
        lambda whole: saved({**torch.load(io.BytesIO(whole)), "run": "another"}),
        lambda whole: saved({**torch.load(io.BytesIO(whole)), "step": "2"}),
        lambda whole: saved({**torch.load(io.BytesIO(whole)), "step": -1}),
    ],
    ids="empty cut zeros text flipped pickle code tensor foreign another text-step negative".split(),
)
def test_a_damaged_checkpoint_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    begun(tmp_path / "run")
    file = tmp_path / "run/checkpoint.pt"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"run/checkpoint\.pt: is damaged, .*; restore it, or remove it to start over"):
        Run(str(tmp_path / "run"), {"beta": 2.0}, ALONE)
    assert not Path("evil").exists()
    file.unlink()
    with Run(str(tmp_path / "run"), {"beta": 2.0}, ALONE) as run:
        assert not run.resumes
    assert metrics(tmp_path / "run") == []


def test_what_fits_nowhere_or_lies_beyond_the_end_is_damage_too(tmp_path: Path) -> None:
    begun(tmp_path)
    with (
        Run(str(tmp_path), {"beta": 2.0}, ALONE) as run,
        pytest.raises(UserError, match="is damaged"),
        run.restoring() as state,
    ):
        state["optimizer"]
    with (
        Run(str(tmp_path), {"beta": 2.0}, ALONE) as run,
        pytest.raises(UserError, match=r"checkpoint\.pt: is damaged"),
        run.training(1),
    ):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"options": []}', b'{"options": 3}', b"\xff"])
def test_damaged_options_are_named_and_stay(tmp_path: Path, content: bytes) -> None:
    begun(tmp_path)
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json: is damaged: .*; restore it, or name another folder"):
        Run(str(tmp_path), {"beta": 2.0}, ALONE)
    assert (tmp_path / "run.json").read_bytes() == content
    assert (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    "bad", [b"{\n", b"\xff\n", b"[]\n", b'{"loss":1}\n', b'{"step":"2"}\n', b'{"step":%d}\n' % 10**30]
)
def test_broken_metrics_are_put_aside_and_cost_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: bytes
) -> None:
    begun(tmp_path)
    file = tmp_path / "metrics.jsonl"
    good = file.read_bytes()
    first, second = good.splitlines(keepends=True)
    file.write_bytes(first + bad + second)
    with Run(str(tmp_path), {"beta": 2.0}, ALONE) as run:
        assert run.step == 2
    assert file.read_bytes() == good
    assert (tmp_path / "metrics.damaged-1.jsonl").read_bytes() == first + bad + second
    assert (
        "metrics.jsonl:2: is damaged; its valid lines are kept, and the damaged file is copied to"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("tail", [b'{"step":3,"lo', b"\0\0\0\0", b'{"step":3,"loss":0.1}\n'])
def test_metrics_after_the_checkpoint_are_cut_off_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tail: bytes
) -> None:
    begun(tmp_path)
    good = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(good + tail)
    with Run(str(tmp_path), {"beta": 2.0}, ALONE):
        pass
    assert (tmp_path / "metrics.jsonl").read_bytes() == good
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", ["gone", "empty"])
def test_a_run_that_has_ended_and_lost_its_results_is_no_success(tmp_path: Path, damage: str) -> None:
    with Run(str(tmp_path), {}, ALONE) as run, run.results() as folder:
        (folder / "weights").write_text("all of them")
    if damage == "gone":
        (tmp_path / "weights").unlink()
    else:
        (tmp_path / ".ended").write_bytes(b"")
    with pytest.raises(UserError, match=r"is damaged or missing, .* remove \S*\.ended to train again"):
        Run(str(tmp_path), {}, ALONE)
    (tmp_path / ".ended").unlink()
    with Run(str(tmp_path), {}, ALONE) as run:
        assert not run.ended


def test_a_folder_that_is_a_file_or_whose_lock_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is a file, not a folder"):
        Run(str(tmp_path / "file"), {}, ALONE)
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=r"\.lock: is a directory"):
        Run(str(tmp_path), {}, ALONE)


def test_folders_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Their checkpoints do not name their run, and the file that marks the end is empty."""
    begun(tmp_path)
    file = tmp_path / "checkpoint.pt"
    state = torch.load(file)
    del state["run"]
    torch.save(state, file)
    with Run(str(tmp_path), {"beta": 2.0}, ALONE) as run:
        assert run.step == 2
        with run.restoring() as there:
            assert torch.equal(there["weights"], torch.zeros(1000))
    (tmp_path / ".ended").touch()
    save_file({"weight": torch.zeros(1)}, tmp_path / "pytorch_lora_weights.safetensors")
    with Run(str(tmp_path), {"beta": 2.0}, ALONE) as run:
        assert run.ended


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("-", "is not a folder; --out names the folder of the run"),
        ("/dev/stdout", "is not a folder; --out names the folder of the run"),
        ("file", "is a file, not a folder"),
        ("file/run", "is not a directory"),
        ("foreign", "is not the folder of a run: it holds README.md"),
        ("begun", "holds a run with beta 2.0, not 3.0"),
        ("held", "another run is writing it"),
        ("x" * 300, "file name too long"),
    ],
)
def test_what_is_wrong_with_a_folder_is_found_without_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("foreign").mkdir()
    Path("foreign/README.md").touch()
    begun(Path("begun"))
    with Run("held", {}, ALONE):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError, match=said):
            check(out, {"beta": 3.0})
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("check_folder", [check, ended])
def test_the_folder_of_a_run_of_another_command_is_said_to_be_that(
    tmp_path: Path, check_folder: Callable[[str, dict[str, str]], object]
) -> None:
    with Run(str(tmp_path), {"pairs": "pairs.jsonl", "model": "shapes"}, ALONE) as run:
        run.save(1, {})
    with pytest.raises(UserError, match="holds a run of tune-dpo, not of train-rm; name another folder"):
        check_folder(str(tmp_path), {"pairs": "pairs.jsonl", "backbone": ""})
    with pytest.raises(UserError, match="holds a run of tune-dpo, not of tune-ppo; name another folder"):
        check_folder(str(tmp_path), {"prompts": "prompts.txt", "model": "shapes"})
    with pytest.raises(UserError, match=r"holds a run with pairs 'pairs\.jsonl', not 'others\.jsonl'"):
        check_folder(str(tmp_path), {"pairs": "others.jsonl", "model": "shapes"})


def test_a_folder_that_can_be_used_passes_unchanged(tmp_path: Path) -> None:
    begun(tmp_path / "begun")
    before = sorted(tmp_path.rglob("*"))
    check(str(tmp_path / "begun"), {"beta": 2.0})
    check(str(tmp_path / "new" / "run"), {"beta": 2.0})
    assert sorted(tmp_path.rglob("*")) == before


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def round_that_is_interrupted(folder: Path) -> None:
    with Run(str(folder), {}, ALONE) as run, run.training(10, "round"):
        run.finished(1)
        try:
            with run.interruptible():
                send(signal.SIGINT)
                pytest.fail("the interrupt came")
        except KeyboardInterrupt:
            send(signal.SIGTERM, signal.SIGINT)
            run.save(1, {})


@pytest.mark.parametrize("seconds", [1000.0, 0.0])
def test_after_the_signal_that_ends_a_round_no_other_breaks_off_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Neither one of the same interrupt nor one that counts as another."""
    monkeypatch.setattr("vpctl.tuning.interrupts.ONE_INTERRUPT", seconds)
    with pytest.raises(Interrupted, match="the checkpoint is in"):
        round_that_is_interrupted(tmp_path)
    assert (tmp_path / "checkpoint.pt").exists()


def step_that_is_interrupted(folder: Path) -> None:
    with Run(str(folder), {}, ALONE) as run, run.training(10):
        run.finished(2)
        send(signal.SIGINT)
        send(signal.SIGTERM)
        run.finished(3)
        assert run.due(100)
        run.save(3, {})


@pytest.mark.parametrize(
    ("seconds", "said"), [(1000.0, "at step 3 of 10; the checkpoint is in"), (0.0, "at step 2 of 10; there is no")]
)
def test_an_interrupt_waits_for_the_step_and_a_later_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, said: str
) -> None:
    monkeypatch.setattr("vpctl.tuning.interrupts.ONE_INTERRUPT", seconds)
    with pytest.raises(Interrupted, match=said):
        step_that_is_interrupted(tmp_path)


def results_that_fail(folder: Path) -> None:
    with Run(str(folder), {}, ALONE) as run, run.results():
        try:
            Path("nowhere").read_text()
        except OSError:
            raise KeyError("a bug (os error 28)") from None


def test_a_bug_is_not_taken_for_a_failed_write(tmp_path: Path) -> None:
    """Though an error of the system came before it, and its text looks like one."""
    with pytest.raises(KeyError):
        results_that_fail(tmp_path)
    assert not (tmp_path / "results.part").exists()


def write_to_full_disk(run: Run, name: str) -> None:
    if name == "metrics.jsonl":
        (run.folder / name).unlink()
        (run.folder / name).symlink_to("/dev/full")
        run.log(3, loss=0.5)
    elif name == "checkpoint.pt":
        (run.folder / "checkpoint.pt.part").symlink_to("/dev/full")
        run.save(3, {"weights": torch.zeros(1000)})
    else:
        with run.results() as folder:
            (folder / "weights").symlink_to("/dev/full")
            (folder / "weights").write_text("all of them")


@pytest.mark.parametrize("write", ["metrics.jsonl", "checkpoint.pt", "results"])
def test_a_full_disk_names_the_file_and_what_is_kept(tmp_path: Path, write: str) -> None:
    begun(tmp_path)
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    said = "no space left on device; the checkpoint of step 2 is complete: make room and run the same command again$"
    with Run(str(tmp_path), {"beta": 2.0}, ALONE) as run:
        name = tmp_path.name if write == "results" else write
        with pytest.raises(UserError, match=rf"{re.escape(name)}: {said}"):
            write_to_full_disk(run, write)
    assert not list(tmp_path.glob("*.part"))
    assert not (tmp_path / "weights").exists()
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept


def test_a_training_does_not_need_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run(str(tmp_path), {"beta": 2.0}, ALONE) as run:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
        try:
            for step in range(1, 41):
                run.log(step, loss=0.5, accuracy=0.5, margin=0.5)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(metrics(tmp_path)) == 40
    [said] = capsys.readouterr().err.splitlines()
    assert re.search(r"warning: .*tfevents.*: file too large; the run continues without TensorBoard", said)


class Second(World):
    """The second of two processes, whose first always agrees with it."""

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack([values, values])

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        yield


def test_only_the_main_process_writes_and_all_of_them_read_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path)
    with Run(str(tmp_path), {"beta": 2.0}, ALONE):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with Run(str(tmp_path), {"beta": 2.0}, Second(torch.device("cpu"), rank=1, size=2)) as run:
            assert run.step == 2
            with run.restoring() as state:
                assert torch.equal(state["weights"], torch.zeros(1000))
            with run.training(3):
                run.log(3, loss=0.5)
                run.preview(3, Image.new("RGB", (8, 4), "red"), ["red"])
                run.finished(3)
                assert run.due(100)
                run.save(3, {"weights": torch.ones(1000)})
            with run.results() as folder:
                (folder / "weights").write_text("all of them")
            assert run.ended
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert capsys.readouterr().err == ""


def test_a_run_that_has_ended_is_found_without_a_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert not ended(out, {"beta": 2.0})
    begun(tmp_path / "run")
    assert not ended(out, {"beta": 2.0})
    with Run(out, {"beta": 2.0}, ALONE) as run, run.results() as folder:
        (folder / "weights").write_text("all of them")
        with pytest.raises(OutputLocked, match="another run is writing it"):
            ended(out, {"beta": 2.0})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert capsys.readouterr().err == ""
    assert ended(out, {"beta": 2.0})
    assert capsys.readouterr().err == f"vpctl: {out} already holds the finished run; nothing to do\n"
    for others in ({"beta": 3.0}, {"beta": 2.0, "new": 1}, {}):
        with pytest.raises(UserError, match="holds a run with"):
            ended(out, others)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (tmp_path / "run" / "weights").unlink()
    with pytest.raises(UserError, match="is damaged or missing"):
        ended(out, {"beta": 2.0})
