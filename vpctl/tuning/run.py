"""A training run's folder: its options, its metrics, its checkpoint and, at the end, its results.

run.json        the options, the command line and the versions
metrics.jsonl   one object for each logged step
tensorboard/    the same, and preview grids, for TensorBoard
previews/       the same grids as PNG, and their prompts, one on each line
checkpoint.pt   weights, optimizer and random state of the last saved step; at the end, train-rm removes it, and the
                others keep it, so that the run can go on with more steps
"""

import contextlib
import errno
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import orjson
import torch
from PIL import Image
from safetensors import SafetensorError

from .. import __version__, progress
from ..errors import Interrupted, UserError, os_reason
from ..images.pictures import save as save_picture
from ..models.devices import World
from ..records import digest
from ..streams.whole import atomic_write, sync
from . import folder as contents
from .board import Board
from .folder import CACHE, CHECKPOINT, ENDED, METRICS, PARTS, RESULTS, RUN_FILE
from .interrupts import deferred

_LIBRARIES = ("torch", "diffusers", "transformers", "peft")


def optimizer_step(
    optimizer: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    *,
    where: str,
    largest_norm: float,
    scaler: torch.amp.GradScaler | None = None,
) -> bool:
    """One optimizer step with the gradient clipped to a norm of at most `largest_norm`. Returns whether it was done.

    Raises `UserError` if the gradient is not finite.

    `scaler` is for float16, where the loss is multiplied so that small gradients do not become 0. With a gradient that
    is not finite it skips the step and halves its factor; below 1, the factor is not the reason.
    """
    if scaler:
        scaler.unscale_(optimizer)
    norm = torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
    finite = bool(torch.isfinite(norm))
    if not finite and not (scaler and scaler.is_enabled() and scaler.get_scale() >= 1):
        raise diverged(where, float(norm), scaler)
    if norm > largest_norm:  # otherwise torch would multiply all gradients by 1
        torch.nn.utils.clip_grads_with_norm_(parameters, largest_norm, norm)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    optimizer.zero_grad()
    return finite


def diverged(where: str, norm: float, scaler: torch.amp.GradScaler | None = None) -> UserError:
    """The error for a gradient whose norm is not finite."""
    return UserError(f"{where}: training has diverged, its gradient is {norm:g}; {way_out(scaler)}")


def way_out(scaler: torch.amp.GradScaler | None) -> str:
    """What the user can do if a training has diverged."""
    overflows = scaler is not None and scaler.is_enabled()
    return "lower --learning-rate" + overflows * ", or name --dtype bfloat16 or float32: float16 may have overflowed"


def loss_scaler(device: torch.device, dtype: str) -> torch.amp.GradScaler:
    """What multiplies the loss for a computation in the precision `dtype`; only in float16 it does anything."""
    return torch.amp.GradScaler(device.type, enabled=dtype == "float16")


class Run:
    """A run folder, locked while it is open.

    A run may be killed at any moment. If it is opened again with the same configuration, it resumes from its last
    checkpoint, and its result is the same. Metrics of later steps are removed. `step` is the last finished step, 0 at
    the beginning. `saved` is the step of the checkpoint, 0 if there is none. `ended` says whether the run has ended.

    If a file cannot be written, `UserError` names the file, the reason and what is kept. An interrupt is raised as
    `Interrupted`, which says what is kept.

    Of the processes of a `World`, only the main process locks the folder, writes to it and reports progress. All
    processes read the checkpoint.
    """

    def __init__(self, folder: str, config: Mapping[str, Any], world: World) -> None:
        self.folder = Path(folder)
        self.world = world
        """The processes that train together, and the device of this one."""
        if not world.is_main:
            progress.mute()
        self.stopping = False
        """Whether an interrupt came, so that the run ends at the next `save`."""
        self._signals = deferred(self._is_over)
        self._waits = self._at_once = self._ending = False
        self._total, self._unit = 0, "step"
        self._counter: progress.Counter | None = None
        self._board: Board | None = None
        self.step = self.saved = 0
        self._lock = self._locked() if world.is_main else None
        try:
            with world.main_first():  # it writes run.json, which the others read
                self._open(contents.plain(config))
        except BaseException:
            self._unlock()
            raise

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def _locked(self) -> int:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return contents.locked(self.folder, os.O_CREAT | os.O_WRONLY)
        except FileExistsError:
            raise contents.file_error(self.folder) from None
        except OSError as error:
            raise UserError(f"--out {error.filename or self.folder}: {os_reason(error)}") from None

    def _open(self, config: dict[str, Any]) -> None:
        self._total_option = contents.total_of(config)
        self._digest = digest({key: value for key, value in config.items() if key != self._total_option})
        begun = True
        if self.world.is_main:
            begun = self._same_config(config)
            for part in PARTS & set(os.listdir(self.folder)):  # they hold space
                _remove(self.folder / part)
        self.ended = begun and contents.has_ended(self.folder)
        self._state = None if self.ended else self._checkpoint()
        if self._state:
            self.step = self.saved = self._state["step"]
        if self.world.is_main and not self.ended:
            self._cut_metrics()
            self._board = Board(self.folder / "tensorboard", first=self.step + 1)

    def _same_config(self, config: dict[str, Any]) -> bool:
        """Whether this run was begun before. Raises `UserError` if the folder holds a run with other options."""
        there = contents.begun(self.folder)
        if there is not None and contents.refuse_others(self.folder, there, config):
            return True
        if there is not None and contents.can_go_on(self.folder, there, config):
            self._checkpoint()  # a damaged one is told before anything is changed
            with self._writing(self.folder / ENDED):
                (self.folder / ENDED).unlink(missing_ok=True)
                sync(str(self.folder))
        file = self.folder / RUN_FILE
        versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
        written = {
            "options": config,
            "argv": contents.without_secrets(sys.argv),
            "processes": self.world.size,
            "versions": {"vpctl": __version__, "python": platform.python_version(), **versions},
        }
        with self._writing(file):
            _write_whole(file, orjson.dumps(written, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        return False

    def _checkpoint(self) -> dict[str, Any] | None:
        """The content of the checkpoint; None if there is none. Raises `UserError` if it is damaged or of another run.

        Earlier versions of vpctl wrote no digest of the run. A checkpoint without one is checked when it is restored.
        """
        file = self.folder / CHECKPOINT
        if not file.exists():
            return None
        try:
            with zipfile.ZipFile(file) as archive:
                intact = archive.testzip() is None  # torch writes checksums and does not compare them
            with warnings.catch_warnings(action="ignore"):  # torch's, of files that are not its own
                state: dict[str, Any] = torch.load(file, "cpu", weights_only=True) if intact else {}
            ours = isinstance(state, dict) and state.get("run", self._digest) == self._digest
            if ours and type(state["step"]) is int and state["step"] > 0:
                return state
        except OSError as error:
            raise UserError(f"{file}: {os_reason(error)}; remove it to start over from the beginning") from None
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # zipfile, pickle and torch raise anything on bytes that are not theirs
            pass
        raise self._damaged()

    def _damaged(self) -> UserError:
        return UserError(
            f"{self.folder / CHECKPOINT}: is damaged, or belongs to another run; restore it, "
            "or remove it to start over from the beginning"
        )

    @contextlib.contextmanager
    def restoring(self) -> Iterator[dict[str, Any]]:
        """A context with the content of the checkpoint, to be restored. Raises `UserError` if the content does not fit.

        The memory of the checkpoint can be freed afterwards.
        """
        assert self._state
        state, self._state = self._state, None
        try:
            yield state
        except (MemoryError, torch.OutOfMemoryError):  # for which the checkpoint is not to blame
            raise
        except Exception:  # of values that fit nowhere: KeyError, TypeError, RuntimeError, what torch and peft raise
            raise self._damaged() from None

    @property
    def resumes(self) -> bool:
        """Whether there is a checkpoint to restore."""
        return self._state is not None

    def _cut_metrics(self) -> None:
        """Remove the metrics of steps after the checkpoint, and an incomplete last line that a killed run left.

        If another line is damaged, the file is first copied to a new name, and only its valid lines are kept.
        """
        file = self.folder / METRICS
        with self._writing(file):
            with file.open("ab"):
                pass
            if not file.is_file():  # a device, which has nothing to be cut
                return
            content = file.read_bytes().rstrip(b"\0")  # a system that went down may leave zeros at the end
            lines = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")] if self.saved else []
            steps = [_step_of(line) for line in lines]
            kept = b"".join(
                line for line, step in zip(lines, steps, strict=True) if step is not None and step <= self.saved
            )
            if None not in steps and content.startswith(kept):
                os.truncate(file, len(kept))
                return
            names = (file.with_name(f"metrics.damaged-{number}.jsonl") for number in count(1))
            aside = next(name for name in names if not name.exists())
            shutil.copyfile(file, aside)
            _write_whole(file, kept)
            where = f":{steps.index(None) + 1}" if None in steps else ""
            progress.warn(
                f"{file}{where}: is damaged; its valid lines are kept, and the damaged file is copied to {aside}"
            )

    @contextlib.contextmanager
    def training(self, total: int, unit: str = "step") -> Iterator[None]:
        """A context in which steps are counted up to `total`, and the first interrupt ends the run at the next `save`.

        The second interrupt ends it at once. Signals within a second of the first are part of the first interrupt.
        """
        self._total, self._unit = total, unit
        if self.step > total:
            raise self._damaged()
        if self.step:
            left = f"resuming at {unit} {self.step + 1} of {total}"
            progress.note(left if self.step < total else f"all {total} {unit}s are done; resuming after them")
        with progress.Counter(f"{unit}s", total, done=self.step) as self._counter:
            self._waits = True
            try:
                yield
            finally:
                self._waits = self._ending = False  # all is saved: an interrupt may end what is left, such as calls
            if self.stopping:  # since the last step was saved
                raise KeyboardInterrupt

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A context that the first interrupt leaves at once. The work in it is discarded; the next run repeats it.

        The code that catches the interrupt can save a checkpoint: later signals do not interrupt it.
        """
        self._at_once = True
        try:
            if self.stopping:
                raise KeyboardInterrupt
            yield
        finally:
            self._at_once = False

    def _is_over(self, again: bool) -> bool:
        """Whether an interrupt ends the run at once. `again` is false for the first. None interrupts a checkpoint."""
        self.stopping = True
        if self._ending:
            return False
        if self._at_once:
            self._ending = True
            return True
        if again or not self._waits:
            return True
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of a write to stderr
            progress.note("interrupted: saving a checkpoint; interrupt again to stop immediately")
        return False

    def log(self, step: int, **metrics: float) -> None:
        """Write the metrics of a step, as means over all processes, to the metrics file and for TensorBoard."""
        values = torch.tensor([*metrics.values()], dtype=torch.float64)
        metrics = dict(zip(metrics, self.world.gather(values).mean(0).tolist(), strict=True))
        if not self.world.is_main:
            return
        file = self.folder / METRICS
        with self._writing(file), file.open("ab") as lines:
            lines.write(orjson.dumps({"step": step, **metrics}, option=orjson.OPT_APPEND_NEWLINE))
        if self._board:
            for name, value in metrics.items():
                self._board.scalar(name, value, step)

    def preview(self, step: int, grid: Image.Image, prompts: Sequence[str]) -> None:
        """Save a grid of pictures that were drawn from fixed seeds at this step, and their prompts, row by row.

        All processes call it, and if a file cannot be written, all get the error: then they save the step together.
        """
        with self.world.failing_together():
            if self.world.is_main:
                self._write_preview(step, grid, prompts)

    def _write_preview(self, step: int, grid: Image.Image, prompts: Sequence[str]) -> None:
        file = self.folder / "previews" / f"{step:06d}.png"
        with self._writing(file):
            save_picture(grid, str(file))
        texts = file.with_name("prompts.txt")
        with self._writing(texts):
            texts.write_text("".join(f"{' '.join(prompt.split())}\n" for prompt in prompts), encoding="utf-8")
        pixels = torch.frombuffer(bytearray(grid.tobytes()), dtype=torch.uint8).view(grid.height, grid.width, 3)
        if self._board:
            self._board.picture("preview", pixels, step)

    def finished(self, step: int) -> None:
        """Count a step whose weights and metrics are complete."""
        self.step = step
        self.stopping = self.world.any(self.stopping)  # an interrupt ends all processes after the same step
        if self._counter:
            self._counter()

    def due(self, every: int) -> bool:
        """Whether to save now: after every `every` steps, after the last step, and after an interrupt."""
        return self.stopping or self.step % every == 0 or self.step == self._total

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the new checkpoint, then replace the old one. After an interrupt, raise `KeyboardInterrupt`."""
        self._ending, before = True, self._ending
        try:
            if self.world.is_main:
                self._write_checkpoint({"run": self._digest, "step": step, **state})
            self.saved = step
        finally:
            self._ending = before
        if self.stopping:
            raise KeyboardInterrupt

    def _write_checkpoint(self, state: Mapping[str, Any]) -> None:
        file = self.folder / CHECKPOINT
        with self._writing(file):
            sync(str(self.folder / METRICS))  # a checkpoint has all metrics before it
            with (
                atomic_write(str(file), synced=True) as part,
                open(part, "wb") as opened,
            ):  # torch tells why a write failed
                torch.save(state, opened)
            sync(str(self.folder))

    @contextlib.contextmanager
    def results(self) -> Iterator[Path]:
        """A context with an empty folder for the results. At its end they move to the run's folder, the weights last.

        Then the run has ended. The results get the permissions of the run's other files, because safetensors writes
        files that only their owner can read.
        """
        if not self.world.is_main:
            with TemporaryDirectory() as unused:
                yield Path(unused)
            self.ended = True
            return
        part = self.folder / RESULTS
        try:
            with self._writing(self.folder):
                part.mkdir()
                yield part
                files = [file for file in part.rglob("*") if file.is_file()]
                files.sort(key=lambda file: (file.suffix == ".safetensors", file))
                for file in files:
                    shutil.copymode(self.folder / RUN_FILE, file)
                    sync(str(file))
                names = [file.relative_to(part) for file in files]
                for file, name in zip(files, names, strict=True):
                    (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                    file.replace(self.folder / name)
                sync(str(self.folder))
                shutil.rmtree(self.folder / CACHE, ignore_errors=True)
                _write_whole(self.folder / ENDED, orjson.dumps([str(name) for name in names]))
                self.ended = True
                if not self._total_option:
                    (self.folder / CHECKPOINT).unlink(missing_ok=True)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    @contextlib.contextmanager
    def _writing(self, file: Path) -> Iterator[None]:
        """A context that turns the error of a failed write, from any library, into a `UserError`."""
        try:
            yield
        except Exception as error:
            cause = _of_the_system(error)
            if cause is None:
                raise
            name = self.folder / Path(cause.filename).name if file == self.folder and cause.filename else file
            kept = (
                f"the checkpoint of {self._unit} {self.saved} is complete"
                if self.saved
                else "there is no checkpoint yet"
            )
            remedy = "make room" if cause.errno in (errno.ENOSPC, errno.EDQUOT) else "fix this"
            raise UserError(f"{name}: {os_reason(cause)}; {kept}: {remedy} and run the same command again") from None

    def _interrupted(self) -> str:
        if self.ended:
            return f"interrupted after the end; the results are in {self.folder}/"
        if not self.step:
            if self._total:
                return f"interrupted in {self._unit} 1 of {self._total}; run the same command again to start over"
            return "interrupted before the first step; nothing was saved yet, run the same command again"
        where = f"interrupted at {self._unit} {self.step}" + (f" of {self._total}" if self._total else "")
        if not self.saved:
            return f"{where}; there is no checkpoint yet, run the same command again to start over"
        which = "the checkpoint" if self.saved == self.step else f"the checkpoint of {self._unit} {self.saved}"
        return f"{where}; {which} is in {self.folder}/; run the same command again to resume"

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        if self._board:
            self._board.close()
        self._unlock()
        self._signals.__exit__(None, None, None)
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(self._interrupted()) from None


def _of_the_system(error: Exception) -> OSError | None:
    """The operating system's error that made a write fail; None if `error` has another cause.

    For a failed write torch raises its own RuntimeError, and `images.pictures.save` a UserError. tokenizers and
    safetensors are written in Rust: they raise a plain Exception or a SafetensorError with the system's error as text.
    Raises an interrupt that torch hides.
    """
    cause = error.__context__ if isinstance(error, (RuntimeError, UserError)) else error
    if isinstance(cause, KeyboardInterrupt):
        raise cause
    if isinstance(cause, OSError):
        return cause if cause.errno else None
    if type(error) in (Exception, SafetensorError) and (found := re.search(r"\(os error (\d+)\)", str(error))):
        return OSError(int(found[1]), os.strerror(int(found[1])))
    return None


def _step_of(line: bytes) -> int | None:
    """The step of a line of metrics; None if the line is broken."""
    try:
        step = orjson.loads(line)["step"]
    except (ValueError, LookupError, TypeError):
        return None
    return step if type(step) is int and step >= 0 else None


def _write_whole(file: Path, content: bytes) -> None:
    with atomic_write(str(file), synced=True) as part:
        Path(part).write_bytes(content)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore the state of an AdamW. Raises `ValueError` if its moments do not fit the parameters."""
    optimizer.load_state_dict(dict(state))
    for parameter, moments in optimizer.state.items():
        names = ("exp_avg", "exp_avg_sq") if isinstance(optimizer, torch.optim.AdamW) else ("state1", "state2")
        if any(moments[name].shape != parameter.shape for name in names):
            raise ValueError("moments of another shape")


def random_state(*generators: torch.Generator) -> dict[str, Any]:
    """The state of torch's own generators and of the given ones, for a checkpoint."""
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "own": [one.get_state() for one in generators]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: Mapping[str, Any], *generators: torch.Generator) -> None:
    """Restore a state that `random_state` returned."""
    torch.set_rng_state(state["torch"])
    for generator, own in zip(generators, state["own"], strict=True):
        generator.set_state(own)
    if len(state.get("cuda", ())) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
