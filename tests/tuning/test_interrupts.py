"""Trainings that are interrupted, or whose disk is full, and started again: they end as if nothing had happened.

VPCTL_KILLS=10 interrupts each of them ten times instead of twice, as it is done before a release.
"""

import fcntl
import os
import re
from pathlib import Path
from random import Random
from typing import NamedTuple

import orjson
import pytest
from safetensors.torch import load_file

from tests.forks import Forks
from tests.test_startup import HEAVY, listed, packages
from vpctl.shapes.grammar import describe, near_misses, sample
from vpctl.shapes.render import render

INTERRUPTS = max(2, int(os.environ.get("VPCTL_KILLS", "1")))
CHANCE = Random(INTERRUPTS)
COUNTED = '''"""The shapes reward, which counts its calls and interrupts its own process where it is told to."""

import os
import signal

from vpctl.rewards.shapes import load as shapes


def load(argument, *, device):
    reward = shapes("", device=device)
    if argument == "loading":
        os.kill(os.getpid(), signal.SIGTERM)

    def counted(images, prompts):
        with open("calls", "a") as file:
            file.write("x")
        if argument == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
        return reward(images, prompts)

    return counted
'''
SENT = (
    "kill -INT $PPID; kill -TERM $PPID",
    "kill -TERM $PPID; sleep 0.003; kill -INT $PPID; kill -INT $PPID",
    "kill -TERM $PPID",
    "kill -INT $PPID",
)
"""What is one interrupt: launchers forward a SIGTERM while the terminal sends a SIGINT."""
CALLS = 2
"""Of the reward in a round of tune-ppo."""


class Training(NamedTuple):
    """A command line, short of --out, and the files that are its results."""

    arguments: list[str]
    results: list[str]


# No checkpoint is ever due before the end: what is kept is what an interrupt saved.
TRAININGS = {
    "train-rm": Training(
        f"train-rm pairs.jsonl --epochs {INTERRUPTS + 1} --batch 2 --save-every 1000".split(),
        ["model.safetensors", "reward.json", "README.md", "tokenizer.json"],
    ),
    "tune-dpo": Training(
        f"tune-dpo pairs.jsonl -m shapes:small --max-steps {4 * INTERRUPTS} --batch 2 --accumulate 2 --save-every 1000 "
        "--preview-every 0".split(),
        ["pytorch_lora_weights.safetensors"],
    ),
    "tune-ppo": Training(
        f"tune-ppo prompts.txt -m shapes:small --reward ./counted.py --epochs {3 * INTERRUPTS} --steps 4 "
        "--prompts-per-epoch 4 -n 2 --batch 4 --save-every 1000 --preview-every 0".split(),
        ["pytorch_lora_weights.safetensors"],
    ),
}


@pytest.fixture(scope="module")
def workplace(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, pairs and a reward, and of every training a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("interrupts")
    (folder / "counted.py").write_text(COUNTED)
    rng, pairs = Random(2), []
    for number in range(12):
        scene = sample(rng)
        names = [f"{number}-{which}.png" for which in ("true", "wrong")]
        for name, shown in zip(names, (scene, rng.choice(list(near_misses(scene)))), strict=True):
            render(shown, rng).save(folder / name)
        pair = {"prompt_id": str(number), "prompt": describe(scene), "margin": 1.0}
        split = ("train", "train", "train", "validation", "test", "train")[number % 6]
        pairs.append({**pair, "chosen_file_name": names[0], "rejected_file_name": names[1], "split": split})
    (folder / "pairs.jsonl").write_bytes(b"".join(orjson.dumps(pair) + b"\n" for pair in pairs))
    (folder / "prompts.txt").write_text("".join(f"{pair['prompt']}\n" for pair in pairs))
    for name, training in TRAININGS.items():
        ended = forks([*training.arguments, "--out", f"{name}-whole"], folder)
        assert ended.code == 0, ended.err
    return folder


def steps_in(metrics: Path) -> list[int]:
    """The steps that are logged, each once."""
    lines = metrics.read_bytes().splitlines(keepends=True) if metrics.exists() else []
    return list(dict.fromkeys(orjson.loads(line)["step"] for line in lines if line.endswith(b"\n")))


def steps_of(workplace: Path, name: str) -> int:
    """How many steps the training has."""
    return len(steps_in(workplace / f"{name}-whole" / "metrics.jsonl"))


MOMENTS = {
    "train-rm": ["reward:optimizer_step", "run:Run.log", "run:Run.finished", "run:Run.due"],
    "tune-dpo": ["tuner:optimizer_step", "dpo:noised_pairs", "run:Run.log", "run:Run.finished", "run:Run.due"],
    "tune-ppo": ["rounds:roll_out_and_score", "run:Run.log", "run:Run.finished", "run:Run.due"],
}
"""Functions of a training that are called once a step, where it is interrupted."""


def assert_same(workplace: Path, name: str, out: str) -> None:
    whole, other = workplace / f"{name}-whole", workplace / out
    for result in ["metrics.jsonl", *TRAININGS[name].results]:
        if result.endswith(".safetensors"):
            ours, theirs = load_file(whole / result), load_file(other / result)
            assert ours.keys() == theirs.keys()
            assert all(bool((ours[key] == theirs[key]).all()) for key in ours), result
        else:
            assert (whole / result).read_bytes() == (other / result).read_bytes(), result
    assert not list(other.glob("*.part"))


@pytest.mark.parametrize("name", TRAININGS)
def test_interrupted_again_and_again_it_ends_as_if_it_had_not_been(name: str, workplace: Path, forks: Forks) -> None:
    training, out = TRAININGS[name], f"{name}-cut"
    arguments, metrics = [*training.arguments, "--out", out], workplace / out / "metrics.jsonl"
    (workplace / "calls").unlink(missing_ok=True)
    steps = steps_of(workplace, name)
    reached = 0
    for turn in range(INTERRUPTS):
        moment, call = f"vpctl.tuning.{CHANCE.choice(MOMENTS[name])}", CHANCE.randint(2, 3)
        signals = SENT[turn % len(SENT)]
        ended = forks(arguments, workplace, signals=signals, moment=moment, call=call)
        assert ended.code == 130, (moment, call, signals, ended.err)
        assert bool(re.search(rf"resuming at (step|round) {reached + 1} of {steps}\n", ended.err)) == bool(reached)
        said = re.search(
            rf"^vpctl {name}: interrupted at (?:step|round) (\d+) of {steps}; "
            rf"the checkpoint(?: of (?:step|round) (\d+))? is in {out}/; run the same command again to resume$",
            ended.err,
            re.MULTILINE,
        )
        assert said, (moment, call, signals, ended.err)
        reached = int(said[2] or said[1])
        logged = steps_in(metrics)
        assert logged == [*range(1, len(logged) + 1)]
        assert 0 <= len(logged) - reached <= (name == "tune-ppo"), (
            "a step is finished, and no more than one round is done again"
        )
    assert 0 < reached < steps
    ended = forks(arguments, workplace)
    assert ended.code == 0, ended.err
    assert_same(workplace, name, out)
    if name == "tune-ppo":
        assert (workplace / "calls").stat().st_size <= CALLS * (steps + INTERRUPTS)


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("loading", "interrupted before the first step; nothing was saved yet, run the same command again"),
        ("interrupted", r"interrupted in round 1 of \d+; run the same command again to start over"),
    ],
)
def test_an_interrupt_before_the_first_step_promises_nothing(
    moment: str, said: str, workplace: Path, forks: Forks
) -> None:
    arguments = [
        f"./counted.py:{moment}" if word == "./counted.py" else word for word in TRAININGS["tune-ppo"].arguments
    ]
    ended = forks([*arguments, "--out", moment], workplace)
    assert ended.code == 130
    assert re.fullmatch(f"vpctl tune-ppo: {said}", ended.err.splitlines()[-1])
    assert not (workplace / moment / "checkpoint.pt").exists()


@pytest.mark.parametrize("name", ["train-rm", "tune-dpo"])
def test_a_file_that_cannot_grow_ends_in_one_line_and_is_resumed_when_it_can(
    name: str, workplace: Path, forks: Forks
) -> None:
    """The limit stops the first file that reaches it: a preview, or the checkpoint."""
    out = f"{name}-full"
    arguments = [*TRAININGS[name].arguments, "--out", out]
    ended = forks(arguments, workplace, limit=2000)
    assert ended.code == 2, ended.err
    *_, last = ended.err.splitlines()
    assert re.fullmatch(
        rf"vpctl {name}: error: {out}/\S+: file too large; there is no checkpoint yet: "
        "fix this and run the same command again",
        last,
    )
    assert ended.err.count("error") == 1
    assert "Traceback" not in ended.err
    assert not list((workplace / out).glob("*.part")), "it would hold the space"
    ended = forks(arguments, workplace)
    assert ended.code == 0, ended.err
    assert_same(workplace, name, out)


@pytest.mark.parametrize("name", TRAININGS)
def test_an_ended_run_says_so_before_anything_heavy_is_imported(name: str, workplace: Path) -> None:
    out = f"{name}-whole"
    arguments = [*TRAININGS[name].arguments, "--out", out]
    before = {path: path.stat().st_mtime_ns for path in (workplace / out).rglob("*")}
    ended, modules = listed(workplace, *arguments)
    assert ended.code == 0
    assert ended.err.splitlines()[-1] == f"vpctl {name}: {out} already holds the finished run; nothing to do"
    assert not packages(modules) & HEAVY
    with (workplace / out / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended, modules = listed(workplace, *arguments)
    assert ended.code == 75
    assert ended.err.endswith(f"vpctl {name}: --out {out}: another run is writing it\n")
    assert not packages(modules) & HEAVY
    assert {path: path.stat().st_mtime_ns for path in (workplace / out).rglob("*")} == before
