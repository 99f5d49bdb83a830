import array
import os
import queue
import signal
import subprocess
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import ONE, Plugin, Run, draw, lines, vpctl
from tests.surroundings import ENVIRONMENT
from vpctl import plugins
from vpctl.contracts import Reward
from vpctl.errors import RecordFailed, UserError
from vpctl.flow import ahead
from vpctl.models import scoring
from vpctl.models.scoring import load_batches


class Album:
    """Pictures of one pixel, whose colour is their number. Those in `missing` cannot be opened.

    Those in `large` say that they are large.
    """

    def __init__(self, missing: frozenset[int] = frozenset(), large: frozenset[int] = frozenset()) -> None:
        self.opened: Counter[str] = Counter()
        self._missing = missing
        self._large = large

    def size(self, name: str) -> tuple[int, int]:
        if int(name) in self._missing:
            raise RecordFailed(f"{name}: there is no such picture")
        return (1, scoring.LARGE if int(name) in self._large else 1)

    def open(self, name: str) -> Image.Image:
        self.opened[name] += 1
        if int(name) in self._missing:
            raise RecordFailed(f"{name}: there is no such picture")
        return Image.new("RGB", (1, 1), (int(name), 0, 0))


def reward_of(call: Callable[..., Any]) -> Reward:
    made: Reward = plugins.from_function(cast(Any, Reward), call)
    return made


def red(images: list[Image.Image], prompts: list[str]) -> "array.array[float]":
    """The red value, plus a hundredth for each character of the prompt: shows that the two belong together."""
    return array.array("d", [image.getpixel((0, 0))[0] + len(prompt) / 100 for image, prompt in pairs(images, prompts)])


def pairs(images: list[Image.Image], prompts: list[str]) -> Iterator[tuple[Any, str]]:
    return zip(images, prompts, strict=True)


def records(count: int) -> list[dict[str, str]]:
    return [{"prompt": "x" * (number % 7), "file_name": str(number)} for number in range(count)]


def through(
    records: list[dict[str, str]], functions: dict[str, Any], *, batch: int, album: Any
) -> tuple[list[tuple[dict[str, str], dict[str, float]]], list[str]]:
    """The records with their scores, and the failures, from all batches."""
    found: list[tuple[dict[str, str], dict[str, float]]] = []
    failures: list[str] = []
    rewards = {spec: reward_of(call) for spec, call in functions.items()}
    for some in load_batches(records, album, rewards, most=batch):
        assert 0 < len(some.records) + len(some.failures) <= batch
        scored, failed = some.scored(rewards)
        assert len(scored) + len(failed) == some.size
        found += scored
        failures += map(str, failed)
    return found, failures


@settings(max_examples=30)
@given(st.integers(0, 20), st.frozensets(st.integers(0, 19)), st.integers(1, 8))
def test_records_come_in_their_order_with_every_score_and_failures_in_theirs(
    count: int, missing: frozenset[int], batch: int
) -> None:
    album = Album(missing)
    rewards = {"red": red, "green": lambda images, _: array.array("d", [0.0] * len(images))}
    found, failures = through(records(count), rewards, batch=batch, album=album)
    assert found == [
        (records(count)[number], {"red": number + number % 7 / 100, "green": 0.0})
        for number in range(count)
        if number not in missing
    ]
    assert failures == [f"{number}: there is no such picture" for number in range(count) if number in missing]
    there = (number for number in range(count) if number not in missing)
    assert album.opened == Counter(map(str, there)), "each picture is opened once for all"


def test_a_record_that_failed_before_stays_a_failure() -> None:
    wanted: list[dict[str, str] | RecordFailed] = [records(1)[0], RecordFailed("line 2 is broken")]
    [batch] = load_batches(wanted, Album(), {}, most=4)
    assert (batch.records, [*map(str, batch.failures)]) == (records(1), ["line 2 is broken"])


def test_a_reward_gets_at_most_so_many_pictures_and_never_none() -> None:
    sizes: list[int] = []

    def reward(images: list[Image.Image], prompts: list[str]) -> "array.array[float]":
        sizes.append(len(images))
        return red(images, prompts)

    through(records(10), {"red": reward}, batch=4, album=Album(frozenset([4, 5, 6, 7])))
    assert sizes == [4, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_a_failure_and_no_score(value: float) -> None:
    def reward(images: list[Image.Image], _: list[str]) -> "array.array[float]":
        return array.array("d", [1.0, value, 3.0])

    found, failures = through(records(3), {"red": red, "mine": reward}, batch=8, album=Album())
    assert [record["file_name"] for record, _ in found] == ["0", "2"]
    assert failures == [f"1: mine gave {value}, which is not a valid score"]


def test_pictures_of_a_batch_are_let_go_before_large_ones_of_the_next_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two batches of the largest pictures would not fit into memory."""
    monkeypatch.setattr("vpctl.models.scoring.MAX_BATCH_PIXELS", 2)
    alive: list[weakref.ref[Image.Image]] = []
    most = 0

    class Large(Album):
        def open(self, name: str) -> Image.Image:
            nonlocal most
            picture = super().open(name)
            alive.append(weakref.ref(picture))
            most = max(most, sum(one() is not None for one in alive))
            return picture

    found, _ = through(records(8), {"red": red}, batch=8, album=Large(large=frozenset(range(8))))
    assert len(found) == 8
    assert most == 2


def test_pictures_are_opened_while_the_rewards_work() -> None:
    """The second batch is ready before the first has been scored."""
    second_opened = threading.Event()

    class Watched(Album):
        def open(self, name: str) -> Image.Image:
            if name == "3":
                second_opened.set()
            return super().open(name)

    def reward(images: list[Image.Image], prompts: list[str]) -> "array.array[float]":
        assert second_opened.wait(10)
        return red(images, prompts)

    assert len(through(records(4), {"red": reward}, batch=2, album=Watched())[0]) == 4


def test_a_full_batch_does_not_wait_for_the_record_after_it() -> None:
    """In a pipe, that record may depend on the scores of this batch."""
    scored = threading.Event()

    def arriving() -> Iterator[dict[str, str]]:
        for number, record in enumerate(records(5)):
            if number and number % 2 == 0:
                assert scored.wait(10)
                scored.clear()
            yield record

    rewards = {"red": reward_of(red)}
    sizes = []
    for batch in load_batches(arriving(), Album(), rewards, most=2):
        sizes.append(len(batch.scored(rewards)[0]))
        scored.set()
    assert sizes == [2, 2, 1]


def test_pictures_are_decoded_in_threads_and_large_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two wait for each other, so they must be under way together. A large one must find nobody."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    together = threading.Barrier(2, timeout=10)
    busy: list[str] = []
    beside: list[list[str]] = []

    class Watched(Album):
        def open(self, name: str) -> Image.Image:
            if name == "2":
                beside.append([*busy])
                return super().open(name)
            busy.append(name)
            together.wait()
            busy.remove(name)
            return super().open(name)

    found, _ = through(records(5), {"red": red}, batch=5, album=Watched(large=frozenset([2])))
    assert [record["file_name"] for record, _ in found] == ["0", "1", "2", "3", "4"]
    assert beside == [[]]


def test_a_reward_gets_what_it_prepared_and_the_picture_is_let_go() -> None:
    alive: list[weakref.ref[Image.Image]] = []

    class Prepares(Reward):
        def prepare(self, image: Image.Image) -> int:
            alive.append(weakref.ref(image))
            return image.tobytes()[0]

        def __call__(self, images: Any, prompts: list[str]) -> list[float]:
            assert not any(one() for one in alive)
            return [float(one) for one in images]

    rewards = {"prepares": Prepares()}
    for batch in load_batches(records(3), Album(), rewards, most=3):
        found, _ = batch.scored(rewards)
    assert [scores for _, scores in found] == [{"prepares": 0.0}, {"prepares": 1.0}, {"prepares": 2.0}]


def test_at_most_one_item_is_made_ahead() -> None:
    made: queue.Queue[int] = queue.Queue()

    def numbers() -> Iterator[int]:
        for number in range(5):
            made.put(number)
            yield number

    taken = ahead(numbers())
    assert next(taken) == 0
    assert [made.get(timeout=10), made.get(timeout=10)] == [0, 1]
    with pytest.raises(queue.Empty):
        made.get(timeout=0.1)
    assert list(taken) == [1, 2, 3, 4]


def test_the_thread_ends_when_no_more_is_wanted() -> None:
    before = {*threading.enumerate()}
    taken = ahead(iter(range(5)))
    assert next(taken) == 0
    [thread] = {*threading.enumerate()} - before
    taken.close()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("error", [UserError("line 3"), RuntimeError("a bug")])
def test_what_goes_wrong_in_the_source_is_raised_behind_what_came_before(error: Exception) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    taken = ahead(numbers())
    assert [next(taken), next(taken)] == [1, 2]
    with pytest.raises(type(error)) as raised:
        next(taken)
    assert raised.value is error


def test_scores_do_not_depend_on_the_batch(run: Run, drawn: Path, plugin: Plugin) -> None:
    plugin("bright", "import array\nreturn lambda images, _: array.array('d', [sum(i.tobytes()) for i in images])")
    command = ("score", drawn / "metadata.jsonl", "--reward", "./bright.py", "--batch")
    one, four = run(*command, "1"), run(*command, "4")
    assert (one.code, one.out) == (four.code, four.out)
    assert len({record["scores"]["./bright.py"] for record in lines(one.out)}) == 6


def test_scores_are_added_to_those_that_are_there(run: Run, tmp_path: Path, plugin: Plugin) -> None:
    draw(tmp_path, prompts=1)
    plugin("one", ONE)
    plugin("two", ONE)
    first = run("score", "metadata.jsonl", "--reward", "./one.py", "-q")
    second = run(
        "score", "-", "--reward", "./two.py", "--reward", "./two.py:7", "--reward", "./two.py", "-q", stdin=first.out
    )
    assert (second.code, second.err) == (0, "")
    assert [record["scores"] for record in lines(second.out)] == [
        {"./one.py": 1.0, "./two.py": 1.0, "./two.py:7": 7.0}
    ] * 2


def test_a_picture_that_fails_is_left_out_and_tried_again(run: Run, tmp_path: Path, plugin: Plugin) -> None:
    records = draw(tmp_path, prompts=2)
    plugin("one", ONE)
    hidden = tmp_path / records[1]["file_name"]
    picture = hidden.read_bytes()
    hidden.unlink()
    command = ("score", "metadata.jsonl", "--reward", "./one.py", "--out", "scored.jsonl")
    ended = run(*command)
    assert ended.code == 3
    assert ended.err == (
        f"vpctl score: warning: {hidden}: there is no such picture\n"
        "vpctl score: 3 pictures written to scored.jsonl; 1 failed; mend what the warnings name, then run the same "
        "command again\n"
    )
    hidden.write_bytes(picture)
    ended = run(*command)
    assert ended == (0, "", "vpctl score: 1 picture written to scored.jsonl; 3 were already there\n")
    done = [record["image_id"] for record in lines((tmp_path / "scored.jsonl").read_text())]
    assert sorted(done) == sorted(record["image_id"] for record in records)


def test_an_output_without_a_score_that_is_asked_for_is_not_gone_on_with(
    run: Run, tmp_path: Path, plugin: Plugin
) -> None:
    draw(tmp_path, prompts=1)
    for name in ("one", "two"):
        plugin(name, ONE)
    assert run("score", "metadata.jsonl", "-r", "./one.py", "-o", "scored.jsonl").code == 0
    before = (tmp_path / "scored.jsonl").read_bytes()
    ended = run("score", "metadata.jsonl", "-r", "./one.py", "-r", "./two.py", "-o", "scored.jsonl")
    assert ended.code == 2
    assert ended.err == (
        "vpctl score: error: scored.jsonl: holds pictures without a score of ./two.py; name another file with --out\n"
    )
    assert (tmp_path / "scored.jsonl").read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_silent_pipe_does_not_hold_up_an_interrupt(tmp_path: Path, plugin: Plugin, number: int) -> None:
    plugin("one", f"open('ready', 'w').close()\n{ONE}")
    os.mkfifo(tmp_path / "ready")
    with subprocess.Popen(
        vpctl("score", "-", "--reward", "./one.py"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=ENVIRONMENT,
    ) as stage:
        (tmp_path / "ready").read_bytes()
        time.sleep(0.3)  # enough time for it to wait for its input
        stage.send_signal(number)
        assert stage.stderr
        said = stage.stderr.read().decode()
        assert stage.wait(20) == 130
    way_on = "interrupted; the records written so far are complete"
    assert said == f"vpctl score: {way_on}\n"


def test_a_picture_that_cannot_be_prepared_is_a_failure_and_no_error() -> None:
    class Narrow(Reward):
        def prepare(self, image: Image.Image) -> Image.Image:
            if image.getpixel((0, 0)) == (1, 0, 0):
                raise RecordFailed("too narrow")
            return image

        def __call__(self, images: Any, prompts: list[str]) -> list[float]:
            return [1.0] * len(images)

    for batch in load_batches(records(3), Album(), {"narrow": Narrow()}, most=3):
        found, failures = batch.scored({"narrow": Narrow()})
    assert [record["file_name"] for record, _ in found] == ["0", "2"]
    assert [*map(str, failures)] == ["1: too narrow"]
