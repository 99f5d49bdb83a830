from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import lines, write_lines
from vpctl.commands.merge import merge
from vpctl.errors import UserError

Record = dict[str, Any]


class Words(HTMLParser):
    """The visible words of a page, and the attributes that would load something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.loaded: list[str] = []
        self._hidden = False
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in ("style", "script")
        loading = [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        self.loaded += [value for value in loading if not value.startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        self.words += [] if self._hidden else [data]


@pytest.fixture
def judgements(tmp_path: Path) -> Path:
    """Two annotators who disagree about one prompt, whose text is hostile, and agree about another."""
    records: list[Record] = []
    for prompt, text in (("p", "<script>alert(1)</script> a {{ cat }}"), ("q", "a dog")):
        for name, colour in (("a", "red"), ("b", "blue")):
            Image.new("RGB", (8, 8), colour).save(tmp_path / f"{prompt}{name}.png")
        for annotator, scores in (("x", [5, 1]), ("y", [1, 5] if prompt == "p" else [4, 2])):
            records += [
                {
                    "prompt_id": prompt,
                    "prompt": text,
                    "aspect": aspect,
                    "annotator": annotator,
                    "image_ids": [f"{prompt}a", f"{prompt}b"],
                    "file_names": [f"{prompt}a.png", f"{prompt}b.png"],
                    "scores": scores,
                }
                for aspect in ("fidelity", "aesthetic")
            ]
    return write_lines(tmp_path / "j.jsonl", records)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    records = [
        {"prompt": "a dog", "prompt_id": "q", "image_id": f"q{name}", "file_name": f"q{name}.png", "model": model}
        for name, model in (("a", "strong"), ("b", "weak"))
    ]
    return write_lines(tmp_path / "metadata.jsonl", records)


def test_the_page_shows_what_was_judged(judgements: Path, pictures: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    merge([str(judgements)], str(tmp_path / "out.jsonl"), html=str(page), pictures=[str(pictures)])
    source = page.read_text()
    found = Words(source)
    assert "1 pair from 8 judgements of 4 pictures for 2 prompts; 1 tie dropped." in found.text
    assert "strong 100.0\xa0%" in found.text.replace("% ", "%\xa0") or "strong 100.0 %" in found.text
    assert "x and y 50.0" in found.text, "they agree about one of two prompts"
    assert "The annotators disagree in 100.0" in found.text
    assert "<script>alert(1)</script> a {{ cat }}" in found.text
    assert source.count("<script") == 1, "the page’s own, which its policy allows"
    assert "script-src &#39;sha256-" in source
    assert found.loaded
    assert all(one.startswith("data:image/") for one in found.loaded)
    assert len(found.loaded) == 2, "only the contested prompt shows its pictures"
    assert len(lines((tmp_path / "out.jsonl").read_text())) == 1


def test_a_missing_picture_is_said_on_the_page(
    judgements: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pa.png").unlink()
    page = tmp_path / "page.html"
    merge([str(judgements)], str(tmp_path / "out.jsonl"), html=str(page))
    assert "1 picture of the page cannot be shown" in capsys.readouterr().err
    assert "Models" not in Words(page.read_text()).text


def test_the_page_replaces_nothing_else(judgements: Path, pictures: Path, tmp_path: Path) -> None:
    for other in (judgements, pictures):
        with pytest.raises(UserError, match="reads or writes that file"):
            merge([str(judgements)], str(tmp_path / "out.jsonl"), html=str(other), pictures=[str(pictures)])
    with pytest.raises(UserError, match="--pictures: only the page and --to dataset:DIR need these"):
        merge([str(judgements)], str(tmp_path / "out.jsonl"), pictures=[str(pictures)])


@pytest.mark.parametrize("kind", ["judgements", "ratings"])
def test_the_page_does_not_depend_on_what_is_written(judgements: Path, tmp_path: Path, kind: str) -> None:
    pages = []
    for number, to in enumerate(([], [kind])):
        page = tmp_path / f"{number}.html"
        merge([str(judgements)], str(tmp_path / "out.jsonl"), html=str(page), to=to)
        pages.append(Words(page.read_text()).text.partition("Scores")[2].rpartition("vpctl")[0])
    assert pages[0] == pages[1]
    assert "Ties" in pages[0]


def test_no_judgements_make_a_page(tmp_path: Path) -> None:
    empty, page = tmp_path / "empty.jsonl", tmp_path / "page.html"
    empty.write_text("\n")
    merge([str(empty)], str(tmp_path / "out.jsonl"), html=str(page))
    assert "0 pairs from 0 judgements" in Words(page.read_text()).text
