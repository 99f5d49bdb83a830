"""Every folder ``cases/COMMAND/NAME`` holds a command line and its expected results.

`cmd` is a line of shell. It runs in a copy of the folder, to which the files of ``cases/plugins`` are added. `out`,
`err` and `code` are the expected output, messages and exit code; the path of the folder is written as FOLDER. A missing
file means empty output or code 0. `python tests/test_cases.py` rewrites these files: read the diff before you trust it.
"""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.conftest import Ended, bash

CASES = Path(__file__).parent / "cases"
EXPECTED = ("out", "err", "code")


def cases() -> list[Path]:
    return sorted(path.parent for path in CASES.glob("*/*/cmd"))


def done(case: Path, copy: Path) -> Ended:
    """Run the command of a case in a copy of its folder, and return its result."""
    shutil.copytree(case, copy, ignore=shutil.ignore_patterns("cmd", *EXPECTED))
    shutil.copytree(CASES / "plugins", copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    ended = bash((case / "cmd").read_text(), copy)
    return Ended(ended.code, ended.out.replace(str(copy), "FOLDER"), ended.err.replace(str(copy), "FOLDER"))


def expected(case: Path) -> Ended:
    texts = [path.read_text() if (path := case / name).exists() else "" for name in EXPECTED]
    return Ended(int(texts[2] or 0), texts[0], texts[1])


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case.relative_to(CASES)))
def test_case(case: Path, tmp_path: Path) -> None:
    assert done(case, tmp_path / "case") == expected(case)


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case.relative_to(CASES)))
def test_what_is_expected_is_what_was_decided(case: Path) -> None:
    """Guards rewritten files: one line that says what is wrong, no traceback, and a valid exit code."""
    code, out, err = expected(case)
    assert code in (0, 2, 3, 4, 75)
    problems = [line for line in err.splitlines() if ": error: " in line or ": warning: " in line]
    assert len(problems) == 1 or code not in (2, 75)
    assert bool(problems) is bool(code)
    assert err == "" or all(line.startswith("vpctl ") for line in err.splitlines())
    assert all(line.startswith("{") for line in out.splitlines())


def write_anew() -> None:
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            code, out, err = done(case, Path(folder) / "case")
        for name, text in zip(EXPECTED, (out, err, f"{code}\n" if code else ""), strict=True):
            (case / name).write_text(text) if text else (case / name).unlink(missing_ok=True)


if __name__ == "__main__":
    write_anew()
