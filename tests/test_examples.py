"""What a newcomer tries first: the code blocks of the README, and the scripts in `examples/`."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from itertools import count, pairwise
from pathlib import Path
from runpy import run_path
from statistics import NormalDist, correlation, mean, pstdev
from typing import Any

import pytest
import typer
import yaml
from PIL import Image as PIL

from tests.conftest import HOME, Ended, draw, lines, write_lines
from tests.servers import Server
from tests.surroundings import ENVIRONMENT
from vpctl import cli
from vpctl.errors import UserError
from vpctl.plugins import aspect
from vpctl.shapes.judge import judge as pixel_judge

BLOCKS = re.findall(r"^```sh\n(.*?)^```$", (HOME / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
TARGETS = ("--out", "--html", ">")
FILES = re.compile(r"(?:vp:)?([\w./-]+(?:\.jsonl|\.txt|-lora|-score))")


def test_the_first_block_of_the_readme_runs_in_an_empty_folder(tmp_path: Path) -> None:
    """It ends at the first command that fails. It has fewer prompts and steps of training, which take long."""
    block = BLOCKS[0]
    for many, few in (
        ("red green blue yellow purple orange;", "red;"),
        ("square triangle star cross", "square star"),
        ("--max-steps 60", "--max-steps 15"),
    ):
        assert block.count(many) == 1
        block = block.replace(many, few)
    environment = {**ENVIRONMENT, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (report,) = lines((tmp_path / "compared.jsonl").read_text())
    assert (report["metric"], report["reward"]) == ("win_rate", "shapes")
    assert report["n"] == 2 * 4, "every picture of every held-out prompt"
    assert 0 < report["value"] < 1, "the tuned model draws other pictures, better ones and worse ones"
    assert "win rate" in done.stderr
    assert "data:image/" in (tmp_path / "report.html").read_text()


def parse(name: str, words: list[str]) -> None:
    """Have the parser of a command take these words. It raises an error for those that the command does not have."""
    commands: Any = typer.main.get_command(cli.build({name}))
    parser = commands.commands[name]
    if name == "eval":
        kind, *words = words
        parser = parser.commands[kind]
    parser.make_context(name, [*words])


@pytest.mark.parametrize("block", BLOCKS[:2], ids=["shapes", "stable-diffusion"])
def test_every_file_that_a_block_of_the_readme_reads_was_made_before(block: str) -> None:
    made: set[str] = set()
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        targets = {word for before, word in pairwise(words) if before in TARGETS}
        read = {found[1] for word in words if word not in targets and (found := FILES.fullmatch(word))}
        assert read <= made, line
        made |= targets


@pytest.mark.parametrize("block", BLOCKS[:2], ids=["shapes", "stable-diffusion"])
def test_the_parser_takes_every_command_of_a_block_of_the_readme(block: str) -> None:
    commands = [part.strip() for line in block.splitlines() for part in line.split("|") if "vpctl " in part]
    assert len(commands) >= 8
    for command in commands:
        _, name, *words = shlex.split(command)
        parse(name, words)


def test_the_servers_of_the_readme_are_asked_as_it_says(tmp_path: Path) -> None:
    """Each of them is a stand-in on this machine, with the key that the block exports."""
    section = (HOME / "README.md").read_text().partition("\n## Servers\n")[2].partition("\n## ")[0]
    [drawing, asking, served] = re.findall(r"^```sh\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    for line in (drawing.splitlines()[-1], served):
        parse("generate", shlex.split(line)[2:])
    draw(tmp_path / "images", prompts=1)
    (tmp_path / "bin").mkdir()
    for name in ("vllm", "ollama"):
        stand_in(tmp_path / "bin" / name).write_text("#!/bin/sh\n")
    path = f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    with Server() as server:
        asking = re.sub(r"OPENAI_BASE_URL=\S+", f"OPENAI_BASE_URL={server.url}", asking)
        asking = asking.replace("OPENAI_API_KEY=", f"OPENAI_BASE_URL={server.url} OPENAI_API_KEY=", 1)
        numbers = count()
        asking = re.sub("out judgements", lambda _: f"out {next(numbers)}", asking)
        done = subprocess.run(
            ["bash", "-e", "-c", asking], cwd=tmp_path, env={**ENVIRONMENT, "PATH": path}, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
    judged = [lines((tmp_path / f"{number}.jsonl").read_text()) for number in range(5)]
    assert [len(records) for records in judged] == [4] * 5
    assert len({records[0]["annotator"] for records in judged}) == 5


@pytest.mark.parametrize(
    "words",
    [
        "shapes.sh",
        "ablations.sh",
        "sd15.sh prompts.txt held-out.txt",
        "sdxl.sh prompts.txt held-out.txt",
        "flux.sh prompts.txt held-out.txt",
    ],
)
def test_the_parser_takes_every_command_of_an_example_and_what_it_reads_was_made_before(
    tmp_path: Path, words: str
) -> None:
    script, *given = words.split()
    calls = called(tmp_path, script, *given)
    made = {words[words.index("--out") + 1] for words in calls}
    assert len(made) == len(calls), "nothing is written twice"
    for name, *options in calls:
        parse(name, options)
        options = options[1:] if name == "eval" else options
        read = {options[0], *(word.removeprefix("vp:") for word in options if word.startswith("vp:"))}
        assert {one for one in read if not one.endswith(".txt")} <= made, (name, options)


def test_the_parser_takes_every_command_of_the_table_of_algorithms(tmp_path: Path) -> None:
    """It works in the folder of shapes.sh."""
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "pairs.jsonl").write_text('{"chosen_file_name":"a.png","rejected_file_name":"b.png"}\n')
    calls = called(tmp_path, "algorithms.sh")
    for name, *options in calls:
        parse(name, options)
    tried = [words[words.index("--algorithm") + 1] if "--algorithm" in words else words[0] for words in calls]
    assert {"tune-dpo", "kto", "d3po", "ddpo", "refl", "nft"} <= {*tried}
    swapped = lines((tmp_path / "job" / "swapped.jsonl").read_text())
    assert swapped == [{"chosen_file_name": "b.png", "rejected_file_name": "a.png"}]


def test_the_paper_in_small_makes_every_file_that_its_claims_read(tmp_path: Path) -> None:
    """And the parser takes every command. Prompts and pictures are there, because the script counts their lines."""
    prompts = [{"prompt": f"cat {n}", "source_prompt": f"cat {n}, 8 k"} for n in range(100)]
    (tmp_path / "job" / "images").mkdir(parents=True)
    write_lines(tmp_path / "job" / "prompts.jsonl", prompts)
    write_lines(tmp_path / "job" / "held-out.jsonl", prompts)
    write_lines(tmp_path / "job" / "images" / "metadata.jsonl", [{"file_name": f"{n}.png"} for n in range(400)])
    calls = called(tmp_path, "paper.sh")
    made = {words[words.index("--out") + 1] for words in calls}
    assert len(made) == len(calls), "nothing is written twice"
    for name, *options in calls:
        parse(name, options)
    parts = tomllib.loads((HOME / "examples" / "claims.toml").read_text())["part"]
    reports = {one.get("report") or part.get("report") for part in parts for one in part.get("figures", [])}
    counted = {one["lines"] for part in parts for one in part.get("figures", []) if "lines" in one}
    shown = {file for part in parts for file in [*part.get("pictures", {}).values(), *part.get("runs", [])]}
    assert len(reports) > 20
    there = {str(file.relative_to(tmp_path / "job")) for file in (tmp_path / "job").rglob("*") if file.is_file()}
    assert {*filter(None, reports), *counted, *shown} <= made | there
    assert len((tmp_path / "job" / "images" / "imagereward.jsonl").read_text().splitlines()) == 4 * 11
    assert "8 k" in (tmp_path / "job" / "raw.txt").read_text()
    assert "8 k" not in (tmp_path / "job" / "polished.txt").read_text()


@pytest.mark.parametrize("name", ["gpt", "gemini", "llava"])
def test_a_simulated_model_errs_as_much_as_it_says(name: str) -> None:
    """Half of the variance of its error stays when it sees the picture in other company."""
    found = run_path(str(HOME / "examples" / "simulated_judges.py"))
    deviation = found["MODELS"][name]
    judge, fidelity = found["load"](name, device="cpu"), aspect("fidelity")
    pictures = [PIL.new("RGB", (32, 32), (n % 256, n // 256, 0)) for n in range(600)]
    truth = [pixel_judge("a red circle", one, "fidelity").score for one in pictures]
    alone = [judge("a red circle", [one], fidelity).scores[0] for one in pictures]
    together = judge("a red circle", pictures, fidelity).scores
    assert {*alone} <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert alone == [judge("a red circle", [one], fidelity).scores[0] for one in pictures]
    assert len({*truth}) == 1
    drawn = [min(max(truth[0] + error, 1), 5) for error in NormalDist(0, deviation).samples(5000, seed=1)]
    assert mean(alone) == pytest.approx(mean(map(round, drawn)), abs=0.15)
    assert pstdev(alone) == pytest.approx(pstdev(map(round, drawn)), rel=0.15)
    assert 0.2 < correlation(alone, together) < 0.7


def test_two_simulated_people_err_each_in_a_way_of_their_own() -> None:
    found = run_path(str(HOME / "examples" / "simulated_judges.py"))
    pictures = [PIL.new("RGB", (32, 32), (n % 256, n // 256, 0)) for n in range(600)]
    [one], [other] = ([found["load"](who, device="cpu")] for who in ("pickapic-1", "pickapic-2"))
    first, second = (judge("a red circle", pictures, aspect("fidelity")).scores for judge in (one, other))
    assert abs(correlation(first, second)) < 0.15
    for scores in (first, second):
        assert pstdev(scores) == pytest.approx(found["PEOPLE"]["pickapic"], rel=0.1)


@pytest.mark.parametrize("name", ["", "gpt4", "gpt-x"])
def test_an_unknown_simulated_judge_is_told_those_that_are_known(name: str) -> None:
    check = run_path(str(HOME / "examples" / "simulated_judges.py"))["check"]
    with pytest.raises(UserError, match="known: gpt, gemini, llava, imagereward, hpd, pickapic"):
        check(name)


def test_the_parser_takes_every_stage_of_the_recipe_of_the_paper(tmp_path: Path) -> None:
    images = tmp_path / "job" / "images"
    images.mkdir(parents=True)
    (images / "metadata-1.jsonl").write_text("one\n")
    (images / "metadata-12.jsonl").write_text("twelve\n")
    (images / "metadata-12.failed.jsonl").write_text("failed\n")
    calls = []
    for stage in ("polish", "plan", "draw", "cost", "judge", "merge"):
        calls = called(tmp_path, "visionprefer.sh", stage, "prompts.txt")
    for name, *options in calls:
        parse(name, options)
    assert [words[0] for words in calls] == ["polish", "generate", "generate", "annotate", "annotate", "merge"]
    assert "--dry-run" in calls[1]
    assert "--dry-run" in calls[3]
    assert calls[2].count("--model") == 4
    assert calls[2][calls[2].index("--guidance") + 1] == "3:12"
    assert calls[2][calls[2].index("--shard") + 1] == "1/1"
    assert (images / "metadata.jsonl").read_text() == "one\ntwelve\n", "also the second time"


def test_the_job_of_a_ci_server_stops_a_regression_and_names_its_metric(tmp_path: Path) -> None:
    """Its last step is run as the server runs it, on scores that are there; the parser takes the others."""
    job = yaml.safe_load((HOME / "examples" / "ci.yml").read_text())
    steps = {step["name"]: step["run"] for step in job["jobs"]["evaluate"]["steps"] if "run" in step}
    commands = "".join(steps.values()).replace("\\\n", " ").splitlines()
    for words in (shlex.split(line.replace('"$@"', "")) for line in commands if line.startswith("vpctl ")):
        parse(words[1], words[2:])
    scores = [number % 3 for number in range(40)]

    def rows(scores: Sequence[int]) -> list[dict[str, object]]:
        records = enumerate(scores)
        return [{"prompt": str(n), "file_name": f"{n % 2}.png", "scores": {"shapes": score}} for n, score in records]

    better = [score + 1 for score in scores]
    for name in ("base", "tuned", "eval"):
        (tmp_path / name).mkdir()
        for number in (0, 1):
            PIL.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    write_lines(tmp_path / "base" / "scored.jsonl", rows(scores))
    summary = tmp_path / "summary.md"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**ENVIRONMENT, "PATH": path, "GITHUB_STEP_SUMMARY": str(summary)}

    def compared(tuned: Sequence[int]) -> Ended:
        write_lines(tmp_path / "tuned" / "scored.jsonl", rows(tuned))
        call = ["bash", "-e", "-o", "pipefail", "-c", steps["Compare"]]
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return Ended(done.returncode, done.stdout, done.stderr)

    assert compared(better).code == 0, "the first run has nothing to compare with"
    shutil.copy(tmp_path / "compared.jsonl", tmp_path / "eval" / "accepted.jsonl")
    assert compared(better).code == 0
    worse = compared([*scores[:30], *better[30:]])
    assert worse.code == 4
    assert "::error title=--previous eval/accepted.jsonl::" in worse.err
    assert "win_rate" in worse.err
    assert "**failed**" in summary.read_text()


def called(tmp_path: Path, script: str, *given: str) -> list[list[str]]:
    """How an example calls vpctl in the folder ``job``: it gets a program in its place that writes this down."""
    log, job = tmp_path / "called", tmp_path / "job"
    stand_in(tmp_path / "bin" / "vpctl").write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{shlex.quote(str(log))}\n')
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    subprocess.run(["sh", HOME / "examples" / script, *given, job], env={**ENVIRONMENT, "PATH": path}, check=True)
    return [line.split() for line in log.read_text().splitlines()]


def cron(folder: Path, **environment: str) -> Ended:
    """Run `examples/cron.sh` on a job in `folder` as cron starts it: from another folder, and with a short PATH."""
    (folder / "job" / "images").mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["sh", HOME / "examples" / "cron.sh", folder / "job"],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def stand_in(path: Path, code: int = 0) -> Path:
    """Write a program that records how it was called and exits with `code`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "$1 $2" >>{shlex.quote(str(path.parent / "called"))}\nexit {code}\n')
    path.chmod(0o755)
    return path


def test_cron_finds_vpctl_in_the_home_folder(tmp_path: Path) -> None:
    program = stand_in(tmp_path / ".local" / "bin" / "vpctl")
    if (HOME / ".venv" / "bin" / "vpctl").exists():
        pytest.skip("this checkout has a vpctl of its own, which goes before")
    assert cron(tmp_path) == Ended(0, "", "")
    job = tmp_path / "job"
    called = (program.parent / "called").read_text().splitlines()
    assert called == [f"annotate {job}/images/metadata.jsonl", f"merge {job}/judgements.jsonl"]


@pytest.mark.parametrize("where", ["crontab", "key.env"])
def test_cron_takes_the_vpctl_that_is_named(tmp_path: Path, where: str) -> None:
    program = stand_in(tmp_path / "my programs" / "vpctl")
    if where == "crontab":
        assert cron(tmp_path, VPCTL=str(program)) == Ended(0, "", "")
    else:
        (tmp_path / "job").mkdir()
        (tmp_path / "job" / "key.env").write_text(f"VPCTL='{program}'\n")
        assert cron(tmp_path) == Ended(0, "", "")
    assert len((program.parent / "called").read_text().splitlines()) == 2


def test_cron_says_how_to_name_vpctl_where_there_is_none(tmp_path: Path) -> None:
    ended = cron(tmp_path, VPCTL=str(tmp_path / "none"))
    assert ended.code == 2
    assert f"{tmp_path}/none: not found; set VPCTL to its full path" in ended.out
    assert ended.out.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "end", "mail"), [(3, 0, "some judgements failed"), (5, 0, ""), (75, 0, ""), (2, 2, "")]
)
def test_cron_tells_a_person_of_what_is_left_to_them_and_of_nothing_else(
    tmp_path: Path, code: int, end: int, mail: str
) -> None:
    program = stand_in(tmp_path / "vpctl", code)
    ended = cron(tmp_path, VPCTL=str(program))
    called = (tmp_path / "called").read_text().splitlines()
    if code in (3, 5):
        assert called[-1].startswith("merge")
        assert ended.code == code, "what merge ended with"
    else:
        assert len(called) == 1
        assert ended.code == end
    assert mail in ended.out
    assert mail or not ended.out
