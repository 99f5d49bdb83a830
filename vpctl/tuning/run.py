"""A training run's folder: what was asked for, what was measured, and where to go on.

run.json        the options, the command line and the versions
metrics.jsonl   one object a logged step
tensorboard/    the same, and preview grids, for TensorBoard
previews/       the same grids as PNG
checkpoint.pt   weights, optimizer and random state of the last saved step; gone when the run has ended
"""

import fcntl
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from .. import __version__
from ..errors import OutputLocked, UserError
from ..images import save as save_picture

RUN_FILE, CHECKPOINT, LOCK, ENDED = "run.json", "checkpoint.pt", ".lock", ".ended"
_LIBRARIES = ("torch", "diffusers", "transformers", "peft")


def descend(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], *, where: str) -> None:
    """One step down, the gradient clipped to norm 1. Raises `UserError` in place of a step that would end in NaN."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    if not torch.isfinite(norm):
        raise UserError(f"{where}: training has diverged, its gradient is {norm:g}; lower --learning-rate")
    optimizer.step()
    optimizer.zero_grad()


class Run:
    """A run folder, locked while it is open.

    A new run may have been killed at any moment: entered again with the same configuration it goes on from its last
    checkpoint, with the metrics behind that cut off, and comes to the same end. `step` is the one it goes on from, 0 at
    the beginning; `state` is what the checkpoint holds, None at the beginning, and a loop that has put it back sets it
    to None, to free its memory; `ended` is whether there is nothing left to do.
    """

    def __init__(self, folder: str, config: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / LOCK, os.O_CREAT | os.O_WRONLY, 0o666)
        except OSError as error:
            raise UserError(f"--out {folder}: {(error.strerror or str(error)).lower()}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise OutputLocked(f"--out {folder}: another run is writing it") from None
        begun = self._same_config(config)
        checkpoint = self.folder / CHECKPOINT
        self.state: dict[str, Any] | None = (
            torch.load(checkpoint, "cpu", weights_only=True) if checkpoint.exists() else None
        )
        self.step: int = self.state["step"] if self.state else 0
        self.ended = begun and (self.folder / ENDED).exists()
        if not self.ended:
            self._cut_metrics(self.step)
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1)

    def _same_config(self, config: Mapping[str, Any]) -> bool:
        """Whether this run has been begun before. Raises `UserError` if it was one with other options.

        Other options with nothing to show for them, such as those of a run that failed at once, bind nobody.
        """
        file = self.folder / RUN_FILE
        wanted = orjson.loads(orjson.dumps(config))
        if file.exists():
            try:
                there = orjson.loads(file.read_bytes())["options"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{file}: is no run's options; name another folder with --out") from None
            changed = [key for key in {**there, **wanted} if there.get(key) != wanted.get(key)]
            if not changed:
                return True
            key = changed[0]
            if (self.folder / CHECKPOINT).exists() or (self.folder / ENDED).exists():
                raise UserError(
                    f"--out {self.folder}: holds a run with {key} {there.get(key)!r}, not {wanted.get(key)!r}; "
                    "name another folder, or remove this one"
                )
        elif foreign := sorted(name for name in os.listdir(self.folder) if name != LOCK and not name.endswith(".part")):
            raise UserError(f"--out {self.folder}: is no run's folder, it holds {foreign[0]}; name a new one")
        versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
        written = {
            "options": wanted,
            "argv": sys.argv,
            "versions": {"vpctl": __version__, "python": platform.python_version(), **versions},
        }
        _write_whole(file, orjson.dumps(written, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        return False

    def _cut_metrics(self, step: int) -> None:
        file = self.folder / "metrics.jsonl"
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        kept = [line for line in lines if line.endswith(b"\n") and orjson.loads(line)["step"] <= step]
        _write_whole(file, b"".join(kept))

    def log(self, step: int, **metrics: float) -> None:
        """Write one step's numbers down, in the metrics file and for TensorBoard."""
        with (self.folder / "metrics.jsonl").open("ab") as file:
            file.write(orjson.dumps({"step": step, **metrics}, option=orjson.OPT_APPEND_NEWLINE))
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def preview(self, step: int, grid: Image.Image) -> None:
        """Keep a grid of pictures drawn from fixed seeds at this step."""
        save_picture(grid, str(self.folder / "previews" / f"{step:06d}.png"))
        pixels = torch.frombuffer(bytearray(grid.tobytes()), dtype=torch.uint8).view(grid.height, grid.width, 3)
        self._board.add_image("preview", pixels, step, dataformats="HWC")

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint; from here the run would go on."""
        part = self.folder / f"{CHECKPOINT}.part"
        torch.save({"step": step, **state}, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(self.folder / CHECKPOINT)

    def end(self) -> None:
        """Mark the run as ended; its results are written.

        They become as readable as the run's other files: safetensors lets only their owner read what it writes.
        """
        for weights in self.folder.glob("*.safetensors"):
            shutil.copymode(self.folder / RUN_FILE, weights)
        (self.folder / ENDED).touch()
        (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.ended:
            self._board.close()
        os.close(self._lock)


def _write_whole(file: Path, content: bytes) -> None:
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(content)
    part.replace(file)


def random_state(*generators: torch.Generator) -> dict[str, Any]:
    """The state of torch's own generators and of the given ones, to be put into a checkpoint."""
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "own": [one.get_state() for one in generators]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: Mapping[str, Any], *generators: torch.Generator) -> None:
    """Put `random_state` back."""
    torch.set_rng_state(state["torch"])
    for generator, own in zip(generators, state["own"], strict=True):
        generator.set_state(own)
    if len(state.get("cuda", ())) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
