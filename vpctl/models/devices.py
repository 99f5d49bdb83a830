"""Where models run, and in which precision."""

import torch

from ..errors import UserError


def resolve_device(device: str) -> torch.device:
    """The device of a name; ``auto`` is the first GPU, else the CPU. Raises `UserError` for one that is not there."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from None
    return picked


def half_on_gpu(device: torch.device) -> torch.dtype:
    """The precision for inference: half on a GPU, full on a CPU, which computes halves slowly."""
    return torch.float32 if device.type == "cpu" else torch.float16
