"""A command that is killed at any event and started again ends with the result of an uninterrupted run.

VPCTL_KILLS=5 kills every command five times instead of once. This is done before a release.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

import orjson
import pytest
from safetensors.torch import load_file

from tests.forks import Forks
from vpctl.shapes.prompts import raw_prompts

KILLS = int(os.environ.get("VPCTL_KILLS", "1"))
rng = Random(KILLS)

STAGES: dict[str, tuple[str, list[str]]] = {
    # name: the command line, with {out} for its output, and the files it leaves
    "polish": (
        "polish raw.txt --keep-original --out {out}.jsonl",
        ["{out}.jsonl", "{out}.dropped.jsonl"],
    ),
    "generate": (
        "generate prompts.txt -n 2 --steps 5 --batch 4 --out {out}/metadata.jsonl",
        ["{out}/metadata.jsonl"],
    ),
    "annotate": ("annotate images/metadata.jsonl --out {out}.jsonl", ["{out}.jsonl"]),
    "merge": ("merge judgements.jsonl --out {out}.jsonl", ["{out}.jsonl"]),
    "score": ("score images/metadata.jsonl --batch 4 --out {out}.jsonl", ["{out}.jsonl"]),
    "train-rm": (
        "train-rm pairs.jsonl --out {out} --epochs 3 --batch 4 --save-every 4",
        ["{out}/metrics.jsonl", "{out}/model.safetensors", "{out}/reward.json", "{out}/README.md"],
    ),
    "tune-dpo": (
        "tune-dpo pairs.jsonl -m shapes:small --out {out} --max-steps 4 --batch 2 --accumulate 2 --save-every 1 "
        "--preview-every 4",
        ["{out}/metrics.jsonl", "{out}/pytorch_lora_weights.safetensors", "{out}/previews/000004.png"],
    ),
    "tune-ppo": (
        "tune-ppo prompts.txt -m shapes:small --out {out} --epochs 4 --prompts-per-epoch 2 --images 2 --steps 3 "
        "--save-every 2 --preview-every 0",
        ["{out}/metrics.jsonl", "{out}/pytorch_lora_weights.safetensors"],
    ),
    "eval": ("eval accuracy pairs.jsonl --html {out}.html --out {out}.jsonl", ["{out}.jsonl"]),
}


Call = Callable[[str, int], int]
"""Runs a command in the workplace to its end, or kills it at one of its events. Returns its exit code."""


@pytest.fixture(scope="module")
def call(workplace: Path, forks: Forks) -> Call:
    def call(command: str, at: int) -> int:
        done = forks(command.split(), workplace, kill=at)
        assert done.code in (0, -signal.SIGKILL), done.err
        return done.code

    return call


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    (folder / "raw.txt").write_text("\n".join(raw_prompts(1500, Random(1))))
    (folder / "prompts.txt").write_text("\n".join(raw_prompts(14, Random(2))))
    for command in (
        "generate prompts.txt -n 4 --steps 8 --out images/metadata.jsonl",
        "annotate images/metadata.jsonl --out judgements.jsonl",
        "merge judgements.jsonl --split train:0.8,validation:0.1,test:0.1 --out pairs.jsonl",
    ):
        assert forks(command.split(), folder).code == 0
    return folder


def records(file: Path) -> list[bytes]:
    return sorted(orjson.dumps(orjson.loads(line)) for line in file.read_bytes().splitlines())


def same(one: Path, other: Path) -> bool:
    if one.suffix == ".safetensors":
        ours, theirs = load_file(one), load_file(other)
        return ours.keys() == theirs.keys() and all(bool((ours[name] == theirs[name]).all()) for name in ours)
    if one.suffix == ".jsonl":
        return records(one) == records(other)
    return one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_started_again_it_ends_as_if_it_had_not_been(stage: str, workplace: Path, call: Call) -> None:
    command, results = STAGES[stage]

    def named(out: str) -> Callable[[str], str]:
        return lambda text: text.format(out=out)

    whole, cut = named(f"{stage}-whole"), named(f"{stage}-cut")
    assert call(whole(command), 0) == 0
    events = int((workplace / "events").read_text())
    assert events > len(results), "it is seen at work"
    kills = [call(cut(command), rng.randint(1, events)) for _ in range(KILLS)]
    assert kills[0] == -signal.SIGKILL
    assert call(cut(command), 0) == 0
    for result in results:
        assert same(workplace / whole(result), workplace / cut(result)), result
    if stage == "generate":
        folders = [workplace / name("{out}") for name in (whole, cut)]
        pictures, again = ({path.relative_to(folder) for path in folder.rglob("*.png")} for folder in folders)
        assert pictures == again
    assert not list(workplace.rglob("*.part")), "what a killed run left lying about is gone"
