"""The device and precision that models run in, and the processes of a training."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError


def resolve_device(device: str) -> torch.device:
    """The device with this name. ``auto`` is the first GPU, or else the CPU. Raises `UserError` if it is missing."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from None
    return resolved


def resolve_dtype(dtype: str) -> torch.dtype:
    """The precision with this name: float32, bfloat16 or float16. An empty name is float32."""
    return {"": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def half_on_gpu(device: torch.device) -> torch.dtype:
    """The precision for inference: float16 on a GPU, and float32 on a CPU, where float16 is slow."""
    return torch.float32 if device.type == "cpu" else torch.float16


@dataclass(frozen=True)
class World:
    """The processes of one training, as one of them sees it."""

    device: torch.device
    """The device of this process."""
    rank: int
    """The number of this process, from 0."""
    size: int
    """The number of processes."""

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and reports progress."""
        return self.rank == 0

    def gather(self, values: Tensor) -> Tensor:
        """`values` of all processes, stacked in the order of their ranks. The shape is (size, *values.shape)."""
        return values[None]


def join_world(device: str) -> World:
    """The world of this command, on the device with this name. vpctl trains in one process."""
    return World(resolve_device(device), rank=0, size=1)
