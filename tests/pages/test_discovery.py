"""What the folder of a run holds is seen from the contents of its files."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_lines
from vpctl.errors import UserError
from vpctl.pages.discovery import found_in, kind_of, resolved

REPORT = {"name": "a", "metric": "accuracy", "value": 1, "low": 1, "high": 1, "n": 1}
IMAGE = {"prompt": "a dog", "file_name": "a.png"}
JUDGEMENT = {
    "prompt_id": "p",
    "prompt": "a dog",
    "aspect": "fidelity",
    "annotator": "x",
    "image_ids": [],
    "file_names": [],
    "scores": [],
}
PAIR = {"prompt_id": "p", "prompt": "x", "chosen_file_name": "a", "rejected_file_name": "b", "margin": 1}


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (REPORT, "reports"),
        ({**IMAGE, "scores": {"r": 1.0}}, "pictures"),
        (IMAGE, "pictures without scores"),
        ({**IMAGE, "scores": 3}, "pictures without scores"),
        ({**IMAGE, "label": True}, "ratings"),
        (JUDGEMENT, "judgements"),
        (PAIR, "pairs"),
        ({"prompt": "a dog"}, "prompts"),
        ({"step": 1, "loss": 0.5}, "not records of vpctl"),
        ({"chosen_file_name": "a"}, "not records of vpctl"),
        ([REPORT], "not records of vpctl"),
        (3, "not records of vpctl"),
    ],
)
def test_what_a_file_holds(record: Any, kind: str, tmp_path: Path) -> None:
    assert kind_of(str(write_lines(tmp_path / "x.jsonl", [record]))) == kind


@pytest.mark.parametrize("content", [b"no json", b"\xff\xfe", b"[" * 100_000, b"{" + b" " * (1 << 21) + b"}"])
def test_what_is_no_json(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    assert kind_of(str(tmp_path / "x.jsonl")) == "not JSON Lines"


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("\n \n")
    assert kind_of(str(tmp_path / "x.jsonl")) == "empty"


def test_a_whole_folder(tmp_path: Path) -> None:
    for name in ("b/deep/misnamed.jsonl", "a.jsonl", ".hidden/a.jsonl", ".hidden.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_lines(tmp_path / name, [REPORT])
    for run in ("run", "unfinished"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "run.json").write_text("{}")
    write_lines(tmp_path / "run" / "metrics.jsonl", [{"step": 1}])
    write_lines(tmp_path / "run" / "more.jsonl", [{**IMAGE, "scores": {}}])
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "a.jsonl")
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    (tmp_path / "notes.txt").write_text("nothing")
    found = found_in(str(tmp_path))
    assert found.reports == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b/deep/misnamed.jsonl"]
    assert found.runs == [f"{tmp_path}/run"]
    assert found.pictures == [f"{tmp_path}/run/more.jsonl"]
    assert found.left_out == {f"{tmp_path}/unfinished": "a training run that has logged nothing yet"}


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or directory"):
        found_in(str(tmp_path / "nowhere"))


FILES = ["/runs/demo/base/scored.jsonl", "/runs/demo/dpo/scored.jsonl", "/runs/demo/few.jsonl"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("demo/dpo/scored.jsonl", FILES[1]),
        ("/elsewhere/dpo/scored.jsonl", FILES[1]),
        ("base/scored.jsonl", FILES[0]),
        ("./few.jsonl", FILES[2]),
        ("other/few.jsonl", "other/few.jsonl"),
        ("scored.jsonl", "scored.jsonl"),
        ("other/scored.jsonl", "other/scored.jsonl"),
        ("clip", "clip"),
    ],
)
def test_the_file_that_a_report_means(name: str, file: str) -> None:
    assert resolved(name, FILES) == file
    assert resolved(name, []) == name
