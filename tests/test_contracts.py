"""The contracts of plug-ins: what the manual shows works as it stands, and a wrong signature is refused."""

import inspect
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from pytest_httpserver import HTTPServer

from tests.conftest import Plugin, Run, draw, lines
from vpctl import contracts
from vpctl.contracts import (
    Annotator,
    Aspect,
    AsyncGenerator,
    AsyncPolisher,
    Format,
    Generator,
    Polisher,
    Question,
    Reward,
    Verdicts,
)

COMMANDS = {
    "Polisher": "polish prompts.txt --polisher ./mine.py",
    "Generator": "generate prompts.txt --model ./mine.py --out drawn/metadata.jsonl",
    "Annotator": "annotate metadata.jsonl --annotator ./mine.py",
    "Reward": "score metadata.jsonl --reward ./mine.py",
    "Format": "polish ./mine.py:film.srt",
}
AS_A_CLASS = "As a class:\n"


def examples(contract: str) -> list[str]:
    """The files that a contract shows: that of a function and, if it has one, that of a class."""
    docstring = inspect.getdoc(getattr(contracts, contract)) or ""
    return [f"{inspect.cleandoc(one)}\n" for one in docstring.partition("Examples:\n")[2].split(AS_A_CLASS)]


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as opened:
        return opened.size


@pytest.mark.parametrize(("contract", "command"), COMMANDS.items(), ids=COMMANDS)
def test_the_example_of_the_manual_works_as_it_stands(forked: Run, tmp_path: Path, contract: str, command: str) -> None:
    draw(tmp_path, prompts=2)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    (tmp_path / "film.srt").write_text("1\n00:00:01 --> 00:00:02\nA red circle.\n")
    (tmp_path / "mine.py").write_text(examples(contract)[0])
    ended = forked(*command.split())
    assert ended.code == 0, ended.err
    written = tmp_path / "drawn" / "metadata.jsonl"
    records = lines(written.read_text() if written.exists() else ended.out)
    said = {
        "Polisher": lambda: {record["prompt"] for record in records} == {"A RED CIRCLE"},
        "Generator": lambda: {size_of(tmp_path / "drawn" / one["file_name"]) for one in records} == {(64, 64)},
        "Annotator": lambda: all(1 <= score <= 5 for record in records for score in record["scores"]),
        "Reward": lambda: all(0 <= record["scores"]["./mine.py"] <= 1 for record in records),
        "Format": lambda: [record["prompt"] for record in records] == ["A red circle"],
    }
    assert records
    assert said[contract]()


@pytest.mark.parametrize(("mode", "possible"), [("list", {2, 5}), ("pair", {1, 5})])
def test_the_class_of_the_manual_judges_by_its_argument(
    forked: Run, tmp_path: Path, mode: str, possible: set[float]
) -> None:
    """A picture of 8 × 8 pixels has a quarter of the 256 that are enough, and one of 16 × 16 has all."""
    draw(tmp_path, prompts=1)
    small, large = (tmp_path / record["file_name"] for record in lines((tmp_path / "metadata.jsonl").read_text()))
    Image.new("RGB", (8, 8)).save(small)
    Image.new("RGB", (16, 16)).save(large)
    (tmp_path / "mine.py").write_text(examples("Annotator")[1])
    ended = forked("annotate", "metadata.jsonl", "--annotator", "./mine.py:256", "--aspect", "fidelity", "--mode", mode)
    assert ended.code == 0, ended.err
    judgements = lines(ended.out)
    assert judgements
    for judgement in judgements:
        assert set(judgement["scores"]) == possible
        assert judgement["file_names"][judgement["scores"].index(max(possible))] == large.name


class NoSettings(Generator):
    """mypy refuses it: were the comment not needed, mypy would say so, since unused ones are errors."""

    def __call__(self, prompts: list[str], seeds: list[int]) -> list[Image.Image]:  # type: ignore[override]
        return []


class OneScore(Reward):
    def __call__(self, images: object, prompts: list[str]) -> float:  # type: ignore[override]
        return 1.0


class NotAsync(Annotator):
    def ask(self, question: Question) -> list[Verdicts]:  # type: ignore[override]
        return []


class NumberForText(Annotator):
    async def ask(self, question: Question) -> list[Verdicts]:
        return []

    def summary(self) -> int:  # type: ignore[override]
        return 3


def test_the_asynchronous_polisher_of_the_manual_works_as_it_stands(
    forked: Run, tmp_path: Path, httpserver: HTTPServer
) -> None:
    """The server answers the first request, and fails at the second one."""
    httpserver.expect_ordered_request("/").respond_with_json([f"picture {number}" for number in range(8)])
    httpserver.expect_ordered_request("/").respond_with_data("", status=500)
    (tmp_path / "prompts.txt").write_text("".join(f"a red circle {number}\n" for number in range(9)))
    (tmp_path / "remote.py").write_text(examples("AsyncPolisher")[0])
    ended = forked(
        "polish", "prompts.txt", "--polisher", f"./remote.py:{httpserver.url_for('/')}", "--concurrency", "1"
    )
    assert ended.code == 3, ended.err
    assert [record["prompt"] for record in lines(ended.out)] == [f"picture {number}" for number in range(8)]
    assert "500" in ended.err
    without = forked("polish", "prompts.txt", "--polisher", "./remote.py")
    assert without.code == 2
    assert "--polisher remote.py: add :URL" in without.err


def test_the_asynchronous_generator_of_the_manual_works_as_it_stands(
    forked: Run, tmp_path: Path, httpserver: HTTPServer
) -> None:
    """The server draws the first picture, then sends none, and none again, and fails at last."""
    drawn = BytesIO()
    Image.new("RGB", (9, 9), "red").save(drawn, "PNG")
    for content in (drawn.getvalue(), b"nothing", b"nothing"):
        httpserver.expect_ordered_request("/").respond_with_data(content)
    httpserver.expect_ordered_request("/").respond_with_data("", status=500)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    (tmp_path / "remote.py").write_text(examples("AsyncGenerator")[0])
    out = tmp_path / "drawn" / "metadata.jsonl"
    words = ["generate", "prompts.txt", "--out", str(out), "-m"]
    for number in (1, 2, 3):
        ended = forked(*words, f"./remote.py:{httpserver.url_for('/')}", "-n", str(number))
        assert ended.code == (0 if number == 1 else 3), ended.err
    assert [(one["width"], one["height"]) for one in lines(out.read_text())] == [(9, 9)]
    assert [one["failed"][:12] for one in lines(Path(f"{out.parent}/metadata.failed.jsonl").read_text())] == [
        "drawn twice:"
    ]
    assert "1 picture could not be drawn for now" in ended.err
    without = forked(*words, "./remote.py")
    assert without.code == 2
    assert "--model remote.py: add :URL" in without.err


def test_a_generator_may_be_a_coroutine_function(forked: Run, plugin: Plugin, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    body = (
        "from PIL import Image\nfrom vpctl.contracts import DrawnPicture\nasync def draw(prompt, seed, settings):\n"
        "    return DrawnPicture(Image.new('RGB', (7, 7), prompt.split()[1]))\nreturn draw"
    )
    plugin("mine", body)
    ended = forked("generate", "prompts.txt", "-m", "./mine.py", "-n", "2", "--concurrency", "2")
    assert ended.code == 0, ended.err
    assert [(one["prompt"], one["width"]) for one in lines(ended.out)] == [("a red circle", 7)] * 2 + [
        ("a blue square", 7)
    ] * 2
    plugin("wrong", "async def draw(prompt, seed, settings):\n    return 7\nreturn draw")
    ended = forked("generate", "prompts.txt", "-m", "./wrong.py")
    assert ended.code == 2
    assert "--model ./wrong.py: it returned an int, 7; an asynchronous generator takes" in ended.err


def test_a_polisher_may_be_a_coroutine_function(forked: Run, plugin: Plugin, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    body = "from vpctl.contracts import Polished\nasync def polish(prompts):\n    return [*map(Polished, prompts)]\n"
    plugin("mine", f"{body}return polish")
    ended = forked("polish", "prompts.txt", "--polisher", "./mine.py")
    assert ended.code == 0, ended.err
    assert [record["prompt"] for record in lines(ended.out)] == ["a red circle", "a blue square"]


@pytest.mark.parametrize("contract", [Polisher, AsyncPolisher, Generator, AsyncGenerator, Annotator, Reward, Format])
def test_a_class_without_the_call_of_its_contract_is_refused(contract: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Mine", (contract,), {})()


def test_what_a_class_does_not_define_has_its_default() -> None:
    mine = NumberForText()
    kind = Question("a cat", [None], (Aspect("fidelity", "Fidelity", "Levels."),)).kind
    assert (mine.preparing, mine.identity, mine.status(0.5), mine.expected(kind, "a cat", [(8, 8)])) == (
        4,
        None,
        "",
        {},
    )
    assert (mine.allowance(kind, "a cat", [(8, 8)]), mine.assumptions()) == ({}, "")
    assert mine.pixels(Image.new("RGB", (3, 5))) == 15
    assert mine.template(kind) != mine.template(kind._replace(aspects=(Aspect("fidelity", "Fidelity", "Others."),)))
