"""Names of devices, checked without torch."""

import re
import sys
from pathlib import Path

from ..errors import UserError

KNOWN = ("auto", "cpu", "cuda", "cuda:1", "mps")
"""What ``--device`` takes, with one example of a numbered GPU."""
GPU_NODES = ("nvidia*", "kfd", "dxg", "nvhost*", "nvmap", "nvgpu*")
"""Device files. A Linux machine with a GPU for CUDA or ROCm has at least one of them."""


def check(name: str, *, nodes: Path = Path("/dev"), system: str = sys.platform) -> str:
    """`name` itself. Raises `UserError` if it is not a device's, or of one that this machine certainly does not have.

    Whether a GPU can be used is for torch to find out, when it is loaded.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
        raise UserError(f"--device {name}: is not a device; known: {', '.join(KNOWN)}")
    if name == "mps" and system != "darwin":
        raise UserError("--device mps: is for Apple's GPUs, and this is not macOS; leave it out for the fastest device")
    if name.startswith("cuda") and (
        system == "darwin" or (system == "linux" and not any(any(nodes.glob(node)) for node in GPU_NODES))
    ):
        raise UserError(f"--device {name}: this machine has no GPU for CUDA; leave it out for the fastest device")
    return name
