"""What a command costs before it does anything: CPU time of `vpctl`, against the least a program like it could cost.

Two ratios: `vpctl --help` to a bare Typer application with nine empty commands (goal at most 1.3), and `vpctl merge` of
ten records to importing typer, rich and orjson (goal at most 2). Runs of both sides alternate. Run with:
python benchmarks/startup.py
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = 15
BARE = """
import typer
app = typer.Typer()
for name in "one two three four five six seven eight nine".split():
    def command(): ...
    app.command(name)(command)
app()
"""
IMPORTS = "import typer, rich, orjson"
JUDGEMENT = {
    "prompt": "a red circle",
    "aspect": "aesthetic",
    "annotator": "someone",
    "image_ids": ["one", "two"],
    "file_names": ["one.png", "two.png"],
    "scores": [2.0, 4.0],
}


def seconds(command: list[str], folder: str) -> float:
    """CPU time of a process, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print both ratios."""
    vpctl = [sys.executable, "-m", "vpctl"]
    with tempfile.TemporaryDirectory() as folder:
        records = "".join(json.dumps({**JUDGEMENT, "prompt_id": f"p{number}"}) + "\n" for number in range(10))
        (Path(folder) / "ten.jsonl").write_text(records)
        contests = {
            "vpctl --help to a bare Typer application": (
                [*vpctl, "--help"],
                [sys.executable, "-c", BARE, "--help"],
                1.3,
            ),
            "vpctl merge of ten records to three imports": (
                [*vpctl, "merge", "ten.jsonl", "--out", os.devnull],
                [sys.executable, "-c", IMPORTS],
                2.0,
            ),
        }
        for name, (ours, least, goal) in contests.items():
            for command in (ours, least):
                seconds(command, folder)
            pairs = [(seconds(ours, folder), seconds(least, folder)) for _ in range(RUNS)]
            own, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
            print(f"{name}: {1000 * own:.0f} ms / {1000 * theirs:.0f} ms = {own / theirs:.2f} (goal {goal})")


if __name__ == "__main__":
    main()
