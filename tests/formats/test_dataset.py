"""dataset: what merge writes to be published, and what every command reads back."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PIL

from tests.conftest import FAIR, JSON, Plugin, Run, lines, write_lines
from tests.surroundings import ENVIRONMENT
from vpctl import sources
from vpctl.commands.merge import merge
from vpctl.errors import UserError
from vpctl.formats._private import published
from vpctl.formats.dataset import JUDGEMENT, Layout
from vpctl.records import Image, Judgement, Pair, Prompt, digest
from vpctl.streams.jsonlines import dump
from vpctl.streams.reading import located

Record = dict[str, Any]
ASKED = {"server": "https://api.openai.com/v1", "model": "gpt-4o", "time": "2026-01-01T00:00:00Z"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    sources.begin()
    return tmp_path


def judged(
    prompt: int, scores: list[float], aspect: str = "fidelity", who: str = "openai:gpt-4o", **more: Any
) -> Record:
    """A judgement of the pictures of a prompt."""
    ids = [f"{prompt}-{number}" for number in range(len(scores))]
    return {
        "prompt_id": f"p{prompt}",
        "prompt": f"draw {prompt}",
        "aspect": aspect,
        "annotator": who,
        "image_ids": ids,
        "file_names": [f"images/{one}.png" for one in ids],
        "scores": scores,
        **more,
    }


JUDGEMENTS = [
    judged(0, [2.0, 5.0], order=[1, 0], template="list@12345678", key="k0", rationales=["a|b", "<c>"], ranking=[1, 0],
           usage={"prompt_tokens": 7, "cost": 0.25}, asked=ASKED),
    judged(0, [2, 5], "aesthetic", "human:anna", mine={"b": [1, None], "a": None}),
    judged(1, [3.0, 4.0], split="test", source_prompt="raw", repeat=2, key="k1", order=[0, 1]),
    judged(1, [], "aesthetic", refused="no", key="k2", usage={"cost": 0.5}) | {"split": "test"},
    judged(2, [3.0, 3.0], key="k3"),
    judged(2, [], "aesthetic", failed="no answer", raw="{", key="k4"),
]  # fmt: skip


@pytest.fixture
def given_files(here: Path) -> Path:
    """The judgements in j.jsonl, and records of their pictures in images/metadata.jsonl."""
    (here / "images").mkdir()
    images = []
    for number, name in enumerate(dict.fromkeys(name for one in JUDGEMENTS for name in one["file_names"])):
        PIL.new("RGB", (8, 8), (number, 0, 0)).save(name)
        prompt, _, which = Path(name).stem.partition("-")
        about = {"prompt": f"draw {prompt}", "prompt_id": f"p{prompt}", "image_id": f"{prompt}-{which}"}
        images.append(
            {**about, "file_name": Path(name).name, "model": f"m{which}", "guidance_scale": 3 + number, "x": 1}
        )
    write_lines(here / "images/metadata.jsonl", images)
    write_lines(here / "j.jsonl", JUDGEMENTS)
    return here


def write(to: str = "dataset:out", **options: Any) -> None:
    merge(["j.jsonl"], to=[to], pictures=["images/metadata.jsonl"], **options)


def records(kind: Any, source: str = "dataset:out") -> list[Record]:
    return [dict(record) for _, record in located(source, kind)]


def unnamed(records: list[Record]) -> list[bytes]:
    """The records as lines, without the names of files, in alphabetical order."""
    return sorted(dump({key: one for key, one in record.items() if "file_name" not in key}) for record in records)


@pytest.mark.parametrize("pictures", ["", "?pictures=files"])
def test_what_is_written_is_read_back_as_the_same_records(given_files: Path, pictures: str) -> None:
    write(f"dataset:out{pictures}")
    merge(["j.jsonl"], "pairs.jsonl")
    assert unnamed(records(Judgement)) == unnamed(JUDGEMENTS)
    assert unnamed(records(Pair)) == unnamed(lines((given_files / "pairs.jsonl").read_text()))
    images = lines((given_files / "images/metadata.jsonl").read_text())
    assert unnamed(records(Image)) == unnamed(images)
    for record in records(Image):
        original = given_files / "images" / f"{record['image_id']}.png"
        assert Path(record["file_name"]).read_bytes() == original.read_bytes()
    assert next(one["file_names"] for one in records(Judgement) if one["prompt_id"] == "p0") == [
        one["file_name"] for one in records(Image) if one["prompt_id"] == "p0"
    ]
    assert {one["prompt_id"]: one.get("source_prompt") for one in records(Prompt)} == {
        "p0": None,
        "p1": "raw",
        "p2": None,
    }
    merge(["dataset:out"], "again.jsonl")
    assert unnamed(lines((given_files / "again.jsonl").read_text())) == unnamed(records(Pair))
    assert not sources.some_left_out()


def test_a_data_set_that_is_merged_again_is_the_same(given_files: Path) -> None:
    write(split="train:1,test:1")
    merge(["dataset:out"], to=["dataset:again"], pictures=["dataset:out"], split="train:1,test:1")
    for path in [*(given_files / "again").rglob("*.*")]:
        assert path.read_bytes() == (given_files / "out" / path.relative_to(given_files / "again")).read_bytes(), path


def test_no_prompt_is_in_two_parts_and_datasets_opens_both_configurations(given_files: Path) -> None:
    more = [judged(number, [1.0, 2.0]) for number in range(3, 40)]
    for name in (name for one in more for name in one["file_names"]):
        PIL.new("RGB", (2, 2)).save(name)
    originals = [one | {"prompt_id": f"{one['prompt_id']}-original"} for one in more]
    write_lines(given_files / "j.jsonl", [*more, *originals])
    write(split="train:2,validation:1,test:1")
    cache = str(given_files / "cache")
    opened = load_dataset(str(given_files / "out"), cache_dir=cache)
    pairs = load_dataset(str(given_files / "out"), "pairs", cache_dir=cache)
    assert [*opened] == [*pairs] == ["train", "validation", "test"]
    parts = {part: {one["prompt_id"].removesuffix("-original") for one in opened[part]} for part in opened}
    assert sum(map(len, parts.values())) == len(more)
    for part, rows in opened.items():
        assert {one["split"] for one in rows} == {part}
        assert {one["prompt_id"].removesuffix("-original") for one in pairs[part]} == parts[part]
        assert rows[0]["images"][0].size == (2, 2)
    assert {one["prompt_id"]: one["split"] for one in records(Judgement)} == {
        one["prompt_id"]: one["split"] for one in records(Pair)
    }


def test_nothing_private_is_inside(given_files: Path) -> None:
    model = "diffusion:/home/anna/my models/sd-15"
    images = [
        one | {"model": model, "mask_file_name": "m.png", "adapter": "/data/x/lora/"}
        for one in records(Image, "images/metadata.jsonl")
    ]
    write_lines(given_files / "images/metadata.jsonl", images)
    own = {"server": "http://gpu7.corp.example:8000/v1", "model": "/models/own"}
    private = [
        judged(0, [1.0, 2.0], who="vp:/home/anna/vp-score/", asked=own),
        judged(1, [1.0, 2.0], asked={**ASKED, "server": "our-judge"}, note="see /home/anna/notes/a.txt; not and/or"),
        judged(2, [], failed="https://me:pw@api.openai.com/v1?key=1 sk-0123456789abcdefghij at http://10.1.2.3/v1"),
    ]  # fmt: skip
    write_lines(given_files / "j.jsonl", private)
    write()
    inside = b"".join(path.read_bytes() for path in (given_files / "out").rglob("*.*"))
    tables = [pyarrow.parquet.read_table(path) for path in (given_files / "out").rglob("*.parquet")]
    inside += b"".join(str(table.to_pylist()).encode() for table in tables)
    for secret in (str(given_files), "anna", "/home", "/models", "/data", "gpu7", "me:pw", "key=1", "sk-0", "10.1.2.3"):
        assert secret.encode() not in inside, secret
    found = {one["prompt_id"]: one for one in records(Judgement)}
    assert found["p0"]["annotator"] == "vp:vp-score"
    assert found["p0"]["asked"] == {"model": "own"}
    assert found["p1"]["asked"]["server"] == "our-judge"
    assert found["p1"]["note"] == "see a.txt; not and/or"
    assert found["p2"]["failed"] == "https://api.openai.com/v1 … at …"
    assert {one["model"] for one in records(Image)} == {"diffusion:sd-15"}
    assert published({"prompt": "/a/b", "rationales": ["1/2 and /a/b"]}) == {
        "prompt": "/a/b",
        "rationales": ["1/2 and /a/b"],
    }


def test_paths_in_place_of_ids_are_hashed(given_files: Path) -> None:
    """A table without a column of ids has the names of the files in their place."""
    ids = [str(given_files / "images" / f"0-{number}.png") for number in range(2)]
    write_lines(given_files / "j.jsonl", [judged(0, [1.0, 2.0]) | {"image_ids": ids}])
    write()
    (judgement,), (pair,) = records(Judgement), records(Pair)
    assert judgement["image_ids"] == [one["image_id"] for one in records(Image)] == [digest(one) for one in ids]
    assert pair["chosen_image_id"] == digest(ids[1])
    assert Path(pair["chosen_file_name"]).read_bytes() == Path(ids[1]).read_bytes()


def test_annotators_that_differ_only_in_what_is_private_are_told(given_files: Path) -> None:
    write_lines(given_files / "j.jsonl", [judged(0, [1.0, 2.0], who=who) for who in ("vp:/a/best", "vp:/b/best")])
    with pytest.raises(UserError, match="are both 'vp:best' in a data set"):
        write()
    assert not (given_files / "out").exists()


def test_the_card_has_the_numbers_of_the_records(given_files: Path) -> None:
    write_lines(given_files / "j.jsonl", [*JUDGEMENTS, judged(0, [1.0, 4.0], who="human:anna")])
    write()
    card = (given_files / "out/README.md").read_text()
    for row in (
        "| prompts | 3 |",
        "| pictures | 6 |",
        "| judgements | 7 |",
        "| pairs of pictures | 3 |",
        "| pairs without ties | 2 (66.7%) |",
        "| all aspects | 4 | 3 | 75.0% |",
        "| test | 1 | 1 |",
        "| openai:gpt-4o | list@12345678 | 1 |",
        "| openai:gpt-4o | 1 | 1 |",
        "Cost: 0.75 USD, known of 2 judgements.",
        "| fidelity | openai:gpt-4o | human:anna | 100.0% | 0.0% to 100.0% | 1 |",
        "| aesthetic | 0.0% | 50.0% | 0.0% | 0.0% | 50.0% | 2 |",
        "- Licence of this data set:",
    ):
        assert row in card, row


def test_judge_and_reward_run_from_it_alone(forked: Run, plugin: Plugin, given_files: Path) -> None:
    write()
    for path in (given_files / "images").iterdir():
        path.unlink()
    fair = plugin("fair", FAIR)
    ended = forked("annotate", "dataset:out", "--annotator", fair, "--aspect", "fidelity", "--out", "new.jsonl")
    assert (ended.code, len(lines((given_files / "new.jsonl").read_text()))) == (0, 3), ended.err
    assert forked("eval", "accuracy", "dataset:out", "--reward", "shapes").code in (0, 3)


@settings(max_examples=50)
@given(
    more=st.dictionaries(st.text(max_size=5), JSON, max_size=3),
    scores=st.lists(st.integers() | st.floats(1, 5), max_size=3),
)
def test_every_judgement_is_read_back(more: Record, scores: list[float]) -> None:
    record = {**more, **judged(0, scores), "usage": {"b": 1, "a": 2.0}}
    shared = {key: record[key] for key in ("prompt_id", "prompt", "file_names")}
    row = JUDGEMENT.row(record, shared | {"source_prompt": "another"})
    column = pyarrow.array([row], pyarrow.struct(JUDGEMENT.fields(pyarrow)))
    assert dump(JUDGEMENT.record(column.to_pylist()[0], shared | {"source_prompt": "another"})) == dump(record)


def test_a_pair_keeps_margins_of_aspects_with_any_names() -> None:
    layout = Layout(Pair, ("prompt", "aspects", "margin"), names=["b", "é/", ""])
    pair = {"prompt": "x", "aspects": {"é/": 0.5, "b": 1}, "margin": 1}
    assert dump(layout.record(layout.row(pair, {}), {})) == dump(pair)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("pictures", None),
        ("pictures", [None]),
        ("judgements", [{"image_ids": ["?"], "aspect": "a", "more": None}]),
        ("judgements", [{"image_ids": ["0-0"], "aspect": "a", "more": "[]"}]),
        ("judgements", [{"image_ids": ["0-0"], "aspect": "a", "more": '{"aspect":3}'}]),
        ("judgements", [{"image_ids": ["0-0"], "aspect": "a", "more": '{"x":[]}'}]),
        ("judgements", [None]),
        ("judgements", None),
    ],
)
def test_a_hostile_row_is_left_out_and_the_others_are_read(given_files: Path, column: str, value: Any) -> None:
    write()
    (path,) = (given_files / "out/data").glob("train*")
    rows = pyarrow.parquet.read_table(path).to_pylist()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([rows[0] | {column: value}, *rows[1:]]), path)
    assert {one["prompt_id"] for one in records(Judgement)} == {"p1", "p2"}
    assert sources.some_left_out()


def test_pictures_of_a_hostile_data_set_stay_inside_and_need_bytes_of_a_picture(forked: Run, given_files: Path) -> None:
    write()
    (path,) = (given_files / "out/data").glob("train*")
    rows = pyarrow.parquet.read_table(path).to_pylist()
    rows[0]["pictures"][0]["file_name"] = "../secret.png"
    rows[0]["images"][1]["bytes"] = b"#!/bin/sh"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    before = {*given_files.iterdir()}
    os.rename("out", "elsewhere")
    ended = forked("score", "dataset:../elsewhere", cwd=given_files / "images")
    assert ended.code == 3
    assert {*given_files.iterdir()} - before == {given_files / "elsewhere"}
    assert "is outside the allowed folders" in ended.err
    assert not [one for one in (given_files / "elsewhere/pictures").rglob("*.*") if one.suffix != ".png"]


def test_an_error_half_way_leaves_nothing_and_an_old_data_set_as_it_was(given_files: Path) -> None:
    os.unlink("images/2-1.png")
    with pytest.raises(UserError, match=r"images/2-1\.png: there is no such picture"):
        write()
    assert sorted(os.listdir()) == ["images", "j.jsonl"]
    write_lines(given_files / "j.jsonl", JUDGEMENTS[:2])
    write()
    before = (given_files / "out/README.md").read_bytes()
    write_lines(given_files / "j.jsonl", JUDGEMENTS)
    with pytest.raises(UserError):
        write()
    assert (given_files / "out/README.md").read_bytes() == before
    assert sorted(os.listdir()) == ["images", "j.jsonl", "out"]
    write_lines(given_files / "j.jsonl", JUDGEMENTS[:3])
    write()
    assert len(records(Prompt)) == 2, "the old one is replaced"


KILLED = """
import os, signal
from vpctl.commands.merge import merge
from vpctl.formats import dataset
dataset.card = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
merge(["j.jsonl"], to=["dataset:out"])
"""


def test_a_kill_half_way_leaves_no_data_set_and_the_next_run_cleans_up(given_files: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED], env=ENVIRONMENT, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    (left,) = {*os.listdir()} - {"images", "j.jsonl"}
    assert left.startswith(".out.")
    assert left.endswith(".part")
    write()
    assert sorted(os.listdir()) == ["images", "j.jsonl", "out"]


def test_another_folder_is_not_replaced(given_files: Path) -> None:
    (given_files / "out").mkdir()
    write()
    assert len(records(Prompt)) == 3, "an empty folder is"
    (given_files / "out/.git").mkdir()
    with pytest.raises(UserError, match="is a folder with other files, which merge would remove"):
        write()
    (given_files / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        write("dataset:file")


@pytest.mark.parametrize("part", ["a/b", "../x", "all", "", "a b"])
def test_a_part_that_cannot_be_a_name_is_told(given_files: Path, part: str) -> None:
    write_lines(given_files / "j.jsonl", [judged(0, [1.0, 2.0], split=part)])
    with pytest.raises(UserError, match="is in the part"):
        write()


@pytest.mark.parametrize(
    ("to", "said"),
    [
        (["pairs", "dataset:out"], "--to dataset:out: holds pairs and judgements together; leave --to pairs out"),
        (["dataset:out?pictures=no"], "pictures=no: must be bytes or files"),
        (["dataset:out?x=no"], "there is no setting 'x'"),
    ],
)
def test_options_that_contradict_each_other_are_told(given_files: Path, to: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        merge(["j.jsonl"], to=to)


def test_what_is_no_data_set_is_told(given_files: Path) -> None:
    with pytest.raises(UserError, match="none: no such folder"):
        records(Image, "dataset:none")
    with pytest.raises(UserError, match="is a file; name the folder"):
        records(Image, "dataset:j.jsonl")
    (given_files / "data").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["x"]}), given_files / "data/a.parquet")
    with pytest.raises(UserError, match="it has no column 'prompt_id'; read other Parquet files as parquet:"):
        records(Image, "dataset:.")
