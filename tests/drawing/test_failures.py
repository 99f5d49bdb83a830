"""Failed and black pictures are drawn once more, and then recorded as failed. Too little memory halves the batches."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image as PIL

from tests.conftest import Plugin, Run, lines
from vpctl.contracts import Settings
from vpctl.drawing.batches import LARGEST, Batches
from vpctl.drawing.plan import DrawingPlan, LoadedGenerator, planned
from vpctl.drawing.run import Easel, drawn, is_black
from vpctl.errors import RecordFailed, UserError
from vpctl.images.pictures import save
from vpctl.records import Image, Prompt

Picture = PIL.Image | RecordFailed
PROMPTS: list[Prompt] = [{"prompt": f"prompt {index}"} for index in range(8)]
RED = PIL.new("RGB", (4, 4), "red")
BLACK = PIL.new("RGB", (4, 4))


class Painter:
    """Draws what `paint` says for a prompt and a seed, at most `most` at once, and notes the sizes of batches."""

    def __init__(self, paint: Callable[[str, int], Picture], most: int = 100, error: Exception | None = None) -> None:
        self.paint, self.most, self.error = paint, most, error or torch.OutOfMemoryError("CUDA out of memory.")
        self.sizes: list[int] = []
        self.seeds: list[int] = []

    def __call__(self, prompts: list[str], seeds: list[int], settings: Settings) -> list[Picture]:
        self.sizes.append(len(prompts))
        if len(prompts) > self.most:
            raise self.error
        self.seeds += seeds
        return [self.paint(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]


def plan(painter: Painter) -> DrawingPlan:
    return DrawingPlan([LoadedGenerator("m", painter, "w", Settings(1.0, 10))], 2, None, Settings(), "", "", 0)


def draw(
    painter: Painter, folder: Path, batches: Batches | None = None, prompts: list[Prompt] = PROMPTS
) -> list[Image]:
    easel = Easel(str(folder), batches or Batches(4), save)
    return list(drawn(prompts, plan(painter), easel, claim=lambda _: True))


def first_seeds(prompts: list[Prompt]) -> set[int]:
    return {job.record["seed"] for prompt in prompts for job in planned(prompt, plan(Painter(lambda *_: RED)))}


def test_a_black_picture_is_drawn_again_with_a_seed_of_its_own(tmp_path: Path) -> None:
    """The record keeps its id, which is in the plan, and has the seed that the picture was drawn with."""
    seeds = first_seeds(PROMPTS[:1])
    painter = Painter(lambda prompt, seed: BLACK if seed in seeds else RED)
    whole = draw(Painter(lambda *_: RED), tmp_path / "whole")
    found = draw(painter, tmp_path / "cut")
    assert [one["image_id"] for one in found] == [one["image_id"] for one in whole]
    assert [one for one in found if one["prompt"] == "prompt 0"] != [
        one for one in whole if one["prompt"] == "prompt 0"
    ]
    assert not any("failed" in one for one in found)
    assert len(painter.seeds) == 18
    assert not {one["seed"] for one in found} & seeds
    assert all(Path(one["file_name"]).is_file() for one in found)
    again = Painter(lambda prompt, seed: BLACK if seed in seeds else RED)
    assert draw(again, tmp_path / "cut") == found, "also if it is resumed after the file and before the record"
    assert again.sizes == []


@pytest.mark.parametrize("picture", [BLACK, RecordFailed("it has values that are not numbers")])
def test_what_fails_twice_is_recorded_and_has_no_file(picture: Picture, tmp_path: Path) -> None:
    painter = Painter(lambda prompt, seed: picture if prompt == "prompt 3" else RED)
    found = draw(painter, tmp_path)
    failed = [one for one in found if "failed" in one]
    assert {one["prompt"] for one in failed} == {"prompt 3"}
    assert len(found) == 16
    assert len(failed) == 2
    assert len(painter.seeds) == 18
    assert failed[0]["failed"].startswith("drawn twice: i")
    assert not any(Path(one["file_name"]).exists() for one in failed)


def test_a_black_picture_is_kept_if_the_prompt_asks_for_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked: list[Prompt] = [{"prompt": "a Black square"}, {"prompt": "a blackbird"}]
    found = draw(Painter(lambda *_: BLACK), tmp_path, prompts=asked)
    assert [one["prompt"] for one in found if "failed" not in one] == ["a Black square"] * 2
    assert "warning: a picture is black, and so kept for its prompt: 'a Black square'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("picture", "black"),
    [
        (BLACK, True),
        (PIL.new("L", (4, 4), 2), True),
        (PIL.new("RGB", (4, 4), (9, 9, 9)), False),
        (PIL.new("RGBA", (4, 4), (0, 0, 0, 0)), False),
        (PIL.linear_gradient("L").point(lambda shade: shade // 100), False),
    ],
)
def test_black_is_one_dark_colour(picture: PIL.Image, black: bool) -> None:
    assert is_black(picture) == black


def test_failures_stand_beside_the_records_and_are_not_drawn_again(forked: Run, tmp_path: Path, plugin: Plugin) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\na blue star\n")
    plugin(
        "half",
        "from PIL import Image\n"
        "return lambda prompts, *_: [Image.new('RGB', (4, 4), 'red' if 'red' in p else 'black') for p in prompts]",
    )
    words = "generate prompts.txt -m ./half.py -n 2".split()
    ended = forked(*words, "--out", "images/metadata.jsonl")
    assert ended.code == 3, ended.err
    assert "2 pictures written to images; 2 failed; see images/metadata.failed.jsonl" in ended.err
    failed = lines((tmp_path / "images/metadata.failed.jsonl").read_text())
    assert [one["failed"] for one in failed] == ["drawn twice: it is black"] * 2
    assert len(lines((tmp_path / "images/metadata.jsonl").read_text())) == 2
    again = forked(*words, "--out", "images/metadata.jsonl")
    assert again.code == 0, again.err
    assert "0 pictures written to images; 2 were already there" in again.err
    assert "2 pictures failed in an earlier run; see images/metadata.failed.jsonl" in again.err
    kept = forked("generate", "images/metadata.failed.jsonl", *words[2:], "--keep-black", "--seed", "1")
    assert kept.code == 0, kept.err
    assert not any("failed" in one for one in lines(kept.out))
    assert len(lines(kept.out)) == 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried to"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_batch_once(
    error: Exception, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    painter = Painter(lambda *_: RED, most=5, error=error)
    many: list[Prompt] = [{"prompt": f"prompt {index}"} for index in range(20)]
    assert len(draw(painter, tmp_path, Batches(16), many)) == 40
    assert painter.sizes == [16, 8, *[4] * 10]
    said = capfd.readouterr().err.splitlines()
    assert [line.partition(": ")[2] for line in said] == [
        "out of memory with 16 pictures at once; drawing 8 from now on",
        "out of memory with 8 pictures at once; drawing 4 from now on",
    ]


def test_another_error_is_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        draw(Painter(lambda *_: RED, most=1, error=RuntimeError("shapes do not fit")), tmp_path)


def test_a_single_picture_that_does_not_fit_names_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--model m: out of memory with a single picture; name a smaller --size"):
        draw(Painter(lambda *_: RED, most=0), tmp_path)


def test_auto_grows_until_the_memory_is_full(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    painter = Painter(lambda *_: RED, most=20)
    many: list[Prompt] = [{"prompt": f"prompt {index}"} for index in range(60)]
    assert len(draw(painter, tmp_path, Batches(4, growing=True), many)) == 120
    assert painter.sizes[:4] == [4, 8, 16, 32]
    assert max(painter.sizes[4:]) == 16
    assert capfd.readouterr().err.count("--batch auto: drawing 16 pictures at once") == 1
    grown = Batches(LARGEST, growing=True)
    job = next(planned(PROMPTS[0], plan(painter)))
    grown.fitted(job, LARGEST)
    assert grown.size(job) == LARGEST
