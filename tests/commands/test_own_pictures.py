"""Pictures that vpctl did not draw: a prompt and a file each, and nothing else."""

import shutil
from pathlib import Path

import orjson

from tests.conftest import FAIR, ONE, Plugin, Run, draw, lines, write_lines
from vpctl.records import digest


def bring(folder: Path, *, prompts: int, backwards: bool = False) -> list[dict[str, str]]:
    """`own.jsonl` with two pictures of every prompt, and what it says."""
    drawn = draw(folder, prompts=prompts)
    (folder / "metadata.jsonl").unlink()
    own = [{"prompt": image["prompt"], "file_name": image["file_name"]} for image in drawn]
    write_lines(folder / "own.jsonl", own[::-1] if backwards else own)
    return own


def test_they_go_all_the_way_to_a_report(forked: Run, plugin: Plugin, tmp_path: Path) -> None:
    own = bring(tmp_path / "images", prompts=3)
    judged = forked("annotate", "images/own.jsonl", "--annotator", plugin("fair", FAIR), "--aspect", "fidelity")
    assert judged.code == 0, judged.err
    judgements = lines(judged.out)
    assert [one["prompt_id"] for one in judgements] == [digest(one["prompt"]) for one in own[::2]]
    merged = forked("merge", "-", "--split", "train:1", stdin=judged.out)
    assert merged.code == 0, merged.err
    pairs = lines(merged.out)
    assert pairs
    assert {pair["chosen_image_id"] for pair in pairs} <= {one for judged in judgements for one in judged["image_ids"]}
    accurate = forked("eval", "accuracy", "-", "--reward", plugin("one", ONE), stdin=merged.out)
    assert accurate.code == 0, accurate.err
    reward = f"{tmp_path / 'one.py'}:2"
    assert forked("score", "images/own.jsonl", "--reward", reward, "--out", "base.jsonl").code == 0
    write_lines(tmp_path / "tuned.jsonl", [{**one, "scores": {reward: 3}} for one in lines_of(tmp_path / "base.jsonl")])
    compared = forked("eval", "compare", "base.jsonl", "tuned.jsonl")
    assert (compared.code, lines(compared.out)[0]["wins"]) == (0, 6), "by their places, as they have no seed"


def lines_of(path: Path) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_neither_their_place_nor_their_order_changes_what_they_are(forked: Run, plugin: Plugin, tmp_path: Path) -> None:
    bring(tmp_path / "images", prompts=3)
    bring(tmp_path / "elsewhere" / "backwards", prompts=3, backwards=True)
    fair = plugin("fair", FAIR)
    asked: list[str | Path] = ["--annotator", fair, "--aspect", "fidelity", "--out", "judgements.jsonl"]
    first = forked("annotate", "images/own.jsonl", *asked)
    assert "3 judgements written" in first.err
    again = forked("annotate", "elsewhere/backwards/own.jsonl", *asked)
    assert "0 judgements written to judgements.jsonl; 3 were already there" in again.err


def test_a_copy_within_a_prompt_is_left_out_and_said_so_by_a_resumed_run_too(
    forked: Run, plugin: Plugin, tmp_path: Path
) -> None:
    own = bring(tmp_path / "images", prompts=1)
    shutil.copy(tmp_path / "images" / own[0]["file_name"], tmp_path / "images" / "copy.png")
    write_lines(tmp_path / "images" / "own.jsonl", [*own, {**own[0], "file_name": "copy.png"}])
    one = plugin("one", ONE)
    for written in (2, 0):
        done = forked("score", "images/own.jsonl", "--reward", one, "--out", "scored.jsonl")
        assert done.code == 0
        assert "/images/copy.png: has the same prompt_id and image_id as " in done.err
        assert f"{written} pictures written" in done.err
    judged = forked("annotate", "images/own.jsonl", "--annotator", plugin("fair", FAIR), "--aspect", "fidelity")
    assert judged.code == 0
    assert "/images/copy.png: has the same prompt_id and image_id as " in judged.err
    assert len(lines(judged.out)[0]["image_ids"]) == 2
