"""polish: what is kept, what is dropped and why, and what a resumed run does again."""

from pathlib import Path

import orjson

from tests.conftest import Plugin, Run, lines
from vpctl.commands.polish import polish
from vpctl.records import MAX_PROMPT_CHARS, digest


def test_text_and_json_lines_come_to_the_same(forked: Run, tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("a cat, highly detailed, 8k\n\na dog\n")
    from_text = forked("polish", "raw.txt")
    from_stdin = forked("polish", "-", stdin="a cat, highly detailed, 8k\n\na dog\n")
    lines = "".join(orjson.dumps({"prompt": text}).decode() + "\n" for text in ("a cat, highly detailed, 8k", "a dog"))
    from_json = forked("polish", "-", stdin=lines)
    assert from_text.code == from_stdin.code == from_json.code == 0
    assert from_text.out == from_stdin.out == from_json.out
    assert [orjson.loads(line)["prompt"] for line in from_text.out.splitlines()] == ["a cat", "a dog"]


def test_a_run_on_more_prompts_adds_only_what_is_new(forked: Run, tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("a cat, 8k\na dog\n")
    forked("polish", "raw.txt", "--out", "clean.jsonl")
    before = (tmp_path / "clean.jsonl").read_bytes()
    (tmp_path / "raw.txt").write_text("a mouse\na cat, 8k\na dog, hdr\na dog\n")
    again = forked("polish", "raw.txt", "--out", "clean.jsonl")
    after = (tmp_path / "clean.jsonl").read_bytes()
    assert after.startswith(before)
    assert [orjson.loads(line)["prompt"] for line in after.splitlines()] == ["a cat", "a dog", "a mouse"]
    assert "2 were already there" in again.err


RAW = """a cat, 8k
highly detailed
a naked man
a dog
a cat, hdr
a red circle left of a blue star on a white background
a red circle left of a blue star on a white background, large
a cat, 8k
"""


def prompts_in(file: Path) -> list[str]:
    return [one["prompt"] for one in lines(file.read_text())]


def test_what_is_dropped_is_kept_apart_with_its_reason_and_not_done_again(
    forked: Run, tmp_path: Path, plugin: Plugin
) -> None:
    (tmp_path / "raw.txt").write_text(RAW)
    rules = plugin(
        "counted",
        "from vpctl.polishers import rules\n"
        "def polish(prompts):\n"
        "    print(*prompts, file=open('asked.txt', 'a'), sep='\\n')\n"
        "    return rules.polish(prompts)\n"
        "return polish",
    )
    done = forked("polish", "raw.txt", "--polisher", rules, "--out", "clean.jsonl")
    assert done.code == 0
    cat, shapes = digest("a cat, 8k"), digest("a red circle left of a blue star on a white background")
    dropped = lines((tmp_path / "clean.dropped.jsonl").read_text())
    assert [(one["source_prompt"], one["dropped"]) for one in dropped] == [
        ("highly detailed", "empty"),
        ("a naked man", "unsafe: sexual: naked"),
        ("a cat, hdr", f"duplicate of {cat}"),
        ("a red circle left of a blue star on a white background, large", f"near duplicate of {shapes}"),
    ]
    assert "dropped: 1 empty, 1 unsafe, 1 duplicate, 1 near duplicate; see clean.dropped.jsonl" in done.err
    assert "1 more prompt left out: repeats of earlier prompts" in done.err
    left = {file: file.read_bytes() for file in tmp_path.glob("clean*")}
    again = forked("polish", "raw.txt", "--polisher", rules, "--out", "clean.jsonl")
    assert {file: file.read_bytes() for file in tmp_path.glob("clean*")} == left
    assert (tmp_path / "asked.txt").read_text().splitlines() == RAW.splitlines()[:7]
    assert "4 prompts dropped by an earlier run" in again.err


def test_what_failed_is_in_neither_file_and_tried_again(forked: Run, tmp_path: Path, plugin: Plugin) -> None:
    (tmp_path / "raw.txt").write_text("a cat\na dog\n")
    flaky = plugin(
        "flaky",
        "import os\n"
        "from vpctl.errors import RecordFailed\n"
        "from vpctl.contracts import Polished\n"
        "def one(prompt):\n"
        "    lost = prompt == 'a cat' and not os.path.exists('up')\n"
        "    return RecordFailed('no answer') if lost else Polished(prompt)\n"
        "return lambda prompts: [one(prompt) for prompt in prompts]",
    )
    assert forked("polish", "raw.txt", "--polisher", flaky, "--out", "clean.jsonl").code == 3
    assert prompts_in(tmp_path / "clean.jsonl") == ["a dog"]
    assert not (tmp_path / "clean.dropped.jsonl").exists()
    (tmp_path / "up").touch()
    assert forked("polish", "raw.txt", "--polisher", flaky, "--out", "clean.jsonl").code == 0
    assert prompts_in(tmp_path / "clean.jsonl") == ["a dog", "a cat"]


def test_an_answer_that_came_to_nothing_is_dropped_as_failed_and_ends_in_3(
    forked: Run, tmp_path: Path, plugin: Plugin
) -> None:
    (tmp_path / "raw.txt").write_text("a cat\na dog\n")
    babbling = plugin(
        "babbling",
        "from vpctl.errors import Unusable\n"
        "from vpctl.contracts import Polished\n"
        "return lambda prompts: [Unusable('no JSON') if one == 'a cat' else Polished(one) for one in prompts]",
    )
    done = forked("polish", "raw.txt", "--polisher", babbling, "--out", "clean.jsonl")
    assert done.code == 3
    assert "dropped: 1 failed; see clean.dropped.jsonl" in done.err
    [failed] = lines((tmp_path / "clean.dropped.jsonl").read_text())
    assert (failed["prompt"], failed["dropped"]) == ("a cat", "failed: no JSON")
    assert forked("polish", "raw.txt", "--polisher", babbling, "--out", "clean.jsonl").code == 0
    assert prompts_in(tmp_path / "clean.jsonl") == ["a dog"]


def test_standard_output_has_no_file_beside_it(forked: Run, tmp_path: Path) -> None:
    done = forked("polish", "-", stdin="a cat\na cat, 8k\n")
    assert done.code == 0
    assert "dropped: 1 duplicate\n" in done.err
    assert list(tmp_path.iterdir()) == []


def test_the_dropped_cannot_be_read_while_they_are_written(forked: Run, tmp_path: Path) -> None:
    (tmp_path / "clean.dropped.jsonl").write_text('{"prompt": "a cat"}\n')
    done = forked("polish", "clean.dropped.jsonl", "--out", "clean.jsonl")
    assert done.code == 2
    assert "clean.dropped.jsonl: is both read and written by this command; name another file with --out" in done.err


def test_both_forms_are_written_side_by_side_and_a_run_that_goes_on_adds_what_lacks(run: Run, tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("a cat, 8k\na dog\na cow, hdr\na cat, hdr\n")
    run("polish", "raw.txt", "--keep-original", "--out", "both.jsonl")
    both = lines((tmp_path / "both.jsonl").read_text())
    assert [one["prompt"] for one in both] == ["a cat", "a cat, 8k", "a dog", "a cow", "a cow, hdr"]
    assert both[1]["prompt_id"] == both[0]["prompt_id"] + "-original"
    assert [one["clip_tokens"] for one in both] == [2, 5, 2, 2, 4]
    whole = (tmp_path / "both.jsonl").read_text().splitlines(keepends=True)
    for kept in range(len(whole)):
        (tmp_path / "cut.jsonl").write_text("".join(whole[:kept]))
        run("polish", "raw.txt", "--keep-original", "--out", "cut.jsonl")
        assert (tmp_path / "cut.jsonl").read_text().splitlines(keepends=True) == whole
    run("polish", "raw.txt", "--out", "later.jsonl")
    run("polish", "raw.txt", "--keep-original", "--out", "later.jsonl")
    assert sorted(prompts_in(tmp_path / "later.jsonl")) == sorted(one["prompt"] for one in both)


def test_prompts_that_are_longer_than_is_read_are_counted(forked: Run) -> None:
    done = forked("polish", "-", stdin="a cat\n" + " ".join(f"{number} cats" for number in range(10, 60)) + "\n")
    assert [one["clip_tokens"] for one in lines(done.out)] == [2, 150]
    assert "1 prompt of more than the 75 tokens that Stable Diffusion reads" in done.err


def test_a_model_that_is_not_there_is_told_before_anything_is_polished(forked: Run, tmp_path: Path) -> None:
    done = forked("polish", "-", "--unsafe-model", "./nowhere", "--out", "clean.jsonl", stdin="a cat\n")
    assert done.code == 2
    assert "--unsafe-model ./nowhere: there is no such folder" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_line_of_ten_megabytes_is_dropped_with_a_message(forked: Run, tmp_path: Path) -> None:
    line = "a very detailed cat, " * 500_000
    (tmp_path / "raw.txt").write_text(f"a dog\n{line}\n")
    done = forked("polish", "raw.txt", "--keep-original", "--out", "clean.jsonl")
    assert done.code == 0
    assert prompts_in(tmp_path / "clean.jsonl") == ["a dog"]
    [dropped] = lines((tmp_path / "clean.dropped.jsonl").read_text())
    assert dropped["prompt"] == line.strip()
    assert dropped["dropped"].startswith("too long: ")
    assert "dropped: 1 too long; see clean.dropped.jsonl" in done.err
    assert "1 prompt of more than 10000 characters, the maximum length; shorten or split them" in done.err
    assert "1 was already there" in forked("polish", "raw.txt", "--out", "clean.jsonl").err


def test_the_help_says_how_long_a_prompt_may_be() -> None:
    assert f"more than {MAX_PROMPT_CHARS} characters" in " ".join((polish.__doc__ or "").split())


def test_the_polisher_is_checked_before_a_large_output_is_read_for_duplicates(
    forked: Run, tmp_path: Path, plugin: Plugin
) -> None:
    (tmp_path / "raw.txt").write_text("a cat\n")
    assert forked("polish", "raw.txt", "--out", "clean.jsonl").code == 0
    careful = plugin(
        "careful",
        "import vpctl.commands.polish as command\n"
        "from vpctl.contracts import Polisher\n"
        "from vpctl.errors import UserError\n"
        "def never(*_, **__):\n"
        "    raise AssertionError('the output was read first')\n"
        "command.Distinct = never\n"
        "class Careful(Polisher):\n"
        "    def __call__(self, prompts):\n"
        "        return []\n"
        "    def check(self):\n"
        "        raise UserError('no key')\n"
        "return Careful()",
    )
    done = forked("polish", "raw.txt", "--polisher", careful, "--out", "clean.jsonl")
    assert (done.code, done.err) == (2, "vpctl polish: error: no key\n")
