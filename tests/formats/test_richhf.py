"""richhf: scores of people for single pictures, from TFRecord and from Parquet."""

import io
import struct
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter

from tests.conftest import lines
from tests.formats.test_tables import png
from vpctl import plugins, sources
from vpctl.commands.merge import merge
from vpctl.errors import RecordFailed, UserError
from vpctl.records import Image, Judgement
from vpctl.streams.reading import located


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    sources.begin()
    return tmp_path


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message: its number, its length in one or two bytes, its content."""
    size = len(content)
    return bytes([number << 3 | 2, *([size] if size < 128 else [size & 127 | 128, size >> 7])]) + content


def example(**features: bytes | float | list[float]) -> bytes:
    """A tf.train.Example, written by hand, as TensorFlow writes it."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            one = field(1, field(1, value))
        else:
            numbers = value if isinstance(value, list) else [value]
            one = field(2, field(1, struct.pack(f"<{len(numbers)}f", *numbers)))
        entries += field(1, field(1, name.encode()) + field(2, one))
    return field(1, entries)


def record(content: bytes) -> bytes:
    """A row of a TFRecord file, as TensorBoard writes it."""
    file = io.BytesIO()
    RecordWriter(file).write(content)
    return file.getvalue()


def scored(name: str, *scores: float, **more: Any) -> bytes:
    keys = ("aesthetics_score", "artifact_score", "misalignment_score", "overall_score")
    about: dict[str, Any] = {
        "filename": name.encode(),
        "artifact_map": bytes(300),
        **dict(zip(keys, scores, strict=True)),
    }
    return record(example(**about | more))


def captions(**texts: str) -> None:
    for name, text in texts.items():
        Path("train").mkdir(exist_ok=True)
        Path(f"train/{name}.txt").write_text(text)


def judgements(spec: str) -> list[dict[str, Any]]:
    return [{**one} for _, one in located(spec, Judgement)]


def faults(spec: str) -> list[str]:
    rows = plugins.load("format", spec)("judgement")
    return [f"{where}: {row}" for where, row in rows if isinstance(row, RecordFailed)]


def test_a_picture_has_a_score_of_each_aspect_and_a_higher_one_is_better(here: Path) -> None:
    """Two thirds of the scale from 0 to 1 are 3.67 on the scale from 1 to 5."""
    captions(a="a cat\n")
    labels = {"prompt_misalignment_label": b"1 0"}
    (here / "train.tfrecord").write_bytes(scored("train/a.png", 2 / 3, 0.0, 1.0, 0.25, **labels))
    found = judgements("richhf:train.tfrecord")
    assert {one["aspect"]: one["scores"] for one in found} == {
        "aesthetic": [pytest.approx(3.666667)],
        "fidelity": [1.0],
        "prompt-following": [5.0],
        "overall": [2.0],
    }
    assert {(one["annotator"], one["mode"], one["prompt_misalignment_label"]) for one in found} == {
        ("human:richhf", "point", "1 0")
    }
    assert found[0]["image_ids"] == ["train/a.png"]
    assert found[0]["file_names"] == [str(here / "train/a.png")], "also where it is not there"
    assert "artifact_map" not in found[0]


def test_two_pictures_of_a_prompt_become_a_pair(here: Path) -> None:
    captions(a="a cat", b="a cat")
    rows = scored("train/a.png", 0.5, 0.5, 0.5, 0.5) + scored("train/b.png", 0.75, 0.5, 1.0, 0.75)
    (here / "train.tfrecord").write_bytes(rows)
    merge(["richhf:train.tfrecord"], "pairs.jsonl")
    (pair,) = lines((here / "pairs.jsonl").read_text())
    assert (pair["chosen_image_id"], pair["rejected_image_id"]) == ("train/b.png", "train/a.png")
    assert pair["aspects"] == {"aesthetic": 0.25, "fidelity": 0, "overall": 0.25, "prompt-following": 0.5}


def test_parquet_has_prompts_and_pictures(here: Path) -> None:
    row = {"filename": "train/a.png", "aesthetics_score": 1.0, "artifact_score": 0.5, "misalignment_score": 0.0}
    more = {"caption": "a cat", "image": {"bytes": png(), "path": None}, "artifact_map": [[0.5]]}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{**row, **more}]), here / "a.parquet")
    found = judgements("richhf:a.parquet")
    assert {one["aspect"]: one["scores"] for one in found} == {
        "prompt-following": [1.0],
        "aesthetic": [5.0],
        "fidelity": [3.0],
    }
    ((_, image),) = located("richhf:a.parquet", Image)
    assert (image["prompt"], image["image_id"]) == ("a cat", Path(image["file_name"]).name[:16])
    assert Path(image["file_name"]).read_bytes() == png()
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), here / "b.parquet")
    with pytest.raises(UserError, match=r"^b\.parquet: RichHF-18K has a column 'filename'; this has x$"):
        judgements("richhf:b.parquet")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"filename": "/etc/passwd"}, "the filename '/etc/passwd' leads out of the data set"),
        ({"filename": "a/../../b.png"}, "the filename 'a/../../b.png' leads out of the data set"),
        ({"image": {"bytes": None, "path": "/etc/passwd"}}, "the image '/etc/passwd' leads out of the data set"),
        ({"image": {"bytes": None, "path": "../b.png"}}, "the image '../b.png' leads out of the data set"),
        ({"artifact_score": float("nan")}, "'artifact_score' is not a number"),
    ],
)
def test_a_malformed_row_of_parquet_is_told_and_a_missing_score_is_none(
    here: Path, changed: dict[str, Any], said: str
) -> None:
    picture = {"bytes": None, "path": "train/a.png"}
    good = {"filename": "train/a.png", "caption": "a cat", "aesthetics_score": 1.0, "image": picture}
    good |= {"artifact_score": 0.5, "misalignment_score": None}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([good | changed, good]), here / "a.parquet")
    assert faults("richhf:a.parquet") == [f"row 1: {said}"]
    found = judgements("richhf:a.parquet")
    assert [one["aspect"] for one in found] == ["aesthetic", "fidelity"]
    assert found[0]["image_ids"] == ["train/a.png"]
    assert found[0]["file_names"] == [str(here / "train/a.png")]


GOOD = ("train/a.png", 0.5, 0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (scored("train/none.png", 0.5, 0.5, 0.5, 0.5), "has no prompt: a TFRecord file of RichHF-18K has none; write "),
        (scored("train/a.png", 0.5, 0.5, 0.5, 3.5), "'overall_score' must be a number from 0 to 1"),
        (scored("train/a.png", 0.5, 0.5, 0.5, float("inf")), "'overall_score' is infinite"),
        (scored("train/a.png", 0.5, float("nan"), 0.5, 0.5), "'artifact_score' is not a number"),
        (scored("/etc/passwd.png", 0.5, 0.5, 0.5, 0.5), "the filename '/etc/passwd.png' leads out of the data set"),
        (scored("../a.png", 0.5, 0.5, 0.5, 0.5), "the filename '../a.png' leads out of the data set"),
        (scored("train/link.png", 0.5, 0.5, 0.5, 0.5), "is a link to a file outside of"),
        (record(example(filename=b"train/a.png")), "has none of misalignment_score, "),
        (record(example(filename=b"\xff")), "a text is not UTF-8"),
        (record(b"\x0a\xff\xff"), "is not a tf.train.Example"),
        (record(b""), "'filename' must be text"),
        (scored(*GOOD).replace(b"train", b"Train", 1), "is damaged: its checksum is wrong"),
    ],
)
def test_a_malformed_row_is_told_and_the_others_are_read(here: Path, row: bytes, said: str) -> None:
    captions(a="a cat")
    (here.parent / "secret").write_text("secret")
    (here / "train/link.txt").symlink_to(here.parent / "secret")
    (here / "train.tfrecord").write_bytes(row + scored(*GOOD))
    (fault,) = faults("richhf:train.tfrecord")
    assert said in fault
    assert fault.startswith("row 1: ")
    assert len(judgements("richhf:train.tfrecord")) == 4


@pytest.mark.parametrize("end", [b"PK\x03\x04", record(b"")[:-1], b"\xff" * 12, scored(*GOOD)[:40]])
def test_a_file_that_is_cut_off_or_damaged_is_told(here: Path, end: bytes) -> None:
    captions(a="a cat")
    (here / "train.tfrecord").write_bytes(scored(*GOOD) + end)
    (fault,) = faults("richhf:train.tfrecord")
    assert fault.startswith("row 2: ")
    assert "cut off" in fault
    assert len(judgements("richhf:train.tfrecord")) == 4


def test_a_row_that_promises_too_much_is_not_believed(here: Path) -> None:
    length = struct.pack("<Q", 1 << 60)
    (here / "train.tfrecord").write_bytes(length + struct.pack("<I", masked_crc32c(length)))
    with pytest.raises(UserError, match="row 1: 1152921504606846976 bytes are announced, and the file is cut off"):
        judgements("richhf:train.tfrecord")
