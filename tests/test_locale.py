"""vpctl in any locale: text files are UTF-8, and file names in other encodings are refused in one line."""

import ast
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import HOME, PATIENCE, Ended, lines, vpctl
from tests.surroundings import ENVIRONMENT
from vpctl.cli import COMMANDS

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Python reads text as ASCII here if nothing else is said: as good as any other locale that is not UTF-8."""


def run(folder: Path, *arguments: str | bytes, **more: str) -> Ended:
    done = subprocess.run(
        [*vpctl(), *arguments], cwd=folder, env=ENVIRONMENT | ASCII | more, capture_output=True, timeout=PATIENCE
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def text_without_encoding(source: str) -> Iterator[int]:
    """Lines of source code that open a text file in the encoding of the locale."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        place = {"read_text": 0, "write_text": 1}.get(name)
        said = any(word.arg == "encoding" for word in node.keywords)
        if place is not None and not said and len(node.args) <= place:
            yield node.lineno
        modes = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        is_a_file = name == "open" and (isinstance(node.func, ast.Name) or len(modes) == len(node.args))
        if is_a_file and not said and not any("b" in mode for mode in modes):
            yield node.lineno


def test_every_text_file_of_the_package_is_opened_with_its_encoding() -> None:
    found = {
        f"{path.relative_to(HOME)}:{line}"
        for path in (HOME / "vpctl").rglob("*.py")
        for line in text_without_encoding(path.read_text("utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("open(x)", [1]),
        ("open(x, 'w')", [1]),
        ("path.open()", [1]),
        ("path.open('a')", [1]),
        ("path.read_text()", [1]),
        ("path.write_text(text)", [1]),
        ("open(x, 'rb')", []),
        ("open(x, encoding='utf-8')", []),
        ("path.open('rb')", []),
        ("path.read_text('utf-8')", []),
        ("path.write_text(text, 'utf-8')", []),
        ("pictures.open(path)", []),
    ],
)
def test_an_encoding_that_is_missing_is_seen(source: str, found: list[int]) -> None:
    assert [*text_without_encoding(source)] == found


@pytest.mark.parametrize("words", [["--help"], ["--plugins"], *([name, "--help"] for name in COMMANDS)])
def test_help_is_there_in_any_locale(tmp_path: Path, words: list[str]) -> None:
    ended = run(tmp_path, *words)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out


def test_records_and_aspects_are_utf_8_in_any_locale(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("ein roter Kreis über blauem Grund, 赤い円\n", "utf-8")
    ended = run(tmp_path, "polish", "prompts.txt")
    assert ended.code == 0
    assert [one["prompt"] for one in lines(ended.out)] == ["ein roter Kreis über blauem Grund, 赤い円"]
    (tmp_path / "schön.md").write_text("# Schön\n\nWie schön 赤い円 ist.\n", "utf-8")
    (tmp_path / "in.jsonl").touch()
    ended = run(tmp_path, "annotate", "in.jsonl", "--aspect", "schön.md", "--annotator", "openai:x", "--dry-run")
    assert ended.code == 0, ended.err
    (tmp_path / "schön.txt").write_text("a red circle\n", "utf-8")
    assert run(tmp_path, "polish", "schön.txt", "--out", "rot.jsonl").code == 0


def test_a_table_is_drawn_in_any_locale(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(
        '{"prompt_id": "p", "prompt": "x", "aspect": "schön", "annotator": "ä", "image_ids": ["a", "b"], '
        '"file_names": ["a.png", "b.png"], "scores": [1, 2]}\n',
        "utf-8",
    )
    ended = run(tmp_path, "merge", "in.jsonl", "--out", "out.jsonl")
    assert ended.code == 0
    assert "sch\\xf6n" in ended.err


@pytest.mark.parametrize("words", [(b"polish", b"caf\xe9.txt"), (b"polish", b"in.txt", b"--out", b"caf\xe9.jsonl")])
def test_a_name_of_other_bytes_is_one_line(tmp_path: Path, words: tuple[bytes, ...]) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    name = next(word.decode("utf-8", "backslashreplace") for word in words if b"\xe9" in word)
    for locale in ({}, {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}):
        ended = run(tmp_path, *words, **locale)
        reason = "an argument is not UTF-8; rename the file or folder, e.g. with convmv"
        assert ended == (2, "", f"vpctl polish: error: {name}: {reason}\n")


def test_a_working_folder_of_other_bytes_or_none_is_one_line(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(folder)
    ended = run(Path(os.fsdecode(folder)), "merge", "in.jsonl")
    reason = "the working directory's name is not UTF-8; rename the file or folder, e.g. with convmv"
    assert (ended.code, ended.err.endswith(f"caf\\xe9: {reason}\n")) == (2, True)
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *vpctl("merge", "in.jsonl")],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (
        2,
        "vpctl merge: error: the working directory no longer exists; cd to another one\n",
    )
