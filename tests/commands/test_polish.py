"""polish: what is kept, what is dropped and why, and what a resumed run does again."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from tests.conftest import Plugin, Run, lines
from vpctl.commands.polish import Distinct, original, polish, polished, scored
from vpctl.contracts import Polished, Polisher
from vpctl.errors import RecordFailed
from vpctl.plugins import function_as
from vpctl.records import LONGEST_PROMPT, Prompt, digest


def upper(prompts: list[str]) -> list[Polished | RecordFailed]:
    """Polishes by capitals; "" is empty, "bad" is unsafe, "lost" fails."""
    return [
        RecordFailed("lost") if prompt == "lost" else Polished(prompt.upper(), "cruel" if "bad" in prompt else "")
        for prompt in prompts
    ]


def polish_all(
    prompts: list[Prompt], *, keep_unsafe: bool = False, polish: Any = upper
) -> tuple[list[Prompt], Counter[str]]:
    counts: Counter[str] = Counter()
    work = function_as(Polisher, polish)
    return list(polished(prompts, work, spec="rules", keep_unsafe=keep_unsafe, threshold=0.5, counts=counts)), counts


def reasons(prompts: Iterable[Prompt]) -> list[str]:
    return [one.get("dropped", "") for one in prompts]


def test_the_old_text_is_kept_and_is_what_identifies_the_prompt() -> None:
    [record], _ = polish_all([{"prompt": "a cat", "split": "test", "mine": 3}])  # type: ignore[typeddict-unknown-key]
    assert record == {
        "prompt": "A CAT",
        "prompt_id": digest("a cat"),
        "source_prompt": "a cat",
        "split": "test",
        "mine": 3,
    }
    [again], _ = polish_all([{**record, "rejected": "adds a dog"}])
    assert "rejected" not in again
    assert again["source_prompt"] == "a cat"
    assert again["prompt_id"] == digest("a cat")


def test_what_is_empty_or_unsafe_has_its_reason_and_what_failed_is_counted() -> None:
    prompts: list[Prompt] = [{"prompt": text} for text in ("", "a bad thing", "lost", "a cat")]
    records, counts = polish_all(prompts)
    assert reasons(records) == ["empty", "unsafe: cruel", ""]
    assert counts == {"failed": 1}
    records, counts = polish_all(prompts, keep_unsafe=True)
    assert [record.get("unsafe") for record in records] == [None, "cruel", None]
    assert reasons(records) == ["empty", "", ""]


def test_a_score_above_the_threshold_is_unsafe_and_costs_no_polishing() -> None:
    asked: list[str] = []

    def polish(prompts: list[str]) -> list[Polished | RecordFailed]:
        asked.extend(prompts)
        return upper(prompts)

    prompts: list[Prompt] = [
        {"prompt": "a cat", "prompt_nsfw": 0.5},
        {"prompt": "a dog", "prompt_nsfw": 0.971},
        {"prompt": "a bad thing", "prompt_nsfw": 1},
    ]
    records, _ = polish_all(prompts, polish=polish)
    assert reasons(records) == ["", "unsafe: prompt_nsfw: 0.97", "unsafe: prompt_nsfw: 1.00"]
    assert [record.get("prompt_nsfw") for record in records] == [0.5, 0.971, 1]
    assert asked == ["a cat"]
    records, _ = polish_all(prompts, keep_unsafe=True)
    assert [record.get("unsafe") for record in records] == [None, "prompt_nsfw: 0.97", "cruel"]


def test_what_was_dropped_or_flagged_before_is_seen_anew_or_stays_flagged() -> None:
    prompts: list[Prompt] = [{"prompt": "a cat", "dropped": "unsafe: dog"}, {"prompt": "a dog", "unsafe": "said so"}]
    records, _ = polish_all(prompts)
    assert reasons(records) == ["", "unsafe: said so"]


class Lengths:
    """Finds a prompt the more unsafe the longer it is, and remembers how many it was asked at once."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def scores(self, prompts: list[str]) -> list[float]:
        self.batches.append(len(prompts))
        return [len(prompt) / 10 for prompt in prompts]


def test_prompts_are_scored_in_batches_as_first_given_and_not_twice() -> None:
    scorer = Lengths()
    prompts: list[Prompt] = [
        {"prompt": "a cat"},
        {"prompt": "a", "source_prompt": "a dog, 8k"},
        {"prompt": "a cow", "prompt_nsfw": 0.1},
        {"prompt": "a hen", "prompt_nsfw": 0.2},
        {"prompt": "a hen", "prompt_nsfw": 0.3},
    ]
    assert [one["prompt_nsfw"] for one in scored(prompts, scorer, 2)] == [0.5, 0.9, 0.1, 0.2, 0.3]
    assert scorer.batches == [2]


def test_prompts_that_say_the_same_again_say_whose() -> None:
    said = [
        "a red circle left of a blue star on a white background",
        "A red circle, left of a blue star; on a white background!",
        "a red circle left of a blue star on a white background, large",
        "a blue circle left of a red star on a white background",
        "a cat",
    ]
    prompts: list[Prompt] = [{"prompt": text, "prompt_id": str(number)} for number, text in enumerate(said)]
    known: list[Prompt] = [{"prompt": "A cat!", "prompt_id": "there"}]
    assert reasons(map(Distinct(0.8, known=known), prompts)) == [
        "",
        "duplicate of 0",
        "near duplicate of 0",
        "",
        "duplicate of there",
    ]
    assert reasons(map(Distinct(1, known=[]), prompts)) == ["", "duplicate of 0", "", "", ""]
    empty: list[Prompt] = [{"prompt": "a cat", "dropped": "empty"}, {"prompt": "a cat"}]
    assert reasons(map(Distinct(0.8, known=[]), empty)) == ["empty", ""]


def test_the_form_as_first_given_has_an_id_of_its_own_where_its_words_are_others() -> None:
    record: Prompt = {"prompt": "a cat", "prompt_id": "7", "source_prompt": "a cat, 8k", "split": "test"}
    assert original(record) == {"prompt": "a cat, 8k", "prompt_id": "7-original", "split": "test"}
    assert original({**record, "source_prompt": "A cat ,"}) is None
    assert original({**record, "template": "polish@1", "rejected": "adds a dog"}) == original(record)


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
    run: Run, tmp_path: Path, plugin: Plugin
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
    done = run("polish", "raw.txt", "--polisher", rules, "--out", "clean.jsonl")
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
    again = run("polish", "raw.txt", "--polisher", rules, "--out", "clean.jsonl")
    assert {file: file.read_bytes() for file in tmp_path.glob("clean*")} == left
    assert (tmp_path / "asked.txt").read_text().splitlines() == RAW.splitlines()[:7]
    assert "4 prompts dropped by an earlier run" in again.err


def test_what_failed_is_in_neither_file_and_tried_again(run: Run, tmp_path: Path, plugin: Plugin) -> None:
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
    assert run("polish", "raw.txt", "--polisher", flaky, "--out", "clean.jsonl").code == 3
    assert prompts_in(tmp_path / "clean.jsonl") == ["a dog"]
    assert not (tmp_path / "clean.dropped.jsonl").exists()
    (tmp_path / "up").touch()
    assert run("polish", "raw.txt", "--polisher", flaky, "--out", "clean.jsonl").code == 0
    assert prompts_in(tmp_path / "clean.jsonl") == ["a dog", "a cat"]


def test_an_answer_that_came_to_nothing_is_dropped_as_failed_and_ends_in_3(
    run: Run, tmp_path: Path, plugin: Plugin
) -> None:
    (tmp_path / "raw.txt").write_text("a cat\na dog\n")
    babbling = plugin(
        "babbling",
        "from vpctl.errors import Unusable\n"
        "from vpctl.contracts import Polished\n"
        "return lambda prompts: [Unusable('no JSON') if one == 'a cat' else Polished(one) for one in prompts]",
    )
    done = run("polish", "raw.txt", "--polisher", babbling, "--out", "clean.jsonl")
    assert done.code == 3
    assert "dropped: 1 failed; see clean.dropped.jsonl" in done.err
    [failed] = lines((tmp_path / "clean.dropped.jsonl").read_text())
    assert (failed["prompt"], failed["dropped"]) == ("a cat", "failed: no JSON")
    assert run("polish", "raw.txt", "--polisher", babbling, "--out", "clean.jsonl").code == 0
    assert prompts_in(tmp_path / "clean.jsonl") == ["a dog"]


def test_standard_output_has_no_file_beside_it(run: Run, tmp_path: Path) -> None:
    done = run("polish", "-", stdin="a cat\na cat, 8k\n")
    assert done.code == 0
    assert "dropped: 1 duplicate\n" in done.err
    assert list(tmp_path.iterdir()) == []


def test_the_dropped_cannot_be_read_while_they_are_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "clean.dropped.jsonl").write_text('{"prompt": "a cat"}\n')
    done = run("polish", "clean.dropped.jsonl", "--out", "clean.jsonl")
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


def test_prompts_that_are_longer_than_is_read_are_counted(run: Run) -> None:
    done = run("polish", "-", stdin="a cat\n" + " ".join(f"{number} cats" for number in range(10, 60)) + "\n")
    assert [one["clip_tokens"] for one in lines(done.out)] == [2, 150]
    assert "1 prompt of more than the 75 tokens that Stable Diffusion reads" in done.err


def test_a_model_that_is_not_there_is_told_before_anything_is_polished(run: Run, tmp_path: Path) -> None:
    done = run("polish", "-", "--unsafe-model", "./nowhere", "--out", "clean.jsonl", stdin="a cat\n")
    assert done.code == 2
    assert "--unsafe-model ./nowhere: there is no such folder" in done.err
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_long_is_neither_polished_nor_scored() -> None:
    asked: list[str] = []

    def polish(prompts: list[str]) -> list[Polished | RecordFailed]:
        asked.extend(prompts)
        return upper(prompts)

    most = "x" * LONGEST_PROMPT
    prompts: list[Prompt] = [
        {"prompt": most},
        {"prompt": most + "x"},
        {"prompt": "a cat", "source_prompt": most + "xy"},
        {"prompt": most + "x", "prompt_nsfw": 0.9},
    ]
    reason = "too long: 10001 characters; the maximum is 10000"
    scorer = Lengths()
    assert ["prompt_nsfw" in one for one in scored(prompts, scorer, 4)] == [True, False, False, True]
    assert scorer.batches == [1]
    for one in prompts[:3]:
        one["prompt_nsfw"] = 0
    records, _ = polish_all(prompts, polish=polish)
    assert reasons(records) == ["", reason, "too long: 10002 characters; the maximum is 10000", reason]
    assert asked == [most]


def test_a_text_that_polishing_makes_too_long_is_dropped() -> None:
    records, _ = polish_all([{"prompt": "a,b"}], polish=lambda _: [Polished("x" * (LONGEST_PROMPT + 1))])
    assert reasons(records) == ["too long: 10001 characters; the maximum is 10000"]


def test_a_line_of_ten_megabytes_is_dropped_with_a_message(run: Run, tmp_path: Path) -> None:
    line = "a very detailed cat, " * 500_000
    (tmp_path / "raw.txt").write_text(f"a dog\n{line}\n")
    done = run("polish", "raw.txt", "--keep-original", "--out", "clean.jsonl")
    assert done.code == 0
    assert prompts_in(tmp_path / "clean.jsonl") == ["a dog"]
    [dropped] = lines((tmp_path / "clean.dropped.jsonl").read_text())
    assert dropped["prompt"] == line.strip()
    assert dropped["dropped"].startswith("too long: ")
    assert "dropped: 1 too long; see clean.dropped.jsonl" in done.err
    assert "1 prompt of more than 10000 characters, the maximum length; shorten or split them" in done.err
    assert "1 was already there" in run("polish", "raw.txt", "--out", "clean.jsonl").err


def test_the_help_says_how_long_a_prompt_may_be() -> None:
    assert f"more than {LONGEST_PROMPT} characters" in " ".join((polish.__doc__ or "").split())
