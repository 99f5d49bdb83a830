import asyncio
import threading
import time
from collections.abc import Iterator
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PIL

from vpctl.errors import OutputClosed, RecordFailed, Refused, UserError
from vpctl.judging import Annotator, grouped, in_background, judge, unjudged
from vpctl.plugins import Aspect, Verdicts
from vpctl.records import Image, Judgement, judgement_key

ASPECTS = [Aspect("fidelity", "Fidelity", "Levels."), Aspect("aesthetic", "Aesthetic", "Levels.")]


def images(prompt: str, *numbers: int) -> list[Image]:
    """Records of a prompt's pictures; the number of each is its colour."""
    made: list[Image] = []
    for number in numbers:
        name = f"{prompt}{number}"
        made.append(
            {
                "prompt": f"draw {prompt}",
                "prompt_id": prompt,
                "image_id": name,
                "file_name": name,
                "model": "m",
                "seed": number,
            }
        )
    return made


def opened(name: str) -> PIL.Image:
    return PIL.new("RGB", (1, 1), (int(name.lstrip("abcdefghijklmnopqrstuvwxyz")), 0, 0))


def number_of(picture: PIL.Image) -> int:
    pixel = picture.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


def truthful(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
    """The number of each picture, and what was asked, as its rationale."""
    numbers = [number_of(picture) for picture in pictures]
    return Verdicts([float(one) for one in numbers], [f"{prompt}/{aspect.name}/{one}" for one in numbers], {})


class Desk:
    """Where judgements arrive, and what has been claimed."""

    def __init__(self) -> None:
        self.done: list[Judgement] = []
        self.claimed: set[str] = set()

    def claim(self, key: str) -> bool:
        new = key not in self.claimed
        self.claimed.add(key)
        return new

    def judge(self, records: Iterator[Image], annotate: Any, **how: Any) -> int:
        usual: dict[str, Any] = {"name": "mine", "seed": 0, "in_flight": 4, "open_picture": opened, "claim": self.claim}
        aspects = how.pop("aspects", ASPECTS)
        return judge(records, aspects, cast(Annotator, annotate), **{**usual, "emit": self.done.append, **how})


@given(st.permutations(range(6)), st.integers(0, 5))
def test_scores_and_rationales_come_back_in_the_order_of_the_pictures(numbers: list[int], seed: int) -> None:
    desk = Desk()
    assert desk.judge(iter(images("p", *numbers)), truthful, seed=seed) == 0
    assert [one["aspect"] for one in desk.done] == ["fidelity", "aesthetic"]
    for one in desk.done:
        assert one["image_ids"] == [f"p{number}" for number in numbers]
        assert one["file_names"] == one["image_ids"]
        assert one["scores"] == [float(number) for number in numbers]
        assert one["rationales"] == [f"draw p/{one['aspect']}/{number}" for number in numbers]
        assert sorted(one["order"]) == list(range(6))


def test_the_annotator_sees_the_pictures_in_the_order_that_is_written_down() -> None:
    seen: list[list[int]] = []

    def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        seen.append([number_of(picture) for picture in pictures])
        return truthful(prompt, pictures, aspect)

    desk = Desk()
    desk.judge(iter(images("p", 3, 1, 4, 5, 9)), annotate)
    assert seen == [[[3, 1, 4, 5, 9][place] for place in one["order"]] for one in desk.done]


def test_the_order_is_drawn_by_prompt_aspect_pictures_and_seed() -> None:
    def order(prompt: str = "p", aspect: int = 0, seed: int = 0, last: int = 9) -> list[int]:
        return unjudged(images(prompt, *range(9), last), ASPECTS[aspect], "mine", seed)["order"]

    orders = [order(), order("q"), order(aspect=1), order(seed=1), order(last=10)]
    assert len({tuple(one) for one in orders}) == 5
    assert order() == orders[0]


def test_the_order_does_not_depend_on_when_a_prompt_comes_up_or_who_judges() -> None:
    groups = [images(prompt, 1, 2, 3, 4) for prompt in "abcde"]
    orders = []
    for chance, name in ((Random(0), "mine"), (Random(1), "another")):
        chance.shuffle(groups)
        desk = Desk()
        desk.judge((one for group in groups for one in group), truthful, name=name, in_flight=1)
        orders.append({(one["prompt_id"], one["aspect"]): one["order"] for one in desk.done})
    assert orders[0] == orders[1]


def test_neighbours_of_one_prompt_are_judged_together() -> None:
    source = [*images("a", 1, 2), *images("b", 3), *images("a", 4)]
    assert [[one["image_id"] for one in group] for group in grouped(iter(source))] == [["a1", "a2"], ["b3"], ["a4"]]


def test_what_a_prompt_came_with_goes_on() -> None:
    record: Any = {**images("a", 1)[0], "source_prompt": "raw", "split": "test", "guidance_scale": 7.5, "mine": 1}
    desk = Desk()
    desk.judge(iter([record]), truthful, aspects=ASPECTS[:1])
    assert desk.done == [
        {
            "prompt_id": "a",
            "prompt": "draw a",
            "source_prompt": "raw",
            "split": "test",
            "aspect": "fidelity",
            "annotator": "mine",
            "image_ids": ["a1"],
            "file_names": ["a1"],
            "scores": [1.0],
            "order": [0],
            "rationales": ["draw a/fidelity/1"],
        }
    ]


async def counting(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
    """As a server would."""
    verdicts = truthful(prompt, pictures, aspect)
    return verdicts._replace(usage={"prompt_tokens": 7})


def test_what_a_call_used_is_written_down_if_it_says_so() -> None:
    for annotate, usage in ((counting, {"prompt_tokens": 7}), (truthful, None)):
        desk = Desk()
        desk.judge(iter(images("a", 1)), annotate)
        assert [one.get("usage") for one in desk.done] == [usage, usage]


def test_a_refusal_is_an_answer() -> None:
    def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        if aspect.name == "fidelity":
            raise Refused("not this one")
        return truthful(prompt, pictures, aspect)

    desk = Desk()
    assert desk.judge(iter(images("a", 1, 2)), annotate) == 0
    refused, judged = desk.done
    assert (refused["refused"], refused["scores"], "rationales" in refused) == ("not this one", [], False)
    assert judged["scores"] == [1.0, 2.0]
    assert "refused" not in judged


def failing(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
    if prompt == "draw b" and aspect.name == "fidelity":
        raise RecordFailed("the server is tired")
    return truthful(prompt, pictures, aspect)


def unequal(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
    verdicts = truthful(prompt, pictures, aspect)
    return (
        verdicts._replace(scores=verdicts.scores[1:]) if prompt == "draw b" and aspect.name == "fidelity" else verdicts
    )


def wordless(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
    verdicts = truthful(prompt, pictures, aspect)
    return verdicts._replace(rationales=[]) if prompt == "draw b" and aspect.name == "fidelity" else verdicts


def infinite(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
    verdicts = truthful(prompt, pictures, aspect)
    return (
        verdicts._replace(scores=[float("nan"), 1.0]) if prompt == "draw b" and aspect.name == "fidelity" else verdicts
    )


@pytest.mark.parametrize(
    ("annotate", "reason"),
    [
        (failing, "the server is tired"),
        (unequal, "the annotator gave 1 scores for 2 pictures"),
        (wordless, "the annotator gave 0 rationales for 2 pictures"),
        (infinite, "the annotator gave nan, which is no score"),
    ],
)
def test_a_call_that_fails_is_counted_reported_and_left_out(
    annotate: Annotator, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk()
    source = [*images("a", 1, 2), *images("b", 3, 4), *images("c", 5, 6)]
    assert desk.judge(iter(source), annotate, in_flight=1) == 1
    judged = [(one["prompt_id"], one["aspect"]) for one in desk.done]
    assert judged == [("a", "fidelity"), ("a", "aesthetic"), ("b", "aesthetic"), ("c", "fidelity"), ("c", "aesthetic")]
    assert capsys.readouterr().err == f"vpctl: warning: 'draw b', fidelity: {reason}\n"


def test_a_picture_that_cannot_be_opened_fails_its_prompt_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    def open_picture(name: str) -> PIL.Image:
        if name == "a2":
            raise RecordFailed("a2: not a picture")
        return opened(name)

    desk = Desk()
    assert desk.judge(iter([*images("a", 1, 2), *images("b", 3)]), truthful, open_picture=open_picture) == 2
    assert [one["prompt_id"] for one in desk.done] == ["b", "b"]
    assert capsys.readouterr().err == "vpctl: warning: a2: not a picture\n"


def test_nothing_is_judged_twice_and_nothing_opened_that_is_not_judged() -> None:
    names: list[str] = []

    def open_picture(name: str) -> PIL.Image:
        names.append(name)
        return opened(name)

    desk = Desk()
    known = unjudged(images("a", 1, 2), ASPECTS[0], "mine", 0)
    desk.claim(judgement_key(known))
    desk.claim(judgement_key({**known, "aspect": "aesthetic"}))
    half = unjudged(images("b", 4, 3), ASPECTS[0], "mine", 7)
    desk.claim(judgement_key(half))
    source = [*images("a", 2, 1), *images("b", 3, 4), *images("c", 5), *images("d", 6), *images("c", 5)]
    assert desk.judge(iter(source), truthful, open_picture=open_picture) == 0
    judged = [(one["prompt_id"], one["aspect"]) for one in desk.done]
    assert judged == [
        ("b", "aesthetic"),
        ("c", "fidelity"),
        ("c", "aesthetic"),
        ("d", "fidelity"),
        ("d", "aesthetic"),
    ]
    assert names == ["b3", "b4", "c5", "d6"]


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_as_many_calls_are_under_way_as_may_be_and_no_more(limit: int) -> None:
    now = most = 0

    async def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(200):
            if most == limit:
                break
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)
        now -= 1
        return truthful(prompt, pictures, aspect)

    desk = Desk()
    source = [one for prompt in "abcdefghij" for one in images(prompt, 1, 2)]
    assert desk.judge(iter(source), annotate, in_flight=limit) == 0
    assert most == limit
    assert len(desk.done) == 20


def test_no_more_is_read_than_can_be_judged() -> None:
    """Memory does not grow with the input: a slow annotator makes the reader wait."""
    read: list[str] = []

    def source() -> Iterator[Image]:
        for number in range(200):
            prompt = "abcdefghij"[number % 10] * (1 + number // 10)
            read.append(prompt)
            yield from images(prompt, 1)

    desk = Desk()

    async def slow(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        await asyncio.sleep(0.05)
        most = 6 + len(desk.done) // 2
        assert len(read) <= most, f"{len(read)} prompts were read when {len(desk.done)} judgements were there"
        if len(desk.done) >= 12:
            raise OutputClosed
        return truthful(prompt, pictures, aspect)

    with pytest.raises(OutputClosed):
        desk.judge(source(), slow, in_flight=2)
    assert len(desk.done) >= 12


def test_judgements_are_out_before_the_input_has_ended() -> None:
    arrived = threading.Event()

    def source() -> Iterator[Image]:
        yield from images("a", 1, 2)
        yield from images("b", 3, 4)
        assert arrived.wait(20), "the first judgement waits for the end of the input"
        yield from images("c", 5, 6)

    desk = Desk()

    def emit(judgement: Judgement) -> None:
        desk.done.append(judgement)
        arrived.set()

    assert desk.judge(source(), truthful, emit=emit) == 0
    assert len(desk.done) == 6


def test_a_fast_call_does_not_wait_for_a_slow_one() -> None:
    first_is_in = asyncio.Event()

    async def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        if prompt == "draw a":
            await asyncio.wait_for(first_is_in.wait(), 20)
        return truthful(prompt, pictures, aspect)

    desk = Desk()

    def emit(judgement: Judgement) -> None:
        desk.done.append(judgement)
        first_is_in.set()

    assert desk.judge(iter([*images("a", 1), *images("b", 2)]), annotate, emit=emit, aspects=ASPECTS[:1]) == 0
    assert [one["prompt_id"] for one in desk.done] == ["b", "a"]


def test_where_the_input_is_not_right_what_came_before_it_is_judged_first() -> None:
    def source() -> Iterator[Image]:
        yield from images("a", 1, 2)
        yield from images("b", 3, 4)
        raise UserError("in.jsonl:5: not JSON")

    async def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        await asyncio.sleep(0.05)
        return truthful(prompt, pictures, aspect)

    for answer in (annotate, truthful):
        desk = Desk()
        with pytest.raises(UserError, match=r"^in\.jsonl:5: not JSON$"):
            desk.judge(source(), answer)
        assert [one["prompt_id"] for one in desk.done] == ["a", "a"], "of b there may be more to come"


@pytest.mark.parametrize("error", [UserError("the key is wrong"), OutputClosed(), RuntimeError("a bug")])
def test_an_error_that_ends_the_run_is_raised_as_it_is(error: Exception) -> None:
    async def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        await asyncio.sleep(0.01)
        raise error

    with pytest.raises(type(error)) as raised:
        Desk().judge(iter(images("a", 1)), annotate)
    assert raised.value is error


def test_where_no_call_could_do_better_those_under_way_are_let_end_and_no_input_is_waited_for() -> None:
    over = threading.Event()
    spoke_again = []

    def source() -> Iterator[Image]:
        yield from images("a", 1)
        yield from images("b", 2)
        spoke_again.append(not over.wait(20))

    async def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        if aspect is ASPECTS[0]:
            await asyncio.sleep(0.01)
            raise UserError("no quota is left")
        await asyncio.sleep(0.1)
        return truthful(prompt, pictures, aspect)

    desk = Desk()
    with pytest.raises(UserError, match="no quota is left"):
        desk.judge(source(), annotate)
    assert not spoke_again
    over.set()
    assert [(one["prompt_id"], one["aspect"]) for one in desk.done] == [("a", ASPECTS[1].name)]


def test_items_are_taken_one_ahead_by_a_thread_that_nobody_waits_for() -> None:
    """Neither an endless wait for the next item nor one that nobody takes keeps the program from ending."""
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    def silence() -> Iterator[int]:
        yield 0
        time.sleep(3600)

    async def some(items: Iterator[int]) -> int:
        async for item in in_background(items):
            await asyncio.sleep(0.05)
            return item
        return -1

    assert asyncio.run(some(numbers())) == 0
    assert taken == [0, 1]
    assert asyncio.run(some(silence())) == 0
    started = [thread for thread in threading.enumerate() if "take" in thread.name]
    assert all(thread.daemon for thread in started)
    assert len(started) >= 1
