"""What a call costs in the whole command: `vpctl annotate` against two bare loops of aiohttp.

1,000 calls with four pictures of 60 KB each, 100 in flight, to a server that answers after 0.2 s; then 5,000 calls, in
which the start counts for less. The command reads the records, opens and hashes the pictures, encodes each once for
four aspects, makes the bodies, reads the answers, and writes the judgements. The first loop has its bodies before it
starts, and looks at no answer: no client can cost less. The second makes the body of each call from eight ready
questions with encoded pictures, and reads the answers, as a short script would. Each side is a process, measured from
its start to its end. Rounds of all sides alternate, and the median counts. Goals, to the first loop: at least 0.85 of
its calls in a second, and at most 3 times its CPU for a call. Run with: python -m benchmarks.annotate
"""

import io
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import orjson
from PIL import Image

from benchmarks.calls import IN_FLIGHT, KEY
from benchmarks.engine import Cost, served
from vpctl.streams.places import hidden_beside

BARE = "aiohttp, bodies ready"
CALLS, ROUNDS = (1000, 5000), (9, 3)
ASPECTS, PICTURES = 4, 4
SIDE = 141
"""Pixels. A PNG of so much noise has 60 KB."""


def draw(folder: Path, prompts: int) -> Path:
    """A folder with four noisy pictures for each prompt. Returns the file of its records."""
    chance, records = Random(0), []
    for prompt in range(prompts):
        for number in range(PICTURES):
            name = f"{prompt}-{number}.png"
            noise = Image.frombytes("RGB", (SIDE, SIDE), chance.randbytes(3 * SIDE * SIDE))
            buffer = io.BytesIO()
            noise.save(buffer, "PNG", compress_level=1)
            (folder / name).write_bytes(buffer.getvalue())
            records.append({"prompt": f"a picture of the number {prompt}", "file_name": name})
    file = folder / "metadata.jsonl"
    file.write_bytes(b"".join(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in records))
    return file


def cost(command: list[str], env: dict[str, str], calls: int) -> Cost:
    """Of a whole process that makes so many calls."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)
    after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    assert done.returncode == 0, done.stderr
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(calls / took, 1000 * cpu / calls)


def compare(calls: int, rounds: int, url: str, folder: Path) -> None:
    """Measure all sides in turn, so many rounds, and print what they took."""
    images = draw(folder, calls // ASPECTS)
    out = folder / "judgements.jsonl"
    cache = Path(hidden_beside(str(out), "contents"))
    size = (folder / "0-0.png").stat().st_size
    print(f"{calls} calls with {PICTURES} pictures of {size / 1000:.0f} KB")
    words = ["-m", "vpctl", "annotate", str(images), "--annotator", "openai:judge", "--out", str(out)]
    sides = {
        BARE: ["-m", "benchmarks.calls", str(calls)],
        "aiohttp, making bodies": ["-m", "benchmarks.calls", str(calls), "making"],
        "vpctl annotate": [*words, "--concurrency", str(IN_FLIGHT)],
    }
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    env = {**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY}
    for _ in range(rounds):
        for name, command in sides.items():
            for file in (out, cache):
                file.unlink(missing_ok=True)
            costs[name].append(cost(command, env, calls))
    medians = {name: Cost(*map(statistics.median, zip(*each, strict=True))) for name, each in costs.items()}
    for name, (rate, cpu) in medians.items():
        print(f"  {name}: {rate:.0f} calls/s, {cpu:.2f} ms CPU a call")
    own = medians.pop("vpctl annotate")
    for name, loop in medians.items():
        goals = "; goals 0.85 and 3" if name == BARE else ""
        print(
            f"  vpctl to {name}: {own.rate / loop.rate:.2f} of the speed, {own.cpu / loop.cpu:.1f} times the CPU{goals}"
        )


def main() -> None:
    """Compare few calls and many."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2 if len(cores) >= 4 else 0
    os.sched_setaffinity(0, cores[:half] or cores)
    verdict: dict[str, Any] = {"because": "A square.", "rationale": "A square.", "level": 4}
    with served({**dict.fromkeys("ABCD", verdict), "ranking": [*"ABCD"]}, cores[half:]) as url:
        for calls, rounds in zip(CALLS, ROUNDS, strict=True):
            with TemporaryDirectory() as folder:
                compare(calls, rounds, url, Path(folder))


if __name__ == "__main__":
    main()
