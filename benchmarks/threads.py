"""How much slower two models side by side are when their threads spin: the reason for `cli._limit_threads`.

Two processes run the shapes world's UNet at once on two cores, with two threads each as torch would have it, then as
vpctl sets things. Run with:  python benchmarks/threads.py
"""

import os
import subprocess
import sys

SECONDS = 6
WORK = f"""
import time, torch
from diffusers import UNet2DConditionModel
from vpctl.generators.shapes import WEIGHTS
unet = UNet2DConditionModel.from_pretrained(WEIGHTS / "base" / "unet", dtype=torch.float32).eval()
batch = torch.randn(16, 4, 8, 8), torch.randint(0, 1000, (16,)), torch.randn(16, 24, 128)
with torch.inference_mode():
    unet(*batch)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < {SECONDS}:
        unet(*batch)
        count += 1
print(1000 * (time.monotonic() - began) / count)
"""
SETTINGS = {
    "two threads that spin, as torch starts them": {"OMP_NUM_THREADS": "2"},
    "two threads that soon wait, as vpctl sets them": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "1000"},
    "one thread, as vpctl sets it in a pipe": {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"},
}


def milliseconds(processes: int, environment: dict[str, str]) -> float:
    """Mean time of a forward pass in so many processes at once, all on the same two cores."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORK],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        for _ in range(processes)
    ]
    times = [float(process.communicate()[0]) for process in running]
    return sum(times) / len(times)


def main() -> None:
    """Print a line for each setting, and how the worst compares with the best."""
    together = {}
    for name, environment in SETTINGS.items():
        alone, together[name] = milliseconds(1, environment), milliseconds(2, environment)
        print(f"{name}: {alone:.0f} ms alone, {together[name]:.0f} ms with another beside it")
    print(f"ratio of worst to best, side by side: {max(together.values()) / min(together.values()):.1f}")


if __name__ == "__main__":
    main()
