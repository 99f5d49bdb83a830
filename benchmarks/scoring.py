"""Pictures per second of a full-size ImageReward: the package image-reward against `vpctl score`.

Both sides score the same pictures, four for each prompt, with the same random weights in float32, and two threads.
image-reward takes a prompt and the paths of its pictures (`inference_rank`), and runs its model picture by picture.
vpctl runs what `vpctl score` does with its records, in float32 and, as with --dtype bfloat16, in bfloat16. All decode
the files, half of them JPEG and half PNG. Each side is a process of its own; rounds of all sides alternate, and the
median is told. CPU time is told beside it, which other work on the machine changes less. Goal: at least 3 times the
pictures per second.

image-reward must be installed; see `tests.rewards.installed`. Run from the root of the repository with:
python -m benchmarks.scoring
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BertTokenizer

from tests.rewards import installed
from tests.rewards.peers import VOCABULARY
from vpctl import plugins
from vpctl.images.pictures import Pictures
from vpctl.models.scoring import load_batches

PROMPTS, EACH, ROUNDS, THREADS = 8, 4, 3, 2
BATCH = 32
"""The default of ``vpctl score --batch``."""
SIDE = 512
GOAL = 3.0
Records = list[dict[str, Any]]


def furnish(folder: Path) -> None:
    """Write the checkpoint, the vocabulary and the pictures."""
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    made = installed.image_reward(tokenizer(folder), folder / "med.json")
    installed.draw(made)
    torch.save(made.state_dict(), folder / "ImageReward.pt")
    rng = np.random.default_rng(0)
    words = [word for word in VOCABULARY if word.isalpha() and len(word) > 1]
    with (folder / "records.jsonl").open("w") as file:
        for number in range(PROMPTS * EACH):
            if number % EACH == 0:
                prompt = " ".join(rng.choice(words, rng.integers(6, 40)))
            coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            name = f"{number}.{'jpg' if number % 2 else 'png'}"
            coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / name)
            file.write(json.dumps({"prompt": prompt, "file_name": str(folder / name)}) + "\n")


def tokenizer(folder: Path) -> Any:
    """The tokenizer of both sides."""
    return BertTokenizer(str(folder / "vocab.txt"))


def theirs(folder: Path) -> Callable[[Records], list[float]]:
    """image-reward, as its documentation uses it."""
    model = installed.image_reward(tokenizer(folder), folder / "med.json")
    model.load_state_dict(torch.load(folder / "ImageReward.pt", map_location="cpu", weights_only=True), strict=False)

    def score(records: Records) -> list[float]:
        scores: list[float] = []
        with torch.no_grad():
            for start in range(0, len(records), EACH):
                some = records[start : start + EACH]
                scores += model.inference_rank(some[0]["prompt"], [record["file_name"] for record in some])[1]
        return scores

    return score


def ours(folder: Path, dtype: str) -> Callable[[Records], list[float]]:
    """vpctl, from records to scores."""
    rewards = {"imagereward": plugins.load("reward", f"imagereward:{folder}", device="cpu", dtype=dtype)}
    pictures = Pictures([str(folder)])

    def score(records: Records) -> list[float]:
        scores: list[float] = []
        for batch in load_batches(records, pictures, rewards, most=BATCH):
            found, failures = batch.scored(rewards)
            assert not failures
            scores += [one["imagereward"] for _, one in found]
        return scores

    return score


SIDES: dict[str, Callable[[Path], Callable[[Records], list[float]]]] = {
    "image-reward": theirs,
    "vpctl": partial(ours, dtype="float32"),
    "vpctl in bfloat16": partial(ours, dtype="bfloat16"),
}


def work(side: str, folder: Path) -> None:
    """Load a side. Then, for every line of standard input, score all pictures and print the costs and the scores.

    The costs are seconds, seconds of CPU, and bytes of peak memory.
    """
    torch.set_num_threads(THREADS)
    score = SIDES[side](folder)
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    score(records[:EACH])
    print("ready", flush=True)
    for _ in sys.stdin:
        began, cpu = time.monotonic(), time.process_time()
        scores = score(records)
        costs = time.monotonic() - began, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps([*costs, peak, scores]), flush=True)


def main() -> None:
    """Measure both sides, and print pictures per second, peak memory and the ratio."""
    if missing := installed.missing(installed.IMAGE_REWARD):
        sys.exit(f"not installed: {', '.join(missing)}; see tests/rewards/installed.py")
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "benchmarks.scoring"]
        subprocess.run([*command, "furnish", name], check=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
        workers = {
            side: subprocess.Popen(
                [*command, side, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            for side in SIDES
        }
        rounds: dict[str, list[tuple[float, float, int, list[float]]]] = {side: [] for side in SIDES}
        try:
            for worker in workers.values():
                assert worker.stdout
                assert worker.stdout.readline() == "ready\n"
            for _ in range(ROUNDS):
                for side, worker in workers.items():
                    assert worker.stdin
                    assert worker.stdout
                    worker.stdin.write("\n")
                    worker.stdin.flush()
                    rounds[side].append(json.loads(worker.stdout.readline()))
        finally:
            for worker in workers.values():
                worker.terminate()
                worker.communicate()
    count = PROMPTS * EACH
    medians = {
        side: (statistics.median(one[0] for one in each), statistics.median(one[1] for one in each))
        for side, each in rounds.items()
    }
    least = medians["image-reward"]
    expected = np.array(rounds["image-reward"][0][3])
    for side, each in rounds.items():
        seconds, cpu = medians[side]
        rates = ", ".join(f"{count / one[0]:.2f}" for one in each)
        difference = np.abs(np.array(each[0][3]) - expected).max()
        print(f"{side}: {count / seconds:.2f} pictures/s ({rates}), {cpu / count:.2f} s of CPU a picture,", end=" ")
        print(f"peak memory {max(one[2] for one in each) / (1 << 30):.2f} GiB;", end=" ")
        print(f"ratio {least[0] / seconds:.2f} (goal {GOAL:.0f}), in CPU {least[1] / cpu:.2f};", end=" ")
        print(f"largest difference of a score {difference:.1e}, where scores deviate by {expected.std():.2f}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case ["furnish", place]:
            furnish(Path(place))
        case [one, place]:
            work(one, Path(place))
