"""polish: what is kept, what is dropped and why, and what a resumed run does again."""

from collections import Counter
from pathlib import Path

import orjson

from tests.conftest import Run
from vpctl.commands.polish import distinct, polished
from vpctl.errors import RecordFailed
from vpctl.plugins import Polished
from vpctl.records import Prompt, digest


def upper(prompts: list[str]) -> list[Polished | RecordFailed]:
    """Polishes by capitals; "" is empty, "bad" is unsafe, "lost" fails."""
    return [
        RecordFailed("lost") if prompt == "lost" else Polished(prompt.upper(), "cruel" if "bad" in prompt else "")
        for prompt in prompts
    ]


def polish_all(prompts: list[Prompt], *, keep_unsafe: bool = False) -> tuple[list[Prompt], Counter[str]]:
    dropped: Counter[str] = Counter()
    return list(polished(prompts, upper, keep_unsafe=keep_unsafe, dropped=dropped)), dropped


def test_the_old_text_is_kept_and_is_what_identifies_the_prompt() -> None:
    [record], _ = polish_all([{"prompt": "a cat", "split": "test", "mine": 3}])  # type: ignore[typeddict-unknown-key]
    assert record == {
        "prompt": "A CAT",
        "prompt_id": digest("a cat"),
        "source_prompt": "a cat",
        "split": "test",
        "mine": 3,
    }
    [again], _ = polish_all([record])
    assert again["source_prompt"] == "a cat"
    assert again["prompt_id"] == digest("a cat")


def test_what_is_empty_unsafe_or_failed_is_dropped_and_counted() -> None:
    prompts: list[Prompt] = [{"prompt": text} for text in ("", "a bad thing", "lost", "a cat")]
    records, dropped = polish_all(prompts)
    assert [record["prompt"] for record in records] == ["A CAT"]
    assert dropped == {"empty": 1, "unsafe": 1, "failed": 1}
    records, dropped = polish_all(prompts, keep_unsafe=True)
    assert [record.get("unsafe") for record in records] == ["cruel", None]
    assert dropped == {"empty": 1, "failed": 1}


def test_prompts_that_say_the_same_again_are_dropped() -> None:
    said = [
        "a red circle left of a blue star on a white background",
        "A red circle, left of a blue star; on a white background!",
        "a red circle left of a blue star on a white background, large",
        "a blue circle left of a red star on a white background",
        "a cat",
    ]
    dropped: Counter[str] = Counter()
    kept = list(distinct([{"prompt": text} for text in said], 0.8, known=["A cat!"], dropped=dropped))
    assert [one["prompt"] for one in kept] == [said[0], said[3]]
    assert dropped == {"duplicate": 2, "near duplicate": 1}
    assert len(list(distinct([{"prompt": text} for text in said], 1, known=[], dropped=dropped))) == 4


def test_text_and_json_lines_come_to_the_same(run: Run, tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("a cat, highly detailed, 8k\n\na dog\n")
    from_text = run("polish", "raw.txt")
    from_stdin = run("polish", "-", stdin="a cat, highly detailed, 8k\n\na dog\n")
    lines = "".join(orjson.dumps({"prompt": text}).decode() + "\n" for text in ("a cat, highly detailed, 8k", "a dog"))
    from_json = run("polish", "-", stdin=lines)
    assert from_text.code == from_stdin.code == from_json.code == 0
    assert from_text.out == from_stdin.out == from_json.out
    assert [orjson.loads(line)["prompt"] for line in from_text.out.splitlines()] == ["a cat", "a dog"]


def test_a_run_on_more_prompts_adds_only_what_is_new(run: Run, tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("a cat, 8k\na dog\n")
    run("polish", "raw.txt", "--out", "clean.jsonl")
    before = (tmp_path / "clean.jsonl").read_bytes()
    (tmp_path / "raw.txt").write_text("a mouse\na cat, 8k\na dog, hdr\na dog\n")
    again = run("polish", "raw.txt", "--out", "clean.jsonl")
    after = (tmp_path / "clean.jsonl").read_bytes()
    assert after.startswith(before)
    assert [orjson.loads(line)["prompt"] for line in after.splitlines()] == ["a cat", "a dog", "a mouse"]
    assert "2 were there already" in again.err
