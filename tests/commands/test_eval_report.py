"""eval report shows what is in the folder of a run."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_lines
from tests.pages.test_page import Page, drawn_rows, run_folder
from vpctl.commands.eval.compare import compare
from vpctl.commands.eval.judgements import judgements
from vpctl.commands.eval.report import report
from vpctl.errors import SomeFailed, UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with two models, the reports that compare them, judgements of other prompts, and a training run."""
    sources = ("base/scored.jsonl", "dpo/scored.jsonl")
    rows = drawn_rows(tmp_path / "demo", 4, sources)
    for place, source in enumerate(sources):
        own = {"adapter": "lora"} if place else {}
        records = [{**row[place][1], **own, "file_name": f"{index}.png"} for index, row in enumerate(rows)]
        write_lines(tmp_path / "demo" / source, records)
    compare(*_named(tmp_path), str(tmp_path / "demo" / "compared.jsonl"))
    judged = {"prompt_id": "p", "prompt": "a judged prompt", "annotator": "human:anna", "aspect": "fidelity"}
    pictures = {"image_ids": ["a", "b"], "file_names": ["base/0.png", "base/1.png"]}
    said = {"scores": [2, 4], "rationales": ["blurred", "sharp"]}
    write_lines(tmp_path / "demo" / "votes.jsonl", [{**judged, **pictures, **said}])
    run_folder(tmp_path / "demo" / "lora", [{"step": 1, "loss": 0.5}])
    (tmp_path / "demo" / "lora" / "run.json").write_text('{"options": {"seed": 3}, "argv": ["vpctl"], "versions": {}}')
    write_lines(tmp_path / "demo" / "prompts.jsonl", [{"prompt": "a dog"}])
    return tmp_path / "demo"


def _named(folder: Path) -> tuple[str, list[str]]:
    return str(folder / "demo/base/scored.jsonl"), [str(folder / "demo/dpo/scored.jsonl")]


def test_everything_is_on_one_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(str(folder))
    said = capsys.readouterr()
    assert "left out: prompts: prompts.jsonl" in said.err
    assert not said.out
    page = Page(folder / "report.html")
    assert "Report of demo dpo win rate against base, judged by shapes 100.0 %" in page.text
    assert "From base to dpo, by shapes" in page.text
    assert "dpo: mean 0.250; base: mean 0.150;" in page.text
    assert "a judged prompt p 1 2 fidelity 4.00● 2.00" in page.text
    assert "1 fidelity 4.00 human:anna sharp 2 fidelity 2.00 human:anna blurred" in page.text
    assert "lora seed 3" in page.text


def test_a_moved_folder_is_the_same_page(folder: Path) -> None:
    report(str(folder))
    moved = folder.rename(folder.parent / "moved")
    report(str(moved), html=str(moved / "again.html"))
    before, after = (Page(moved / name).text.partition("dpo win rate")[2] for name in ("report.html", "again.html"))
    assert before.rpartition("vpctl 0")[0] == after.rpartition("vpctl 0")[0]


def test_models_that_cannot_be_compared_are_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other: dict[str, Any] = {"prompt": "another", "file_name": "x.png", "scores": {"shapes": 1.0}}
    (folder / "other").mkdir()
    write_lines(folder / "other" / "scored.jsonl", [other])
    first = (folder / "dpo" / "scored.jsonl").read_text().splitlines(keepends=True)[0]
    (folder / "dpo" / "first.jsonl").write_text(first)
    report(str(folder))
    said = capsys.readouterr().err
    assert f"no prompt in common with the base model, {folder}/base/scored.jsonl: other/scored.jsonl" in said
    assert f"its pictures are those of {folder}/dpo/scored.jsonl: dpo/first.jsonl" in said


def test_without_reports_the_base_is_the_one_without_an_adapter(folder: Path) -> None:
    (folder / "compared.jsonl").unlink()
    (folder / "votes.jsonl").unlink()
    (folder / "base").rename(folder / "zero")
    report(str(folder))
    assert "dpo over zero" in Page(folder / "report.html").text


def test_a_missing_picture_is_a_failed_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next((folder / "dpo").glob("*.png")).unlink()
    with pytest.raises(SomeFailed):
        report(str(folder))
    assert "of 8 pictures are missing" in capsys.readouterr().err
    assert "there is no such picture" in Page(folder / "report.html").text


def test_folders_that_have_nothing_to_show(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: there is no such folder; name the folder of a run"):
        report(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: there are no reports, scored pictures, judgements or training runs"):
        report(str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"--html .*: this command reads or writes that file"):
        report(str(folder), html=str(folder / "compared.jsonl"))
    (folder / "lora" / "metrics.jsonl").write_text("no json\n")
    with pytest.raises(UserError, match=r"metrics.jsonl:1: not JSON"):
        report(str(folder))


def test_judgements_have_a_page_with_their_pictures(folder: Path) -> None:
    page = folder / "votes.html"
    judgements([str(folder / "votes.jsonl")], str(folder / "quality.jsonl"), html=str(page))
    found = Page(page)
    assert "human:anna, list mode aspect refused failed" in found.text
    assert "All judged prompts." in found.text
    assert "fidelity 4.00 human:anna sharp" in found.text
    assert len(found.pictures()) == 2
