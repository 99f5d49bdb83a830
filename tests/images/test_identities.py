import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from vpctl import progress
from vpctl.errors import RecordFailed
from vpctl.images.hashes import Contents
from vpctl.images.identities import distinct, identified
from vpctl.images.pictures import Pictures
from vpctl.records import Image, digest


@pytest.fixture
def content(tmp_path: Path) -> Contents:
    """The hashes of the files in `tmp_path`: a and copy are equal, other differs."""
    for name, text in {"a.png": "one", "copy.png": "one", "other.png": "two"}.items():
        (tmp_path / name).write_text(text)
    return Contents(Pictures([str(tmp_path)]))


def own(folder: Path, name: str, prompt: str = "a cat", **more: Any) -> Any:
    return {"prompt": prompt, "file_name": str(folder / name), **more}


def test_ids_are_computed_of_the_prompt_and_of_the_bytes_alone(tmp_path: Path, content: Contents) -> None:
    one, copy = identified(own(tmp_path, "a.png"), content), identified(own(tmp_path, "copy.png", seed=3), content)
    assert one == own(tmp_path, "a.png", prompt_id=digest("a cat"), image_id=one["image_id"])
    assert copy["image_id"] == one["image_id"]
    assert identified(own(tmp_path, "other.png"), content)["image_id"] != one["image_id"]
    os.rename(tmp_path / "a.png", tmp_path / "moved.png")
    assert identified(own(tmp_path, "moved.png", "a dog"), content)["image_id"] == one["image_id"]


def test_ids_that_are_there_stay_and_no_file_is_read_for_them(tmp_path: Path, content: Contents) -> None:
    whole: Image = own(tmp_path, "gone.png", prompt_id="p", image_id="i")
    assert identified(whole, content) == whole
    assert identified(own(tmp_path, "gone.png", image_id="i"), content)["prompt_id"] == digest("a cat")
    polished = own(tmp_path, "gone.png", image_id="i", source_prompt="a cat, 8 k")
    assert identified(polished, content)["prompt_id"] == digest("a cat, 8 k"), "polish keeps the id of the old prompt"
    with pytest.raises(RecordFailed, match="there is no such picture"):
        identified(own(tmp_path, "gone.png", prompt_id="p"), content)


def test_a_picture_that_comes_twice_is_left_out_in_one_prompt_only(
    tmp_path: Path, content: Contents, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [
        own(tmp_path, "a.png"),
        own(tmp_path, "other.png"),
        own(tmp_path, "copy.png"),
        own(tmp_path, "copy.png", "a dog"),
    ]
    kept = list(distinct(identified(record, content) for record in records))
    assert [Path(one["file_name"]).name for one in kept] == ["a.png", "other.png", "copy.png"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{tmp_path}/copy.png: has the same prompt_id and image_id as {tmp_path}/a.png, so" in said


def test_a_long_input_is_neither_read_ahead_nor_kept(capsys: pytest.CaptureFixture[str]) -> None:
    chance, read = Random(0), [0]

    def many() -> Iterator[Any]:
        for number in range(1000):
            read[0] += 1
            yield {"prompt": "x", "prompt_id": f"p{number // 2}", "image_id": "i", "file_name": str(chance.random())}

    for number, _ in enumerate(distinct(many())):
        assert read[0] == 2 * number + 1
    progress.settle()
    assert f"{500 - progress.SHOWN} more records of the same picture" in capsys.readouterr().err
