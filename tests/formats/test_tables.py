"""csv and parquet: whatever columns a person has."""

import io
import os
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow
import pyarrow.parquet
import pytest
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PIL

from tests.conftest import HOME, Run, draw, lines
from vpctl import plugins, sources
from vpctl.errors import RecordFailed, UserError
from vpctl.records import Image, Judgement, Pair, Prompt, Rating, digest
from vpctl.streams.names import absolute
from vpctl.streams.reading import located, located_preferences


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    sources.begin()
    return tmp_path


def records(spec: str, kind: Any = Prompt) -> list[dict[str, Any]]:
    return [{**record} for _, record in located(spec, kind)]


def places(spec: str, kind: Any = Prompt) -> list[str]:
    return [where for where, _ in located(spec, kind)]


def faults(spec: str, kind: str = "prompt") -> list[str]:
    """The places and reasons of the malformed rows that the format itself finds."""
    rows = plugins.load("format", spec)(kind)
    return [f"{where}: {row}" for where, row in rows if isinstance(row, RecordFailed)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", b"prompt\na cat\n", [{"prompt": "a cat"}]),
        ("a.csv", b"\xef\xbb\xbfPrompt;Note\r\na cat;x\r\n", [{"prompt": "a cat", "Note": "x"}]),
        ("a.csv", b'id,caption\n1,"a cat,\nand a ""dog"""\n', [{"id": "1", "prompt": 'a cat,\nand a "dog"'}]),
        ("a.tsv", b"text\tn\na, cat\t1\n\n\t\n", [{"prompt": "a, cat", "n": "1"}]),
        ("a.tsv", b'text\tn\n"GIGGLE" in paint\t1\n', [{"prompt": '"GIGGLE" in paint', "n": "1"}]),
        ("a.txt", b"text|n\na; cat|1\n", [{"prompt": "a; cat", "n": "1"}]),
        ("a.csv", b"prompt\ra cat\ra dog\r", [{"prompt": "a cat"}, {"prompt": "a dog"}]),
        ("a.csv", b"prompt,prompt_nsfw\na cat,\n", [{"prompt": "a cat"}]),
        ("a.csv", b"prompt,prompt_nsfw\na cat,0.5\n", [{"prompt": "a cat", "prompt_nsfw": 0.5}]),
        ("a.csv", b"prompt,text\na cat,x\n", [{"prompt": "a cat", "text": "x"}]),
        ("a.csv", b"prompt,n\na cat\n", [{"prompt": "a cat"}]),
    ],
)  # fmt: skip
def test_a_table_in_text(here: Path, name: str, text: bytes, expected: list[dict[str, Any]]) -> None:
    (here / name).write_bytes(text)
    assert records(f"csv:{name}") == expected


def test_a_place_is_the_line_on_which_a_row_begins(here: Path) -> None:
    (here / "a.csv").write_text('prompt\n"a\nb"\n\nc\n')
    assert places("csv:a.csv") == ["a.csv:2", "a.csv:5"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is empty; its first row must name the columns"),
        (b" \n\n", "is empty; its first row must name the columns"),
        (b"a,b\n1,2\n", "has no column of prompts; it has the columns 'a' and 'b'; name it with --prompt-column"),
        (b"prompt,prompt\n1,2\n", "has two columns 'prompt'; rename one of them"),
        (b"\xff\xfea\0", "is UTF-16 text"),
        (b"prompt,\xff\na,b\n", "not UTF-8 text; convert the file first, e.g. with iconv"),
        (b"PK\x03\x04", "is a zip archive"),
        (b"\x1f\x8b\x08", "is compressed by gzip"),
    ],
)
def test_a_file_that_is_no_table_is_told(here: Path, text: bytes, said: str) -> None:
    (here / "a.csv").write_bytes(text)
    with pytest.raises(UserError) as raised:
        records("csv:a.csv")
    assert str(raised.value).replace("a.csv:1:", "a.csv:").startswith(f"a.csv: {said}")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (b"a,b,c\n", ["2: has 3 cells, and the header has 2"]),
        (b"\xff,1\n", ["2: 'prompt' is not UTF-8 text"]),
        (b'"a"b,1\n', ["2: ',' expected after '\"'"]),
        (b'ok,1\n"a,1\nb,2\n', ["3: a quotation mark is not closed, so the rest of the file belongs to this row"]),
    ],
)
def test_a_row_that_is_malformed_is_told_and_the_others_are_read(here: Path, rows: bytes, said: list[str]) -> None:
    (here / "a.csv").write_bytes(b"prompt,n\n" + rows + b"last,1\n")
    assert faults("csv:a.csv") == said


def test_a_large_cell_is_read_and_one_beyond_the_limit_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpctl.formats.csv.MAX_LINE_BYTES", 1 << 20)
    (here / "a.csv").write_bytes(b"prompt,n\na cat," + b"x" * 1_000_000 + b"\na dog,1\n")
    assert [len(record["n"]) for record in records("csv:a.csv")] == [1_000_000, 1]
    (here / "a.csv").write_bytes(b"prompt,n\na cat," + b"x" * (1 << 20) + b"\na dog,1\n")
    with pytest.raises(UserError, match=r"^a\.csv:2: is longer than 1 MiB; is this a table of text\?$"):
        records("csv:a.csv")
    (here / "a.csv").write_bytes(b'prompt,n\na cat,"' + b"x\n" * (1 << 20) + b'"\na dog,1\n')
    assert "2: a cell has more than 1 MiB; perhaps a quotation mark is not closed" in faults("csv:a.csv")


@settings(max_examples=30)
@given(
    st.lists(
        st.fixed_dictionaries({"prompt": st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1)}),
        min_size=1,
        max_size=5,
    )
)
def test_any_text_comes_back_from_csv_and_from_parquet(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> None:
    folder = tmp_path_factory.mktemp("round")
    for spec in (f"csv:{folder}/a.csv", f"parquet:{folder}/a.parquet"):
        assert plugins.load("format", spec).write(rows) == len(rows)
        assert records(spec) == rows


PICTURE = {
    "prompt": "a cat",
    "file_name": "x.png",
    "seed": 7,
    "guidance_scale": 7.5,
    "scores": {"shapes": 2.5},
    "image_id": "17",
    "note": "x",
    "tags": ["a", "b"],
}
JUDGEMENT = {
    "prompt_id": "p1",
    "prompt": "a cat",
    "aspect": "fidelity",
    "annotator": "human:anna",
    "image_ids": ["a", "b"],
    "file_names": ["a.png", "b.png"],
    "scores": [1.0, 2.5],
    "usage": {"calls": 2.0},
    "order": [1, 0],
}
PAIR = {
    "prompt_id": "p1",
    "prompt": "a cat",
    "chosen_file_name": "a.png",
    "rejected_file_name": "b.png",
    "margin": 0.25,
    "aspects": {"fidelity": 0.25},
    "annotators": ["human:anna"],
}
RATING = {"prompt": "a cat", "file_name": "a.png", "label": False}


@pytest.mark.parametrize("name", ["csv:a.csv", "csv:a.tsv", "parquet:a.parquet"])
@pytest.mark.parametrize(
    ("kind", "record", "lost"),
    [(Image, PICTURE, "tags"), (Judgement, JUDGEMENT, ""), (Pair, PAIR, ""), (Rating, RATING, "")],
)
def test_every_record_comes_back_with_its_types(
    here: Path, name: str, kind: Any, record: dict[str, Any], lost: str
) -> None:
    """A list that is no key of a record comes back from CSV as text that holds JSON."""
    located_record = absolute(record, str(here))
    lost = "" if name.startswith("parquet") else lost
    assert plugins.load("format", name).write([located_record, located_record]) == 2
    expected = {**located_record, **({lost: orjson.dumps(record[lost]).decode()} if lost else {})}
    assert records(name, kind) == [expected, expected]


def test_columns_of_people_are_records(here: Path) -> None:
    (here / "a.csv").write_text("caption,chosen,rejected\na cat,a.png,b.png\n")
    (pair,) = records("csv:a.csv", Pair)
    assert pair.pop("prompt_id") == digest("a cat")
    assert pair == {
        "prompt": "a cat",
        "chosen_file_name": str(here / "a.png"),
        "rejected_file_name": str(here / "b.png"),
        "margin": 1.0,
    }
    assert next(one for _, one in located_preferences("csv:a.csv")) == {**pair, "prompt_id": digest("a cat")}
    (here / "b.csv").write_text("text;path;label\na cat;a.png;yes\na dog;b.png;0\n")
    ratings = [one for _, one in located_preferences("csv:b.csv")]
    assert [one["label"] for one in ratings] == [True, False]  # type: ignore[typeddict-item]
    (here / "c.csv").write_text(
        'prompt,aspect,annotator,file_names,scores\na cat,fidelity,anna,"[""a.png"",""b.png""]","[1,2]"\n'
    )
    (judgement,) = records("csv:c.csv", Judgement)
    assert (judgement["image_ids"], judgement["scores"]) == (["a.png", "b.png"], [1, 2])


def test_columns_that_are_named_count_more_than_those_that_are_found(here: Path) -> None:
    (here / "a.csv").write_text("prompt,title,image,where\nx,a cat,y.png,a.png\n")
    assert records("csv:a.csv?prompt=title&file=where", Image) == [
        {"prompt": "a cat", "file_name": str(here / "a.png"), "image": "y.png"}
    ]


def test_a_picture_outside_the_folders_is_not_opened(forked: Run, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    draw(tmp_path, prompts=1)
    inner.mkdir()
    name = next(tmp_path.glob("*.png")).name
    (inner / "a.csv").write_text(f"prompt,file_name\na,../{name}\nb,{tmp_path}/{name}\nc,/etc/passwd\n")
    ended = forked("score", "csv:a.csv", cwd=inner)
    assert (ended.code, ended.out) == (3, "")
    assert ended.err.count("is outside the allowed folders") == 3


def png(shade: int = 0) -> bytes:
    content = io.BytesIO()
    PIL.new("RGB", (8, 8), (shade, 0, 0)).save(content, "PNG")
    return content.getvalue()


def write(path: Path, rows: list[Mapping[str, Any]], schema: Any = None) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{**row} for row in rows], schema), path)


def test_values_of_parquet_become_those_of_json(here: Path) -> None:
    nan = float("nan")
    rows: list[Mapping[str, Any]] = [
        {
            "prompt": "a cat",
            "prompt_id": 17,
            "prompt_nsfw": nan,
            "when": datetime(2024, 1, 2, 3, 4),
            "price": Decimal("1.50"),
            "list": [1.0, nan],
            "struct": {"a": 1, "raw": b"x"},
            "raw": b"\xff",
            "none": None,
        },
        {"prompt": None},
        {"prompt": "a dog", "prompt_nsfw": 0.5},
        {"prompt": "bad", "prompt_nsfw": float("inf")},
    ]
    write(here / "a.parquet", rows)
    assert records("parquet:a.parquet") == [
        {
            "prompt": "a cat",
            "prompt_id": "17",
            "when": "2024-01-02T03:04:00",
            "price": 1.5,
            "list": [1.0, None],
            "struct": {"a": 1},
        },
        {"prompt": "a dog", "prompt_nsfw": 0.5},
    ]
    assert faults("parquet:a.parquet") == ["row 4: 'prompt_nsfw' is infinite"]
    assert places("parquet:a.parquet") == ["a.parquet:row 1", "a.parquet:row 3"]
    assert plugins.load("format", "parquet:a.parquet").count() == 4


def test_text_in_parquet_that_is_not_utf_8_costs_only_its_row(here: Path) -> None:
    broken = pyarrow.array([b"a cat", b"\xff", b"a dog"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"prompt": broken}), here / "a.parquet")
    assert [record["prompt"] for record in records("parquet:a.parquet")] == ["a cat", "a dog"]
    assert sources.some_left_out()


def test_pictures_in_parquet_become_files_once(here: Path) -> None:
    rows: list[Mapping[str, Any]] = [
        {"image": {"bytes": png(shade), "path": None}, "text": "a cat"} for shade in (1, 2, 1)
    ]
    write(here / "a.parquet", rows)
    assert len(records("parquet:a.parquet")) == 3
    assert not (here / "a.pictures").exists(), "prompts need no pictures"
    found = records("parquet:a.parquet", Image)
    files = sorted((here / "a.pictures").rglob("*.*"))
    assert len(files) == 2
    assert {record["file_name"] for record in found} == {*map(str, files)}
    before = [os.stat(file).st_mtime_ns for file in files]
    records("parquet:a.parquet", Image)
    assert [os.stat(file).st_mtime_ns for file in files] == before
    assert files[0].parent.name == files[0].name[:2]


def test_cells_that_hold_no_picture_are_malformed_rows(here: Path) -> None:
    rows: list[Mapping[str, Any]] = [
        {"image": {"bytes": b"<svg>", "path": None}, "text": "a"},
        {"image": {"bytes": None, "path": None}, "text": "b"},
        {"image": None, "text": "c"},
        {"image": {"bytes": None, "path": "x.png"}, "text": "d"},
    ]
    write(here / "a.parquet", rows)
    assert [record["prompt"] for record in records("parquet:a.parquet", Image)] == ["d"]


def test_a_folder_of_pictures_that_cannot_be_written_is_told(forked: Run, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [{"image": {"bytes": png(), "path": None}, "text": "a cat"}])
    (tmp_path / "a.pictures").touch()
    ended = forked("score", "parquet:a.parquet", "--quiet")
    assert ended.code == 2
    assert "a.pictures: the pictures in the data set cannot be written here: not a directory; copy" in ended.err


def test_a_folder_of_parquet_files_is_one_data_set(here: Path) -> None:
    for name in ("b", "a"):
        (here / "data").mkdir(exist_ok=True)
        write(here / "data" / f"{name}.parquet", [{"prompt": name}])
    assert records("parquet:data") == [{"prompt": "a"}, {"prompt": "b"}]
    assert places("parquet:data/") == ["data/a.parquet:row 1", "data/b.parquet:row 1"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"prompt\na cat\n"])
def test_a_file_that_is_no_parquet_is_told(here: Path, content: bytes) -> None:
    (here / "a.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"^a\.parquet: cannot be read as Parquet: "):
        records("parquet:a.parquet")


def test_parquet_without_pyarrow_is_told(run: Run, tmp_path: Path) -> None:
    """A module of this name that cannot be imported stands in front of the real one."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "pyarrow.py").write_text("raise ImportError\n")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    ended = run("polish", "parquet:a.parquet", env={"PYTHONPATH": f"{tmp_path / 'hidden'}:{HOME}"})
    assert (ended.code, ended.err) == (
        2,
        "vpctl polish: error: Parquet needs the package pyarrow: pip install 'vpctl[formats]'\n",
    )


def test_what_is_written_opens_in_datasets(here: Path) -> None:
    plugins.load("format", "parquet:out/a.parquet").write([{**PICTURE, "file_name": str(here / "out" / "x.png")}])
    opened = load_dataset("parquet", data_files=str(here / "out" / "a.parquet"), cache_dir=str(here / "cache"))
    (row,) = opened["train"]
    assert (row["prompt"], row["file_name"], row["seed"]) == ("a cat", "x.png", 7)


def test_writing_that_fails_leaves_what_was_there(here: Path) -> None:
    def broken() -> Any:
        yield {"prompt": "a cat"}
        raise UserError("stop")

    (here / "a.csv").write_text("kept")
    with pytest.raises(UserError, match="stop"):
        plugins.load("format", "csv:a.csv").write(broken())
    assert (here / "a.csv").read_text() == "kept"
    assert os.listdir(here) == ["a.csv"]
    with pytest.raises(UserError, match="file exists"):
        plugins.load("format", "csv:a.csv/b.csv").write([{"prompt": "a cat"}])


def test_a_real_command_reads_and_a_second_run_resumes(forked: Run, tmp_path: Path) -> None:
    drawn = draw(tmp_path, prompts=2)
    rows = "".join(f"{image['prompt']},{image['file_name']}\n" for image in drawn)
    (tmp_path / "a.csv").write_text(f"text,picture\n{rows}")
    ended = forked("annotate", "csv:a.csv", "--aspect", "fidelity", "--out", "j.jsonl")
    assert ended.code == 0, ended.err
    assert len(lines((tmp_path / "j.jsonl").read_text())) == 2
    assert "2 were already there" in forked("annotate", "csv:a.csv", "--aspect", "fidelity", "--out", "j.jsonl").err


def test_names_of_columns_in_parquet_that_are_not_utf_8_are_told(here: Path) -> None:
    write(here / "a.parquet", [{"prompt": "a cat", "zzzz": 1}])
    (here / "a.parquet").write_bytes((here / "a.parquet").read_bytes().replace(b"zzzz", b"\xc7\xff\xfe\xfd"))
    with pytest.raises(UserError, match=r"^a\.parquet: cannot be read as Parquet: "):
        records("parquet:a.parquet")


def test_options_name_the_columns_of_every_data_set(forked: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("title,where\na cat,x.png\n")
    (tmp_path / "plain.txt").write_text("a cat\n")
    ended = forked("polish", "csv:a.csv", "--prompt-column", "title", "--file-column", "where")
    assert (ended.code, [record["prompt"] for record in lines(ended.out)]) == (0, ["a cat"])
    wrong = forked("polish", "csv:a.csv", "--prompt-column", "titel")
    assert (wrong.code, "titel: there is no such column; it has the columns 'title' and 'where'" in wrong.err) == (
        2,
        True,
    )
    unused = forked("polish", "plain.txt", "--prompt-column", "title")
    assert unused.code == 0
    assert "warning: --prompt-column: not used; no FILE is a csv:" in unused.err


def test_a_link_out_of_a_folder_of_parquet_files_is_told(here: Path) -> None:
    """Only the cache of huggingface_hub links to another folder: to its own blobs."""
    (here / "data").mkdir()
    write(here / "secret", [{"prompt": "secret"}])
    (here / "data/a.parquet").symlink_to(here / "secret")
    with pytest.raises(UserError, match=r"^data/a\.parquet: is a link to a file outside of data; name that file"):
        records("parquet:data")
    for folder in ("hub/snapshots/1/data", "hub/blobs"):
        (here / folder).mkdir(parents=True)
    write(here / "hub/blobs/b", [{"prompt": "a cat"}])
    (here / "hub/snapshots/1/data/a.parquet").symlink_to("../../../blobs/b")
    assert records("parquet:hub/snapshots/1") == [{"prompt": "a cat"}]


OWN: dict[str, list[Any]] = {
    "text": ["007", "true", "[1]", "1e5", "null"],
    "whole": [7, -1, 0, 2**53 + 1, 2**63 - 1],
    "number": [0.5, 1.0, 2, 1e300, -0.0],
    "flag": [True, False, True, False, True],
    "large": [7, 2**63, 10**30, -(2**64), 0],
    "mixed": ["007", 7, True, 0.5, [1]],
    "list": [[], [1, "a"], [None], [[1.5]], [{}]],
    "object": [{"a": 1}, {}, {"b": [None, "x"]}, {"a": "1"}, {"é": 2**70}],
    "seed": [1, 2**64 - 1, 3, 2**63, 0],
}
"""Keys that vpctl does not know, and `seed`, with values of all types."""


def test_parquet_keeps_the_types_of_keys_that_vpctl_does_not_know(here: Path) -> None:
    written = [
        {"prompt": "a cat", "file_name": str(here / "x.png"), **{key: values[index] for key, values in OWN.items()}}
        for index in range(5)
    ]
    plugins.load("format", "parquet:a.parquet").write(written)
    back = records("parquet:a.parquet", Image)
    assert back == written
    for key in OWN.keys() - {"number"}:
        assert [type(one[key]) for one in back] == [type(one[key]) for one in written]
    opened = load_dataset("parquet", data_files="a.parquet", split="train", cache_dir=str(here / "cache"))
    assert opened["whole"][:] == OWN["whole"]


def test_csv_gives_text_back_as_it_was_and_other_values_as_text(here: Path) -> None:
    own = {key: OWN[key] for key in ("text", "whole", "flag", "mixed", "large")}
    written = [{"prompt": "a cat", **{key: values[index] for key, values in own.items()}} for index in range(5)]
    plugins.load("format", "csv:a.csv").write(written)
    back = records("csv:a.csv")
    assert [one["text"] for one in back] == OWN["text"]
    assert [one["whole"] for one in back] == ["7", "-1", "0", "9007199254740993", "9223372036854775807"]
    assert [one["flag"] for one in back] == ["true", "false", "true", "false", "true"]
    assert [one["mixed"] for one in back] == ["007", "7", "true", "0.5", "[1]"]


def test_a_value_that_parquet_cannot_hold_is_told_with_its_record(here: Path) -> None:
    judgements = [{**JUDGEMENT, "order": [number, 0]} for number in [*range(300), 2**70]]
    with pytest.raises(UserError, match=r"^a\.parquet: record 301 cannot be written as Parquet: 'order': "):
        plugins.load("format", "parquet:a.parquet").write(judgements)
    assert not (here / "a.parquet").exists()


def test_text_that_is_not_the_json_it_should_be_is_a_malformed_row(here: Path) -> None:
    schema = pyarrow.schema(
        [("prompt", pyarrow.string()), pyarrow.field("own", pyarrow.string(), metadata={"vpctl": "json"})]
    )
    write(
        here / "a.parquet",
        [{"prompt": "a", "own": "{"}, {"prompt": "b", "own": None}, {"prompt": "c", "own": "[1]"}],
        schema,
    )
    assert records("parquet:a.parquet") == [{"prompt": "b"}, {"prompt": "c", "own": [1]}]
    assert faults("parquet:a.parquet") == ["row 1: 'own' is not JSON, as the file says it is"]
