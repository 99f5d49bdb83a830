"""Runs the table of hostile inputs, and the first inputs of the fuzzer, in forks of one process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile import fuzz
from tests.hostile.fork import Ended, Forks
from tests.hostile.table import Bench, Case, broken_rules, differences, matches, table, the_line

CASES = table()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as started:
        yield started


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Bench:
    return Bench(tmp_path_factory.mktemp("hostile"), forks)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.theme}: {case.name}")
def test_input(case: Case, bench: Bench) -> None:
    ended, home = bench(case)
    wrong = differences(case, ended, home)
    assert not wrong, "\n".join([case.run or case.shell, *wrong, ended.err.decode("utf-8", "backslashreplace")])


def test_every_input_has_a_name_of_its_own_and_an_end() -> None:
    names = [(case.theme, case.name) for case in CASES]
    assert len(names) == len(set(names)) >= 300
    for case in CASES:
        assert bool(case.run) != bool(case.shell), case.name
        if not case.text and "2>" not in case.shell:
            assert (": error: " in case.line) == (case.code == 2), case.name


def test_the_fuzzer_finds_nothing_in_its_first_inputs(tmp_path: Path, forks: Forks) -> None:
    assert not list(fuzz.hunted(tmp_path, forks, number=0, size=32))


@pytest.mark.parametrize(
    ("code", "out", "err", "rule"),
    [
        (1, b"", "", "exit 1"),
        (-11, b"", "", "exit -11"),
        (2, b"", "", "exit 2 with 0 lines of error"),
        (0, b"", "vpctl: error: x\n", "exit 0 with 1 lines of error"),
        (2, b"", "vpctl: error: x\nvpctl: error: y\n", "exit 2 with 2 lines of error"),
        (0, b"hello\n", "", "no record on stdout"),
        (0, b"[]\n", "", "no record on stdout"),
        (0, b"", "vpctl: \x1b[31mred\n", "control character"),
        (0, b"", "vpctl: \u202enohtyp\n", "control character"),
        (2, b"", "Traceback (most recent call last):\nE: error: x\n", "a traceback"),
        (2, b"", "You are using a model of type x.\nvpctl: error: x\n", "1 lines beside vpctl's own"),
    ],
)
def test_a_broken_rule_is_seen(code: int, out: bytes, err: str, rule: str) -> None:
    assert any(one.startswith(rule) for one in broken_rules(code, out, err))


def test_what_keeps_the_rules_breaks_none() -> None:
    assert not list(broken_rules(2, b'{"a":1}\n', "vpctl merge: error: in.jsonl:1: no\n"))
    assert not list(broken_rules(3, b"", "vpctl score: warning: x\nvpctl score: 0 pictures written; 1 failed\n"))


def test_the_line_is_the_error_or_else_the_first_warning_or_else_the_last() -> None:
    assert the_line("vpctl: note\nvpctl: warning: x\nvpctl a: error: y\n") == "vpctl a: error: y"
    assert the_line("vpctl: note\nvpctl: warning: x\nvpctl: warning: z\nvpctl: end\n") == "vpctl: warning: x"
    assert the_line("vpctl: note\nvpctl: end\n│ a table │\n") == "vpctl: end"
    assert the_line("") == ""


def test_an_ellipsis_stands_for_anything_and_nothing_else_does() -> None:
    assert matches("vpctl: error: x.y: why so", "vpctl: error: x.y: …")
    assert not matches("vpctl: error: xzy: why so", "vpctl: error: x.y: …")
    assert not matches("vpctl: error: x.y: why so", "vpctl: error: x.y: why")


def test_a_fork_ends_as_a_process_does(tmp_path: Path, forks: Forks) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert forks(["--version"], home).out.startswith(b"vpctl ")
    (home / "spin.py").write_text("while True: pass\n")
    (home / "in.jsonl").write_text("")
    assert forks(["score", "in.jsonl", "-r", "./spin.py"], home, cpu_seconds=1) == Ended(-24, b"", b"")


def test_code_that_runs_is_seen(tmp_path: Path, forks: Forks) -> None:
    bench = Bench(tmp_path, forks)
    plugin = "import os\nos.system('touch RAN')\nos.write(1, b'hello')\n"
    case = Case("", "", run="score images.jsonl -r ./mine.py", files={"mine.py": plugin}, code=2, line="…")
    ended, home = bench(case)
    assert any(one.startswith("foreign code ran") for one in differences(case, ended, home))
    assert (ended.out, b"hello" in ended.err) == (b"", True), "what it writes itself is kept from the records"
