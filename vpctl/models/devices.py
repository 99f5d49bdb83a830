"""The device and precision that models run in, and the processes of a training."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from .. import progress
from ..configs import PRECISIONS
from ..errors import LimitReached, UserError
from . import launcher, memory

_MOST_TOLD = 1000
"""Number of bytes of an error that other processes are told."""


def resolve_device(device: str) -> torch.device:
    """The device with this name. ``auto`` is the first GPU, or else the CPU. Raises `UserError` if it is missing."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        device = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from None
    if resolved.type == "cpu":
        memory.keep_freed()
    return resolved


def resolve_dtype(dtype: str) -> torch.dtype:
    """The precision with this name, one of `PRECISIONS`, by default float32. Raises `UserError` for another name."""
    if dtype and dtype not in PRECISIONS:
        raise UserError(f"--dtype {dtype}: known: {', '.join(PRECISIONS)}")
    found: torch.dtype = getattr(torch, dtype or PRECISIONS[0])
    return found


def half_on_gpu(device: torch.device, *, wide: bool = False) -> torch.dtype:
    """The precision for inference: 16 bits on a GPU, and float32 on a CPU, where 16 bits are slow.

    A model that needs a `wide` range of numbers gets bfloat16, and any other float16, which rounds less.
    """
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if wide else torch.float16


@dataclass(frozen=True)
class World:
    """The processes of one training, as one of them sees it."""

    device: torch.device
    """The device of this process."""
    rank: int
    """The number of this process, from 0."""
    size: int
    """The number of processes."""
    sharded: bool = False
    """Whether the processes divide the frozen weights among themselves. Then all must predict equally often."""
    zero_stage: int = 0
    """The stage of ZeRO in which they divide the state of the optimizer; 0 if each has all of it."""

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and reports progress."""
        return self.rank == 0

    @property
    def even(self) -> bool:
        """Whether all processes must compute equally many batches in an optimizer step."""
        return self.sharded or self.zero_stage > 1

    def peak_memory(self) -> str:
        """Says how much memory of the GPU torch has held at most; empty if the device is no GPU of CUDA."""
        if self.device.type != "cuda":
            return ""
        peak, most = (
            torch.cuda.max_memory_reserved(self.device),
            torch.cuda.get_device_properties(self.device).total_memory,
        )
        return f"{progress.size(peak)} of the GPU's {progress.size(most)} of memory were in use"

    def gather(self, values: Tensor) -> Tensor:
        """`values` of all processes, stacked in the order of their ranks. The shape is (size, *values.shape)."""
        if self.size == 1:
            return values[None]
        found = [torch.empty_like(values, device=self.device) for _ in range(self.size)]
        distributed.all_gather(found, values.to(self.device))
        return torch.stack(found).to(values.device)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any of the processes."""
        return bool(self.gather(torch.tensor(flag)).any())

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the gradient of each parameter by its sum over all processes. One that none has stays without."""
        if self.size == 1:
            return
        used = self.gather(torch.tensor([one.grad is not None for one in parameters])).any(0)
        waiting = []
        for parameter in (one for one, is_used in zip(parameters, used.tolist(), strict=True) if is_used):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            waiting.append(distributed.all_reduce(parameter.grad, async_op=True))
        for one in waiting:
            one.wait()

    @contextmanager
    def failing_together(self) -> Iterator[Callable[[], AbstractContextManager[None]]]:
        """A context that ends with a `UserError` in all processes if it does so in one.

        Without it, the processes without an error would wait for the others forever. Each process raises its own error;
        one that has none raises that of the first process that has one. Inside it the processes must not communicate,
        but for predictions with sharded weights. Any other exception ends its process, and then the launcher ends the
        others.

        It gives a function that makes contexts. Between two predictions, work that may fail is done in one of these: if
        the weights are sharded, its error waits until this process has predicted as often as the others.
        """
        error: UserError | None = None

        @contextmanager
        def deferred() -> Iterator[None]:
            nonlocal error
            try:
                yield
            except UserError as raised:
                if not self.sharded:
                    raise
                error = error or raised

        try:
            yield deferred
        except UserError as raised:
            error = error or raised
        told = torch.zeros(1 + _MOST_TOLD, dtype=torch.uint8)
        if error:
            text = str(error).encode()[:_MOST_TOLD]
            told[: 1 + len(text)] = torch.tensor([error.exit_code, *text], dtype=torch.uint8)
        every = self.gather(told)
        if error:
            raise error
        for code, *text in (row.tolist() for row in every if row[0]):
            kind = LimitReached if code == LimitReached.exit_code else UserError
            raise kind(bytes(text).rstrip(b"\0").decode(errors="ignore"))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """A context that the main process leaves before the others enter it."""
        if self.size > 1 and not self.is_main:
            distributed.barrier()
        yield
        if self.size > 1 and self.is_main:
            distributed.barrier()


def join_world(device: str) -> World:
    """The world of this command: the processes that ``accelerate launch`` started, or this one alone.

    `device` is the device of a single process. Of several processes, each has a GPU of its own, unless `device` is the
    CPU. Raises `UserError` if a device is missing.
    """
    if launcher.processes() == 1:
        return World(resolve_device(device), rank=0, size=1)
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: with several processes it must be auto, cpu or cuda")
    from accelerate import PartialState

    with warnings.catch_warnings(action="ignore"):  # about the number of threads, which vpctl sets itself
        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    return World(
        state.device,
        state.process_index,
        state.num_processes,
        sharded=launcher.shards(),
        zero_stage=launcher.zero_stage(),
    )
