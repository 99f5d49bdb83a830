import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from vpctl import progress
from vpctl.errors import RecordFailed
from vpctl.images.hashes import ContentHasher
from vpctl.images.identities import with_ids, without_duplicates
from vpctl.images.pictures import Pictures
from vpctl.records import Image, digest


@pytest.fixture
def content(tmp_path: Path) -> ContentHasher:
    """The hashes of the files in `tmp_path`: a and copy are equal, other differs."""
    for name, text in {"a.png": "one", "copy.png": "one", "other.png": "two"}.items():
        (tmp_path / name).write_text(text)
    return ContentHasher(Pictures([str(tmp_path)]))


def own(folder: Path, name: str, prompt: str = "a cat", **more: Any) -> Any:
    return {"prompt": prompt, "file_name": str(folder / name), **more}


def test_ids_are_computed_of_the_prompt_and_of_the_bytes_alone(tmp_path: Path, content: ContentHasher) -> None:
    one, copy = with_ids(own(tmp_path, "a.png"), content), with_ids(own(tmp_path, "copy.png", seed=3), content)
    assert one == own(tmp_path, "a.png", prompt_id=digest("a cat"), image_id=one["image_id"])
    assert copy["image_id"] == one["image_id"]
    assert with_ids(own(tmp_path, "other.png"), content)["image_id"] != one["image_id"]
    os.rename(tmp_path / "a.png", tmp_path / "moved.png")
    assert with_ids(own(tmp_path, "moved.png", "a dog"), content)["image_id"] == one["image_id"]


def test_ids_that_are_there_stay_and_no_file_is_read_for_them(tmp_path: Path, content: ContentHasher) -> None:
    whole: Image = own(tmp_path, "gone.png", prompt_id="p", image_id="i")
    assert with_ids(whole, content) == whole
    assert with_ids(own(tmp_path, "gone.png", image_id="i"), content)["prompt_id"] == digest("a cat")
    polished = own(tmp_path, "gone.png", image_id="i", source_prompt="a cat, 8 k")
    assert with_ids(polished, content)["prompt_id"] == digest("a cat, 8 k"), "polish keeps the id of the old prompt"
    with pytest.raises(RecordFailed, match="there is no such picture"):
        with_ids(own(tmp_path, "gone.png", prompt_id="p"), content)


def test_a_picture_that_comes_twice_is_left_out_in_one_prompt_only(
    tmp_path: Path, content: ContentHasher, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [
        own(tmp_path, "a.png"),
        own(tmp_path, "other.png"),
        own(tmp_path, "copy.png"),
        own(tmp_path, "copy.png", "a dog"),
    ]
    kept = list(without_duplicates(with_ids(record, content) for record in records))
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

    for number, _ in enumerate(without_duplicates(many())):
        assert read[0] == 2 * number + 1
    progress.flush_warnings()
    assert f"{500 - progress.MAX_SHOWN} more records of the same picture" in capsys.readouterr().err


def test_the_very_same_record_twice_is_a_repeat() -> None:
    record: Image = {"prompt": "a cat", "prompt_id": "p", "image_id": "i", "file_name": "a.png"}
    assert list(without_duplicates([record, record])) == [record]
