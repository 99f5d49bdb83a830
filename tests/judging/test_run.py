import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from itertools import chain, count, groupby, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PIL

from vpctl import flow, progress
from vpctl.contracts import Annotator, Aspect, Kind, Question, Verdicts
from vpctl.errors import OutputClosed, RecordFailed, Refused, Stopped, Unusable, UserError
from vpctl.flow import StopSignal, in_background
from vpctl.judging import plan as planning
from vpctl.judging import run as judging
from vpctl.judging.functions import as_annotator
from vpctl.judging.plan import Call, Group, Plan, group_by_prompt
from vpctl.judging.preferences import tied_pairs
from vpctl.judging.run import Tally, judge
from vpctl.records import Image, Judgement

ASPECTS = (Aspect("fidelity", "Fidelity", "Levels."), Aspect("aesthetic", "Aesthetic", "Levels."))
PLAN = Plan(ASPECTS)


def images(prompt: str, *numbers: int) -> list[Image]:
    """Records of a prompt's pictures. The number of a picture is also its colour."""
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
    """Scores each picture with its number. The rationale has the prompt, the aspect and the number."""
    numbers = [number_of(picture) for picture in pictures]
    return Verdicts([float(one) for one in numbers], [f"{prompt}/{aspect.name}/{one}" for one in numbers], {})


class Desk:
    """Collects judgements, claimed keys and counts. It is the ledger of its run."""

    def __init__(self, **how: Any) -> None:
        self.done: list[Judgement] = []
        self.claimed: set[str] = set()
        self.tally = Tally()
        self.how = how

    def claim(self, key: str) -> bool:
        new = key not in self.claimed
        self.claimed.add(key)
        return new

    def write(self, *done: Judgement) -> None:
        self.done += done

    def ties(self, key: str) -> list[tuple[str, str]]:
        return []

    def judge(
        self,
        records: Iterator[Image],
        annotate: Any,
        plan: Plan = PLAN,
        *,
        at_once: int = 4,
        content: Callable[[str], str] = str,
        max_time: float | None = None,
        **how: Any,
    ) -> int:
        """Judge the records, and return the number of judgements that were lost."""
        annotator = as_annotator(annotate)
        usual = {"name": "mine", "identity": "", "template": annotator.template, "open_picture": opened}
        usual |= {"ledger": self}
        context = judging.JudgingContext(annotator, **{**usual, **self.how, **how})

        def work(stop_signal: StopSignal) -> Coroutine[Any, Any, None]:
            groups = group_by_prompt(records, content)
            counter = progress.Counter("judgements", None)
            return judge(
                groups, plan, context, at_once=at_once, stop_signal=stop_signal, tally=self.tally, counter=counter
            )

        flow.run(work, max_time=max_time)
        return self.tally.lost


def planned(records: list[Image], plan: Plan = PLAN, **how: Any) -> list[Call]:
    """The calls about one prompt's pictures. The content of a file is its name, unless `contents` are given."""
    annotate = how.pop("annotate", truthful)
    annotator = as_annotator(annotate)
    words = annotator.template
    usual = {"name": "mine", "identity": "", "template": words, "open_picture": opened, "ledger": Desk()}
    contents = how.pop("contents", None) or [image["file_name"] for image in records]
    context = judging.JudgingContext(annotator, **{**usual, **how})
    return list(planning.plan_calls(Group(records, contents), plan, context))


@given(st.permutations(range(6)), st.integers(0, 5))
def test_scores_and_rationales_come_back_in_the_order_of_the_pictures(numbers: list[int], seed: int) -> None:
    context = Desk()
    assert context.judge(iter(images("p", *numbers)), truthful, replace(PLAN, seed=seed), at_once=1) == 0
    assert [one["aspect"] for one in context.done] == ["fidelity", "aesthetic"]
    for one in context.done:
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

    context = Desk()
    context.judge(iter(images("p", 3, 1, 4, 5, 9)), annotate, at_once=1)
    assert seen == [[[3, 1, 4, 5, 9][place] for place in one["order"]] for one in context.done]


async def counting(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
    """As `truthful`, and reports usage as a server does."""
    verdicts = truthful(prompt, pictures, aspect)
    return verdicts._replace(usage={"prompt_tokens": 7})


def test_what_a_call_used_is_written_down_if_it_says_so() -> None:
    for annotate, usage in ((counting, {"prompt_tokens": 7}), (truthful, None)):
        context = Desk()
        context.judge(iter(images("a", 1)), annotate)
        assert [one.get("usage") for one in context.done] == [usage, usage]


def test_a_refusal_is_an_answer() -> None:
    def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        if aspect.name == "fidelity":
            raise Refused("not this one")
        return truthful(prompt, pictures, aspect)

    context = Desk()
    assert context.judge(iter(images("a", 1, 2)), annotate, at_once=1) == 0
    refused, judged = context.done
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
        (unequal, "the annotator gave 1 score for 2 pictures"),
        (wordless, "the annotator gave 0 rationales for 2 pictures"),
        (infinite, "the annotator gave nan, which is not a valid score"),
    ],
)
def test_a_call_that_fails_is_counted_reported_and_left_out(
    annotate: Any, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    context = Desk()
    source = [*images("a", 1, 2), *images("b", 3, 4), *images("c", 5, 6)]
    assert context.judge(iter(source), annotate, at_once=1) == 1
    judged = {(one["prompt_id"], one["aspect"]) for one in context.done}
    assert judged == {("a", "fidelity"), ("a", "aesthetic"), ("b", "aesthetic"), ("c", "fidelity"), ("c", "aesthetic")}
    assert len(context.done) == 5
    assert capsys.readouterr().err == f"vpctl: warning: 'draw b', fidelity: {reason}\n"


def test_a_picture_that_cannot_be_opened_fails_its_prompt_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    def open_picture(name: str) -> PIL.Image:
        if name == "a2":
            raise RecordFailed("a2: not a picture")
        return opened(name)

    context = Desk()
    assert context.judge(iter([*images("a", 1, 2), *images("b", 3)]), truthful, open_picture=open_picture) == 2
    assert [one["prompt_id"] for one in context.done] == ["b", "b"]
    assert capsys.readouterr().err == "vpctl: warning: 'draw a', fidelity, aesthetic: a2: not a picture\n"


@pytest.mark.parametrize("needs_pixels", [False, True])
def test_pictures_at_hand_are_prepared_in_the_event_loop_if_no_pixels_are_needed(needs_pixels: bool) -> None:
    """Of prompt b, one picture is not at hand."""
    prepared: dict[str, tuple[str, bool]] = {}

    class Unseeing(Annotator):
        max_side = 512

        def prepare(self, image: PIL.Image, path: str) -> PIL.Image:
            prepared[path] = image.info.get("how", "opened"), threading.current_thread() is threading.main_thread()
            return image

        async def ask(self, question: Question) -> list[Verdicts]:
            return [truthful(question.prompt, [*question.pictures], *question.aspects)]

    def at_hand(name: str, max_side: int) -> PIL.Image | None:
        assert max_side == 512
        picture = opened(name)
        picture.info["how"] = "at hand"
        return None if name == "b4" else picture

    annotator, context = Unseeing(), Desk()
    annotator.needs_pixels = needs_pixels
    assert context.judge(iter([*images("a", 1, 2), *images("b", 3, 4)]), annotator, at_hand=at_hand) == 0
    if needs_pixels:
        assert set(prepared.values()) == {("opened", False)}
    else:
        here, there = ("at hand", True), ("at hand", False)
        assert prepared == {"a1": here, "a2": here, "b3": there, "b4": ("opened", False)}


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_as_many_calls_are_under_way_as_may_be_and_no_more(limit: int) -> None:
    now = most = 0

    async def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(10_000):
            if most == limit:
                break
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)
        now -= 1
        return truthful(prompt, pictures, aspect)

    context = Desk()
    source = [one for prompt in "abcdefghij" for one in images(prompt, 1, 2)]
    assert context.judge(iter(source), annotate, at_once=limit) == 0
    assert most == limit
    assert len(context.done) == 20


def test_judgements_are_out_before_the_input_has_ended() -> None:
    arrived = threading.Event()

    def source() -> Iterator[Image]:
        yield from images("a", 1, 2)
        yield from images("b", 3, 4)
        assert arrived.wait(20), "the first judgement waits for the end of the input"
        yield from images("c", 5, 6)

    class Waited(Desk):
        def write(self, *done: Judgement) -> None:
            super().write(*done)
            arrived.set()

    context = Waited()
    assert context.judge(source(), truthful) == 0
    assert len(context.done) == 6


def test_a_fast_call_does_not_wait_for_a_slow_one() -> None:
    first_is_in = asyncio.Event()

    async def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        if prompt == "draw a":
            await asyncio.wait_for(first_is_in.wait(), 20)
        return truthful(prompt, pictures, aspect)

    class Waited(Desk):
        def write(self, *done: Judgement) -> None:
            super().write(*done)
            first_is_in.set()

    context = Waited()
    assert context.judge(iter([*images("a", 1), *images("b", 2)]), annotate, plan=Plan(ASPECTS[:1])) == 0
    assert [one["prompt_id"] for one in context.done] == ["b", "a"]


def test_where_the_input_is_not_right_what_came_before_it_is_judged_first() -> None:
    def source() -> Iterator[Image]:
        yield from images("a", 1, 2)
        yield from images("b", 3, 4)
        raise UserError("in.jsonl:5: not JSON")

    async def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        await asyncio.sleep(0.05)
        return truthful(prompt, pictures, aspect)

    for answer in (annotate, truthful):
        context = Desk()
        with pytest.raises(UserError, match=r"^in\.jsonl:5: not JSON$"):
            context.judge(source(), answer)
        assert [one["prompt_id"] for one in context.done] == ["a", "a"], "of b there may be more to come"


@pytest.mark.parametrize("error", [UserError("the key is wrong"), OutputClosed(), RuntimeError("a bug")])
def test_an_error_that_ends_the_run_is_raised_as_it_is(error: Exception) -> None:
    async def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        await asyncio.sleep(0.01)
        raise error

    with pytest.raises(type(error)) as raised:
        Desk().judge(iter(images("a", 1)), annotate)
    assert raised.value is error


def test_where_no_call_could_do_better_those_under_way_are_let_end_and_no_input_is_waited_for() -> None:
    over, both_begun = threading.Event(), asyncio.Event()
    spoke_again = []

    def source() -> Iterator[Image]:
        yield from images("a", 1)
        yield from images("b", 2)
        spoke_again.append(not over.wait(20))

    async def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        if aspect is ASPECTS[0]:
            await both_begun.wait()
            raise UserError("no quota is left")
        both_begun.set()
        await asyncio.sleep(0.1)
        return truthful(prompt, pictures, aspect)

    context = Desk()
    with pytest.raises(UserError, match="no quota is left"):
        context.judge(source(), annotate)
    assert not spoke_again
    over.set()
    assert [(one["prompt_id"], one["aspect"]) for one in context.done] == [("a", ASPECTS[1].name)]


def test_the_order_is_drawn_by_prompt_pictures_and_seed_and_is_the_same_for_all_aspects() -> None:
    def orders(prompt: str = "p", seed: int = 0, last: int = 9, passes: int = 1) -> list[tuple[int, ...]]:
        return [
            call.shown for call in planned(images(prompt, *range(9), last), Plan(ASPECTS, "list", passes, seed=seed))
        ]

    assert orders() == orders()
    drawn = [orders(), orders("q"), orders(seed=1), orders(last=10)]
    assert all(first == second for first, second in drawn)
    assert len({first for first, _ in drawn}) == 4
    first, second, third, fourth = orders(passes=2)
    assert first == second != third == fourth, "calls about the same pictures are neighbours"


class Keeper(Annotator):
    """Judges like `truthful`, and notes what was asked, and what had been answered by then."""

    def __init__(self, *, first_alone: bool) -> None:
        self._first_alone = first_alone
        self.asked: list[tuple[str, str, set[tuple[str, str]]]] = []
        self.answered: set[tuple[str, str]] = set()
        self.prompts_at_once = 0

    def first_alone(self) -> bool:
        return self._first_alone

    async def ask(self, question: Question) -> list[Verdicts]:
        aspect = question.aspects[0].name
        self.asked.append((question.prompt, aspect, set(self.answered)))
        begun = {prompt for prompt, _, _ in self.asked}
        over = {prompt for prompt in begun if sum(one == prompt for one, _ in self.answered) == len(FOUR)}
        self.prompts_at_once = max(self.prompts_at_once, len(begun - over))
        for _ in range(3):
            await asyncio.sleep(0)
        self.answered.add((question.prompt, aspect))
        return [truthful(question.prompt, list(question.pictures), question.aspects[0])]


class Sure(Annotator):
    """Judges like `truthful`, and says whether it always judges the same way."""

    def __init__(self, *, sure: bool) -> None:
        self._sure = sure
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    def deterministic(self) -> bool:
        return self._sure

    async def ask(self, question: Question) -> list[Verdicts]:
        self.asked.append((question.prompt, tuple(map(number_of, question.pictures))))
        return [truthful(question.prompt, list(question.pictures), question.aspects[0])]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_no_order_comes_again_before_all_were_shown(number: int) -> None:
    for prompt in "pqrs":
        most = math.factorial(number)
        orders = [call.shown for call in planned(images(prompt, *range(number)), Plan(ASPECTS[:1], passes=2 * most))]
        assert len(set(orders[:most])) == most
        assert set(orders[most:]) == set(orders[:most])
        for begin in range(0, most, number):
            firsts = [order[0] for order in orders[begin : begin + number]]
            assert sorted(firsts) == [*range(number)], "every picture comes first once"


def test_passes_that_would_repeat_a_question_are_left_out_and_counted() -> None:
    records = [*images("a", 1), *images("b", 1, 2), *images("c", 1, 2, 3)]
    plan = Plan(ASPECTS[:1], passes=6)
    for sure in (True, False):
        annotator, context = Sure(sure=sure), Desk()
        assert context.judge(iter(records), annotator, plan) == 0
        asked = Counter(annotator.asked)
        if sure:
            assert set(asked.values()) == {1}
            assert Counter(prompt for prompt, _ in asked)["draw a"] == 1
            assert Counter(prompt for prompt, _ in asked)["draw b"] == 2, "both orders"
            assert Counter(prompt for prompt, _ in asked)["draw c"] == 6, "all orders"
            assert context.tally.repeated == 3 * 6 - len(asked)
            assert (
                context.tally.summary() == f"{context.tally.repeated} calls left out that would repeat an earlier pass"
            )
        else:
            assert sum(asked.values()) == 3 * 6
            assert context.tally.summary() == ""


FOUR = tuple(Aspect(name, name.title(), "Levels.") for name in ("one", "two", "three", "four"))


def test_the_other_aspects_wait_until_the_first_is_answered_if_the_annotator_wants_it() -> None:
    for alone in (True, False):
        keeper, context = Keeper(first_alone=alone), Desk()
        records = chain.from_iterable(images("abcdefghijkl"[number], 1, 2) for number in range(12))
        assert context.judge(records, keeper, Plan(FOUR), at_once=8) == 0
        assert len(context.done) == len(keeper.asked) == 48
        waited = [(prompt, "one") in before for prompt, aspect, before in keeper.asked if aspect != "one"]
        assert all(waited) == alone


def test_prompts_whose_other_aspects_wait_are_bounded() -> None:
    keeper, context = Keeper(first_alone=True), Desk()
    records = chain.from_iterable(images(f"{'a' * (1 + number)}", 1, 2) for number in range(150))
    assert context.judge(records, keeper, Plan(FOUR), at_once=8) == 0
    assert len(context.done) == 600
    assert keeper.prompts_at_once <= 8 + 3 * len(FOUR) + Annotator.preparing


def test_each_pass_begins_one_picture_later_until_all_have_been_first() -> None:
    orders = [call.shown for call in planned(images("p", 1, 2, 3, 4), Plan(ASPECTS[:1], passes=9))]
    for first, second in pairwise(orders[:4]):
        assert second == first[1:] + first[:1]
    assert Counter(order[0] for order in orders[:8]) == dict.fromkeys(range(4), 2)
    assert orders[4:8] != orders[:4], "then they are shuffled anew"
    records = [call.judgements[0] for call in planned(images("p", 1, 2), Plan(ASPECTS[:1], passes=3))]
    assert [record.get("repeat") for record in records] == [None, 2, 3]


def test_neither_other_prompts_nor_who_judges_nor_the_order_of_the_input_changes_the_order() -> None:
    def shown(numbers: list[int], name: str = "mine") -> list[str]:
        records = images("p", *numbers)
        call = planned(records, name=name)[0]
        return [records[place]["image_id"] for place in call.shown]

    assert shown([1, 2, 3, 4]) == shown([4, 2, 1, 3]) == shown([1, 2, 3, 4], "another")


def keys(plan: Plan = PLAN, records: list[Image] | None = None, **how: Any) -> list[str]:
    calls = planned(images("p", 1, 2, 3) if records is None else records, plan, **how)
    return [judgement["key"] for call in calls for judgement in call.judgements]


def edited(**more: Any) -> list[Image]:
    return [{**image, **more} for image in images("p", 1, 2, 3)]  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "how",
    [
        {"identity": "another"},
        {"name": "another"},
        {"plan": Plan(tuple(aspect._replace(rubric="Others.") for aspect in ASPECTS))},
        {"plan": Plan(tuple(aspect._replace(title="Other") for aspect in ASPECTS))},
        {"plan": replace(PLAN, seed=5)},
        {"plan": replace(PLAN, mode="point")},
        {"plan": replace(PLAN, mode="pair")},
        {"records": edited(prompt="draw q")},
        {"records": edited(prompt_id="q")},
        {"records": images("p", 1, 2)},
        {"contents": ["p1", "other", "p3"]},
        {"annotate": type("Other", (Annotator,), {"ask": None, "template": lambda *_: "list@other"})()},
    ],
)
def test_a_key_changes_with_all_that_could_change_the_answer(how: dict[str, Any]) -> None:
    assert not set(keys(**how)) & set(keys())


def test_a_picture_that_cannot_be_read_does_no_harm_where_no_call_shows_it() -> None:
    alone = images("p", 1)
    assert planned(alone, replace(PLAN, mode="pair"), contents=RecordFailed("gone")) == []
    with pytest.raises(RecordFailed, match="gone"):
        planned(alone, contents=RecordFailed("gone"))


@pytest.mark.parametrize(
    "how",
    [
        {"records": edited(seed=9, model="n", mine=1, guidance_scale=7.5, split="test")},
        {"records": images("p", 3, 1, 2)},
        {"records": edited(source_prompt="raw")},
        {"plan": replace(PLAN, break_ties=True)},
        {"open_picture": None},
    ],
)
def test_a_key_changes_with_nothing_else(how: dict[str, Any]) -> None:
    assert keys(**how) == keys()


def test_no_two_questions_have_the_same_key() -> None:
    plans = [replace(PLAN, mode=mode, passes=passes) for mode in ("list", "point", "pair") for passes in (3,)]
    found = [key for plan in plans for key in keys(plan)]
    assert len(found) == len(set(found)) == 2 * 3 * (1 + 3 + 3 * 2)
    more = keys(replace(PLAN, passes=5))
    assert more[:3] == keys(replace(PLAN, passes=3))[:3], "more passes leave those before them as they were"


def test_neighbours_of_one_prompt_are_judged_together() -> None:
    source = [*images("a", 1, 2), *images("b", 3), *images("a", 4)]
    groups = list(group_by_prompt(iter(source), str.upper))
    assert [[one["image_id"] for one in group.images] for group in groups] == [["a1", "a2"], ["b3"], ["a4"]]
    assert [group.contents for group in groups] == [["A1", "A2"], ["B3"], ["A4"]]


def test_what_a_prompt_came_with_goes_on() -> None:
    record: Any = {**images("a", 1)[0], "source_prompt": "raw", "split": "test", "guidance_scale": 7.5, "mine": 1}
    context = Desk()
    context.judge(iter([record]), truthful, Plan(ASPECTS[:1]))
    (done,) = context.done
    assert len(done.pop("key")) == 16
    assert done == {
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


def test_nothing_is_judged_twice_and_nothing_opened_that_is_not_judged() -> None:
    names: list[str] = []

    def open_picture(name: str) -> PIL.Image:
        names.append(name)
        return opened(name)

    context = Desk(open_picture=open_picture)
    context.claimed = {*keys(records=images("a", 1, 2)), keys(records=images("b", 4, 3))[0]}
    source = [*images("a", 2, 1), *images("b", 3, 4), *images("c", 5), *images("d", 6), *images("c", 5)]
    assert context.judge(iter(source), truthful, at_once=1) == 0
    judged = [(one["prompt_id"], one["aspect"]) for one in context.done]
    expected = [("b", ASPECTS[1].name), *((prompt, aspect.name) for prompt in "cd" for aspect in ASPECTS)]
    assert sorted(judged) == sorted(expected)
    assert sorted(names) == ["b3", "b4", "c5", "d6"]


def test_a_longer_or_edited_input_asks_for_what_is_new() -> None:
    context = Desk()
    context.judge(iter([*images("a", 1, 2), *images("b", 3)]), truthful)
    first = len(context.done)
    longer = [*images("a", 1, 2), *images("b", 3), *images("c", 4), *images("d", 5)]
    context.judge(iter(longer), truthful)
    assert {one["prompt_id"] for one in context.done[first:]} == {"c", "d"}
    second = len(context.done)
    context.judge(iter(longer), truthful, content=lambda name: "new" if name == "b3" else name)
    assert {one["prompt_id"] for one in context.done[second:]} == {"b"}


def test_an_unusable_answer_is_recorded_with_its_text_and_what_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    async def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        raise Unusable("the answer is no JSON", "I like it", {"prompt_tokens": 7})

    context = Desk()
    assert context.judge(iter(images("a", 1)), annotate, Plan(ASPECTS[:1])) == 0
    (done,) = context.done
    assert (done["failed"], done["raw"], done["usage"], done["scores"]) == (
        "the answer is no JSON",
        "I like it",
        {"prompt_tokens": 7},
        [],
    )
    assert (context.tally.failed, context.tally.lost) == (1, 0)
    assert "the answer is no JSON" in capsys.readouterr().err


class Together(Annotator):
    """A judge of several aspects per call. Pictures whose numbers halve to the same integer get the same score."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[Question] = []
        self.error = error

    def template(self, kind: Kind) -> str:
        return f"{kind.mode}@1"

    async def ask(self, question: Question) -> list[Verdicts]:
        self.asked.append(question)
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        numbers = [number_of(picture) for picture in question.pictures]
        scores = [5.0 if one == max(numbers) else 1.0 for one in numbers] if question.mode == "pair" else numbers
        halves = [float(one if question.mode == "pair" else one // 2) for one in scores]
        return [Verdicts(halves, ["x"] * len(halves), {"prompt_tokens": 5.0})] * len(question.aspects)


def test_all_aspects_go_in_one_call_and_become_a_judgement_each() -> None:
    context, judge_ = Desk(), Together()
    context.judge(iter(images("a", 2, 4)), judge_, replace(PLAN, all_aspects=True))
    assert len(judge_.asked) == 1
    assert [(one["aspect"], one["scores"]) for one in context.done] == [("fidelity", [1, 2]), ("aesthetic", [1, 2])]
    assert judge_.asked[0].key == context.done[0]["key"]


def test_a_refusal_of_all_aspects_is_one_of_each_with_its_share_and_what_is_there_is_not_counted_again() -> None:
    context = Desk()
    plan = replace(PLAN, all_aspects=True)
    context.claimed = {keys(plan, images("a", 1))[0]}
    context.claimed = {planned(images("a", 1), plan, annotate=Together())[0].judgements[0]["key"]}
    context.judge(iter([*images("a", 1), *images("b", 1)]), Together(Refused("no", {"prompt_tokens": 8.0})), plan)
    assert Counter(one["prompt_id"] for one in context.done) == {"a": 1, "b": 2}
    assert {one["usage"]["prompt_tokens"] for one in context.done} == {4.0}
    assert context.tally.refused == 3


def test_every_two_pictures_are_compared_in_both_orders() -> None:
    context, judge_ = Desk(), Together()
    context.judge(iter(images("a", 1, 2, 3)), judge_, Plan(ASPECTS[:1], "pair"))
    shown = [tuple(number_of(picture) for picture in question.pictures) for question in judge_.asked]
    assert sorted(shown) == [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)]
    for one in context.done:
        assert one["scores"] == ([1.0, 5.0] if one["image_ids"] == sorted(one["image_ids"]) else [5.0, 1.0])
        assert one["mode"] == "pair"


def test_a_callable_that_scores_can_compare_too() -> None:
    context = Desk()
    context.judge(iter(images("a", 3, 1)), truthful, Plan(ASPECTS[:1], "pair"))
    assert [(one["image_ids"], one["scores"], sorted(one["order"])) for one in context.done] == [
        (["a3", "a1"], [5.0, 1.0], [0, 1])
    ] * 2
    assert context.done[0]["order"] != context.done[1]["order"]


def test_ties_are_broken_by_comparing_what_has_the_same_score_also_after_a_resume() -> None:
    plan = Plan(ASPECTS[:1], break_ties=True)
    source = images("a", 2, 3, 4, 5, 8)  # the scores are 1, 1, 2, 2, 4
    whole = Desk()
    whole.judge(iter(source), Together(), plan)
    pairs = Counter(tuple(one["image_ids"]) for one in whole.done if one.get("mode") == "pair")
    assert pairs == {("a2", "a3"): 2, ("a4", "a5"): 2}

    class Remembers(Desk):
        def ties(self, key: str) -> list[tuple[str, str]]:
            return next((tied_pairs(one) for one in self.done if one["key"] == key), [])

    broken = Remembers()
    broken.judge(iter(source), Together(), Plan(ASPECTS[:1]))
    broken.judge(iter(source[::-1]), Together(), plan)
    assert sorted(one["key"] for one in broken.done) == sorted(one["key"] for one in whole.done)


def test_pictures_take_room_until_the_last_comparison_of_their_ties_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for the pictures of one prompt. The next prompt, whichever it is, waits for their comparisons."""
    monkeypatch.setattr(judging, "MAX_PIXELS_IN_MEMORY", 1)

    class Slow(Together):
        async def ask(self, question: Question) -> list[Verdicts]:
            if question.mode == "pair":
                await asyncio.sleep(0.01)
            return await super().ask(question)

    context, slow = Desk(), Slow()
    source = [one for prompt in "abc" for one in images(prompt, 2, 3, 4, 5)]
    context.judge(iter(source), slow, Plan(ASPECTS[:1], break_ties=True), at_once=8)
    asked = [question.prompt for question in slow.asked]
    assert len(asked) == 3 * (1 + 2 * 2)
    assert len([*groupby(asked)]) == 3, "all questions about a prompt are together"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_after_the_time_is_over_nothing_new_is_begun_and_what_is_under_way_is_kept(asynchronous: bool) -> None:
    """This holds on a busy machine too: the calls that a short run did not begin are made in a longer one."""
    began: list[str] = []

    def slow(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        began.append(prompt)
        time.sleep(0.05)
        return truthful(prompt, pictures, aspect)

    async def slowly(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        began.append(prompt)
        await asyncio.sleep(0.05)
        return truthful(prompt, pictures, aspect)

    for seconds in (0.3, 3, 30):
        context = Desk()
        endless = (one for number in count() for one in images("abc"[number % 3] * (1 + number % 1000), 1))
        with pytest.raises(UserError, match=f"stopped: --max-time of {seconds:g} s is over") as raised:
            context.judge(endless, slowly if asynchronous else slow, Plan(ASPECTS[:1]), max_time=seconds, at_once=16)
        assert raised.value.exit_code == 5
        if began:
            break
    assert len(began) == len(context.done) > 0


def test_a_synchronous_annotator_is_never_called_twice_at_once_and_holds_up_nothing() -> None:
    now: list[int] = []
    threads = set()

    def annotate(prompt: str, pictures: list[PIL.Image], aspect: Aspect) -> Verdicts:
        now.append(1)
        threads.add(threading.current_thread().name)
        time.sleep(0.002)
        assert len(now) == 1, "somebody else is in here"
        now.pop()
        return truthful(prompt, pictures, aspect)

    context = Desk()
    source = [one for prompt in "abcdefghij" for one in images(prompt, 1)]
    assert context.judge(iter(source), annotate, at_once=16) == 0
    assert len(context.done) == 20
    assert threading.main_thread().name not in threads


def test_the_pictures_of_few_prompts_are_held_ready() -> None:
    """Memory does not grow with the input: a prompt waits for the prompts before it."""
    prepared: list[str] = []
    asked: set[str] = set()
    ahead: list[int] = []

    class Slow(Together):
        def prepare(self, picture: PIL.Image, name: str) -> PIL.Image:
            prepared.append(name)
            return picture

        async def ask(self, question: Question) -> list[Verdicts]:
            asked.add(question.prompt)
            await asyncio.sleep(0.003)
            ahead.append(len(prepared) - len(asked))
            return await super().ask(question)

    context = Desk()
    source = (one for number in range(100) for one in images("p" * (1 + number), 1))
    context.judge(source, Slow(), Plan(ASPECTS, passes=2), at_once=2)
    assert len(context.done) == 400
    assert len(prepared) == 100, "each once, for both aspects and passes"
    assert max(ahead) <= Annotator.preparing + 2


def test_stopped_calls_leave_no_record() -> None:
    context = Desk()
    assert context.judge(iter(images("a", 1)), Together(Stopped())) == 0
    assert (context.done, context.tally.failed) == ([], 0)


def test_items_are_taken_one_ahead_by_a_thread_that_nobody_waits_for() -> None:
    """The program can end while the next item never comes, and while an item is never taken."""
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    def silence() -> Iterator[int]:
        yield 0
        time.sleep(3600)

    async def some(items: Iterator[int], ahead: int = 0) -> int:
        async for item in in_background(items):
            while len(taken) < ahead:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            return item
        return -1

    assert asyncio.run(some(numbers(), 2)) == 0
    assert taken == [0, 1]
    assert asyncio.run(some(silence())) == 0
    started = [thread for thread in threading.enumerate() if "make" in thread.name]
    assert all(thread.daemon for thread in started)
    assert len(started) >= 1
