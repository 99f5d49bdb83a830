"""The memory that torch frees: it is kept for the next tensors, unless the user has decided otherwise."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SETTINGS = ("MALLOC_", "GLIBC_TUNABLES")
CHOSEN = {"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}
FIRST, STEPS = 5, 10
"""In its first steps the heap grows to its size: how many that takes depends on where its blocks begin."""
STEP = """
import resource
from vpctl.models.devices import resolve_device
import torch

device = resolve_device("auto")

def step():
    # Three activations of 4 MB live together and are freed together.
    activations = [torch.ones(1024, 1024, device=device) for _ in range(3)]

for _ in range({first}):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({steps}):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(), reason="few pages are needed at all")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
@pytest.mark.parametrize("chosen", [{}, *CHOSEN])
def test_freed_memory_is_kept_for_the_next_step(chosen: dict[str, str]) -> None:
    """Were it given back, every step would fetch at least 8 MB anew: 2,048 pages of 4 KB."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    command = [sys.executable, "-c", STEP.format(first=FIRST, steps=STEPS)]
    env = {**own, "CUDA_VISIBLE_DEVICES": "", **chosen}
    pages = int(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert pages > (STEPS - 1) * 2048 if chosen else pages < 2048
