"""Parts of the prompts, drawn by shards or by the processes of a launcher, are together what one process draws."""

from pathlib import Path

import orjson
import pytest

from tests.conftest import Run, lines, vpctl
from tests.launched import ended, launched
from vpctl.commands.generate import part_of
from vpctl.drawing.plan import Shard
from vpctl.errors import UserError
from vpctl.records import digest

DRAW = "generate prompts.txt -m shapes:small -n 2 --steps 2 --batch 4 --device cpu --guidance 1:2".split()
PAINT = """
from PIL import Image
return lambda prompts, *_: [Image.new("RGB", (4, 4), "black" if "3" in one else "red") for one in prompts]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    (folder / "prompts.txt").write_text("".join(f"{number} red circles\n" for number in range(12)))
    return folder


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def records(*files: Path) -> list[bytes]:
    return sorted(orjson.dumps(one) for file in files for one in lines(file.read_text()))


def test_each_prompt_is_in_one_part_and_parts_divide_again() -> None:
    ids = [digest(number) for number in range(400)]
    parts = [Shard(number, 3) for number in range(3)]
    assert all(sum(part.holds(one) for part in parts) == 1 for one in ids)
    assert all(100 < sum(part.holds(one) for one in ids) < 170 for part in parts)
    for part in parts:
        halves = [part.divided(number, 2) for number in range(2)]
        assert all(sum(half.holds(one) for half in halves) == part.holds(one) for one in ids)
    assert all(part.holds(f"{one}-original") == part.holds(one) for part in parts for one in ids)


@pytest.mark.parametrize(("text", "part"), [("", Shard()), ("1/2", Shard(0, 2)), ("8/8", Shard(7, 8))])
def test_a_shard_is_a_number_of_a_number(text: str, part: Shard) -> None:
    assert part_of(text) == part


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/", "a/b", "1/2/3"])
def test_other_shards_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"--shard {text}: must be the number of a part"):
        part_of(text)


def test_shards_and_processes_draw_what_one_process_draws(forked: Run, home: Path) -> None:
    def draw(*words: str) -> str:
        done = forked(*DRAW, *words, cwd=home)
        assert done.code == 0, done.err
        return done.err

    draw("--out", "whole/metadata.jsonl")
    whole = records(home / "whole/metadata.jsonl")
    assert len(whole) == 24
    for shard in ("1/2", "2/2"):
        draw("--out", f"shards/{shard[0]}.jsonl", "--shard", shard)
    assert records(home / "shards/1.jsonl", home / "shards/2.jsonl") == whole
    assert pictures(home / "shards") == pictures(home / "whole")
    said = ended(launched(home, vpctl(*DRAW, "--out", "two/metadata.jsonl")))
    assert records(home / "two/metadata.jsonl") == whole
    assert pictures(home / "two") == pictures(home / "whole")
    assert said.count("24 pictures written to two") == 1
    assert {path.name for path in (home / "two").iterdir() if path.is_file()} == {"metadata.jsonl"}
    # Killed: one process has written its file, and the output has only a part. Another number of processes resumes.
    written = (home / "two/metadata.jsonl").read_bytes().splitlines(keepends=True)
    (home / "two/metadata.jsonl").write_bytes(b"".join(written[:9]))
    (home / "two/.metadata.jsonl.rank-1").write_bytes(b"".join(written[7:20]) + b'{"torn')
    assert "4 pictures written to two; 20 were already there" in draw("--out", "two/metadata.jsonl")
    assert records(home / "two/metadata.jsonl") == whole
    assert not (home / "two/.metadata.jsonl.rank-1").exists()


def test_failures_of_all_processes_are_joined(home: Path) -> None:
    indented = "".join(f"    {line}\n" for line in PAINT.strip().splitlines())
    (home / "paint.py").write_text(f'"""Paints."""\n\n\ndef load(argument, *, device):\n{indented}')
    words = "generate prompts.txt -m ./paint.py -n 2 --device cpu --out failures/metadata.jsonl".split()
    process = launched(home, vpctl(*words))
    said = process.communicate()[1].decode()
    assert process.returncode != 0
    assert "22 pictures written to failures; 2 failed; see failures/metadata.failed.jsonl" in said
    assert "exitcode  : 3 " in said
    assert len(lines((home / "failures/metadata.failed.jsonl").read_text())) == 2


@pytest.mark.parametrize("rank", ["0", "1"])
def test_processes_do_not_share_a_stream(forked: Run, home: Path, rank: str) -> None:
    """Each of two processes says so at once, before they meet."""
    done = forked(*DRAW, cwd=home, env={"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"})
    assert done.code == 2
    assert "error: with several processes, name a FILE of prompts and a file with --out" in done.err
