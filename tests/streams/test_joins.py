import tracemalloc
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from vpctl.errors import UserError
from vpctl.streams.joins import ConsistencyChecker, once


def judged(**more: Any) -> Any:
    return {
        "prompt_id": "p",
        "prompt": "a cat",
        "aspect": "a",
        "annotator": "x",
        "image_ids": ["1", "2"],
        "file_names": ["/1.png", "/2.png"],
        "scores": [1.0, 5.0],
        **more,
    }


def joined(*records: Any, **how: Any) -> list[Any]:
    return [*ConsistencyChecker(**how).judgements((f"f:{number}", one) for number, one in enumerate(records, 1))]


def error(work: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        work()
    return str(raised.value)


def test_a_prompt_id_has_one_prompt() -> None:
    said = error(lambda: joined(judged(), judged(prompt="a dog")))
    assert said.startswith("f:2: prompt_id 'p' has the prompt 'a dog' here and another one at f:1; ")
    assert "keep the records of one prompt, or give the other prompt another prompt_id" in said
    assert len(joined(judged(), judged(prompt_id="q", prompt="a dog"))) == 2


def test_a_prompt_and_its_original_are_in_one_part() -> None:
    for prompt_id in ("p", "p-original"):
        said = error(partial(joined, judged(split="train"), judged(prompt_id=prompt_id, split="test")))
        assert said.startswith(f"f:2: prompt_id {prompt_id!r} is in split 'test' here and in 'train' at f:1; ")
    apart = [judged(split="train"), judged(split="test")]
    assert joined(*apart, parts=False) == apart
    assert joined(judged(), judged(split="test"))
    assert "f:2" in error(lambda: joined(judged(), judged(split="test"), unsaid="train"))


def test_an_image_id_is_one_picture_wherever_it_was_copied_or_moved(tmp_path: Path) -> None:
    for name, text in {"1": "one", "copy": "one", "other": "two"}.items():
        (tmp_path / name).write_text(text)

    def with_first(name: str) -> Any:
        return judged(file_names=[str(tmp_path / name), "/2.png"])

    assert joined(with_first("1"), with_first("copy"), with_first("gone"), with_first("1"))
    said = error(lambda: joined(with_first("1"), with_first("other")))
    assert said.startswith(f"f:2: image_id '1' is the file {tmp_path}/other here and {tmp_path}/1 at f:1, and ")
    known = ConsistencyChecker()
    list(known.judgements([("f:1", with_first("1")), ("f:2", with_first("gone"))]))
    assert known.file("p", "1") == str(tmp_path / "1")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"image_ids": ["1", "1"]}, "image_id '1' occurs twice in one judgement"),
        ({"ranking": [0, 0]}, "'ranking' of a judgement must have every index into its 2 image_ids once"),
        ({"ranking": [1, 2]}, "'ranking' of a judgement must have every index into its 2 image_ids once"),
    ],
)
def test_a_judgement_agrees_with_itself(more: dict[str, Any], why: str) -> None:
    assert error(lambda: joined(judged(**more))) == f"f:1: {why}"
    assert joined(judged(ranking=[1, 0]))


def test_a_prompt_with_very_many_pictures_is_an_error_unless_asked_for() -> None:
    many = judged(image_ids=["1", "2", "3"], file_names=["/1", "/2", "/3"], scores=[1.0] * 3)
    assert "more pictures than --max-pictures 2, the first at f:1" in error(lambda: joined(many, max_pictures=2))
    assert joined(many, many, max_pictures=3)


def test_a_picture_comes_once_among_the_neighbours_of_a_prompt() -> None:
    def images(*ids: str) -> list[Any]:
        located: Any = [
            (f"f:{n}", {"prompt_id": one[0], "prompt": one[0], "image_id": one, "file_name": f"/{one}"})
            for n, one in enumerate(ids, 1)
        ]
        return [*ConsistencyChecker().images(located)]

    assert len(images("a1", "a2", "b1", "a1")) == 4
    assert error(lambda: images("a1", "a2", "a1")).startswith("f:3: image_id 'a1' is here and at f:1; ")


def test_what_is_kept_of_images_does_not_grow_with_their_pictures_and_texts() -> None:
    def kept(pictures: int, words: int) -> int:
        """The bytes of memory kept after reading 2,000 prompts."""
        located: Any = (
            (
                f"f:{prompt}",
                {
                    "prompt_id": f"{prompt:016}",
                    "prompt": f"{prompt} cats " * words,
                    "image_id": f"{prompt:08}{picture:08}",
                    "file_name": f"images/{prompt:032}/{picture:032}.png",
                    "split": "train",
                },
            )
            for prompt in range(2000)
            for picture in range(pictures)
        )
        known = ConsistencyChecker(max_pictures=100)
        tracemalloc.start()
        deque(known.images(located), maxlen=0)
        now, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return now

    few = kept(1, 1)
    assert few < 2000 * 1000
    assert kept(8, 100) < 1.2 * few


def test_neighbours_of_one_prompt_are_bounded_also_where_their_pictures_are_not_kept() -> None:
    with_ids: Any = [
        (f"f:{n}", {"prompt_id": "p", "prompt": "a cat", "image_id": f"{n}", "file_name": "/1"}) for n in (1, 2, 3)
    ]
    without: Any = [(f"f:{n}", {"prompt_id": "p", "prompt": "a cat", "file_name": f"/{n}"}) for n in (1, 2, 3)]
    for located in (with_ids, without):
        with pytest.raises(UserError, match="f:3: prompt_id 'p' has more pictures than --max-pictures 2, the first at"):
            list(ConsistencyChecker(max_pictures=2).images(located))


def test_a_file_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    once([str(tmp_path / "a"), str(tmp_path / "b"), "-"])
    assert "is named twice, also as" in error(lambda: once([str(tmp_path / "a"), str(tmp_path / "link")]))
    assert error(lambda: once(["-", "-"])).startswith("-: is named twice, and")
