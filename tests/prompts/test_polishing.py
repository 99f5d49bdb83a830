"""The outcome of polishing a prompt: kept, dropped with a reason, or failed."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

import pytest

from vpctl import progress
from vpctl.contracts import Polished, Polisher
from vpctl.errors import RecordFailed, Unusable
from vpctl.plugins import from_function
from vpctl.prompts.polishing import Polishing, original, scored
from vpctl.records import MAX_PROMPT_CHARS, Prompt, digest


def upper(prompts: list[str]) -> list[Polished | RecordFailed]:
    """A polisher that writes prompts in capitals. "" becomes empty, "bad" is unsafe, "lost" fails."""
    return [
        RecordFailed("lost") if prompt == "lost" else Polished(prompt.upper(), "cruel" if "bad" in prompt else "")
        for prompt in prompts
    ]


def polish_all(
    prompts: list[Prompt], *, keep_unsafe: bool = False, polish: Any = upper
) -> tuple[list[Prompt], Counter[str]]:
    counts: Counter[str] = Counter()
    work = from_function(Polisher, polish)
    polishing = Polishing("rules", keep_unsafe=keep_unsafe, threshold=0.5, counts=counts)
    chunks = polishing.chunks(prompts, work.at_once)
    return [record for chunk in chunks for record in polishing.polished(chunk, work)], counts


def reasons(prompts: Iterable[Prompt]) -> list[str]:
    return [one.get("dropped", "") for one in prompts]


def test_the_old_text_is_kept_and_is_what_identifies_the_prompt() -> None:
    [record], _ = polish_all([cast(Prompt, {"prompt": "a cat", "split": "test", "mine": 3})])
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


def test_a_warning_names_the_prompt_once_and_the_record_only_has_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(prompts: list[str]) -> list[Polished | RecordFailed]:
        return [Unusable("no JSON") if "cat" in prompt else RecordFailed("has a 7") for prompt in prompts]

    progress.begin("vpctl test", quiet=True)
    records, counts = polish_all([{"prompt": "a 7\nx" + "x" * 100}, {"prompt": "a cat"}], polish=fail)
    assert capsys.readouterr().err.splitlines() == [
        f"vpctl test: warning: 'a 7\\nx{'x' * 55}': has a 7",
        "vpctl test: warning: 'a cat': no JSON",
    ]
    assert reasons(records) == ["failed: no JSON"]
    assert counts == {"failed": 1}


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
    """Scores a longer prompt as less safe, and records how many prompts each call had."""

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


def test_the_form_as_first_given_has_an_id_of_its_own_where_its_words_are_others() -> None:
    record: Prompt = {"prompt": "a cat", "prompt_id": "7", "source_prompt": "a cat, 8k", "split": "test"}
    assert original(record) == {"prompt": "a cat, 8k", "prompt_id": "7-original", "split": "test"}
    assert original({**record, "source_prompt": "A cat ,"}) is None
    assert original({**record, "template": "polish@1", "rejected": "adds a dog"}) == original(record)


def test_what_is_too_long_is_neither_polished_nor_scored() -> None:
    asked: list[str] = []

    def polish(prompts: list[str]) -> list[Polished | RecordFailed]:
        asked.extend(prompts)
        return upper(prompts)

    most = "x" * MAX_PROMPT_CHARS
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
    records, _ = polish_all([{"prompt": "a,b"}], polish=lambda _: [Polished("x" * (MAX_PROMPT_CHARS + 1))])
    assert reasons(records) == ["too long: 10001 characters; the maximum is 10000"]
