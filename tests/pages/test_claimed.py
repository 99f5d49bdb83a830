"""The page of claims: the numbers, the paper's beside them, and the verdicts."""

from pathlib import Path

import pytest

from tests.conftest import write_lines
from tests.pages.test_page import Page, drawn_rows, run_folder
from tests.report.test_claims import part, written
from vpctl.commands.eval.claims import claims
from vpctl.errors import SomeFailed


def claims_page(folder: Path) -> str:
    """A page with a table, curves, pictures, and a part that was not measured. Returns its address."""
    figures = (
        '{ row = "<b>VP", column = "IR", paper = "66.3 %", where = { name = "vp" } },'
        '{ row = "CLIP", column = "IR", where = { name = "clip" } },'
        '{ row = "CLIP", column = "HPD", where = { name = "near" } }'
    )
    sources = ("base/scored.jsonl", "dpo/scored.jsonl")
    for place, source in enumerate(sources):
        rows = drawn_rows(folder, 4, sources)
        write_lines(folder / source, [{**row[place][1], "file_name": f"{i}.png"} for i, row in enumerate(rows)])
    run_folder(folder / "lora", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}])
    more = (
        'paper = "VP is best."\nhere = "Measured so."\nruns = ["lora"]\nscores = "shapes"\n'
        'pictures = { untuned = "base/scored.jsonl", tuned = "dpo/scored.jsonl" }\n'
        '[[part]]\ntitle = "Figure 9"\nmissing = "There is no editor."\n'
        '[[part]]\ntitle = "Numbers alone"\nreport = "reports.jsonl"\n'
        'figures = [{ row = "a", where = { name = "vp" } }]\n'
    )
    file = written(folder, part("<b>VP, IR > CLIP, IR", figures=figures, more=more))
    claims(file, str(folder / "claims.jsonl"), html=str(folder / "page.html"))
    return f"file://{folder}/page.html"


def test_the_page_has_the_numbers_the_papers_and_the_verdicts(tmp_path: Path) -> None:
    claims_page(tmp_path)
    page = Page(tmp_path / "page.html")
    assert "<b>VP 70.0 % 68.0 to 72.0 paper 66.3 %" in page.text
    assert "The paper: VP is best." in page.text
    assert "The conclusion holds here: by the interval. Measured so." in page.text
    assert "There is no editor." in page.text
    assert "untuned tuned" in page.text
    assert "loss" in page.text
    assert "Table 1 holds Figure 9 not measured Numbers alone nothing claimed" in page.text
    source = (tmp_path / "page.html").read_text()
    assert "row,column,name,metric,n," in source
    assert r"70.0 [68.0 to 72.0], paper 66.3 \%" in source


def test_counts_and_shares_of_one_table_are_each_written_in_their_way(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red cat\n" * 300 + "a dog\n" * 1200)
    figures = (
        '{ row = "prompts", paper = "179,000", lines = "prompts.txt" },'
        '{ row = "red", lines = "prompts.txt", containing = ["red"] }'
    )
    file = written(tmp_path, part("red > 0.1", "prompts > 1000", figures=figures))
    claims(file, str(tmp_path / "claims.jsonl"), html=str(tmp_path / "page.html"))
    page = Page(tmp_path / "page.html")
    assert "prompts 1,500 paper 179,000" in page.text
    assert "red 20.0 % 18.0 to 22.1" in page.text
    assert "prompts > 1000 holds: by 500 " in page.text
    assert "1,500, paper 179,000" in (tmp_path / "page.html").read_text(), "LaTeX has no empty interval"


def test_a_missing_picture_is_told_by_exit_code_3(tmp_path: Path) -> None:
    file = written(tmp_path, part(more='pictures = { base = "scored.jsonl" }'))
    with pytest.raises(SomeFailed):
        claims(file, str(tmp_path / "claims.jsonl"), html=str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").exists()
