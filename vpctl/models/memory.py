"""The memory of the CPU that torch frees and takes again."""

import ctypes
import os
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of the parameters, from malloc.h."""
_KEPT = 2**28
"""Bytes that may be free at the end of the heap of each thread, where other programs cannot use them."""
_LARGEST_IN_HEAP = 2**25
"""Bytes. glibc allows no more on 64-bit systems. Blocks above it are mapped one by one, and go back when freed."""


@cache
def keep_freed() -> None:
    """Tell the C library to keep the memory that this process frees, for its next tensors.

    glibc gives free memory at the end of its heap back to the system. Its threshold is smaller than the activations of
    a training step, so each step pays for the same pages again: up to a tenth of its time for a small model
    (`benchmarks/dpo.py`). The price is memory that the process does not use for a while: up to `_KEPT` bytes for each
    thread that allocates, and what is free below a tensor that is still in use. Does nothing if the user has set
    glibc's variables for this, or if the C library has no such setting.
    """
    chosen = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    if chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
