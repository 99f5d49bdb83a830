import asyncio
import threading
from collections.abc import Sequence

import pytest

from vpctl.errors import RecordFailed, UserError
from vpctl.judging.microbatch import MicroBatcher


class Desk:
    """Answers a number with twice the number, and records which questions were answered together."""

    def __init__(self, *, most: int = 4) -> None:
        self.asked: list[list[int]] = []
        self.batches: MicroBatcher[int, int] = MicroBatcher(self.answer, most=most, size=lambda number: abs(number))

    def answer(self, numbers: list[int]) -> Sequence[int | Exception]:
        self.asked.append(numbers)
        return [2 * number for number in numbers]

    def ask(self, *numbers: int) -> list[int | BaseException]:
        async def all_of_them() -> list[int | BaseException]:
            return await asyncio.gather(*map(self.batches, numbers), return_exceptions=True)

        return asyncio.run(all_of_them())


def test_everyone_gets_an_own_answer_and_no_batch_is_too_large() -> None:
    context = Desk()
    assert context.ask(*range(11)) == [2 * number for number in range(11)]
    assert [len(batch) for batch in context.asked] == [4, 4, 3]
    assert context.ask(7) == [14], "in another loop too"


def test_a_batch_is_of_the_one_that_waits_longest_and_what_is_nearest_to_it() -> None:
    context = Desk(most=3)
    context.ask(10, 1, 11, 2, 9, 12, 3)
    assert context.asked == [[10, 11, 9], [1, 2, 3], [12]]


def test_what_comes_within_a_moment_goes_with_the_others() -> None:
    context = Desk()

    async def late(number: int) -> int:
        for _ in range(number):
            await asyncio.sleep(0)
        return await context.batches(number)

    async def all_of_them() -> None:
        await asyncio.gather(*map(late, range(4)))

    asyncio.run(all_of_them())
    assert context.asked == [[0, 1, 2, 3]]


def test_those_who_come_while_a_batch_is_under_way_make_the_next() -> None:
    context = Desk()
    begun, goes_on = threading.Event(), threading.Event()

    def answer(numbers: list[int]) -> Sequence[int | Exception]:
        begun.set()
        assert goes_on.wait(20)
        return Desk.answer(context, numbers)

    context.batches = MicroBatcher(answer, most=4, size=abs)

    async def all_of_them() -> list[int]:
        first = asyncio.create_task(context.batches(1))
        await asyncio.to_thread(begun.wait, 20)
        others = [asyncio.create_task(context.batches(number)) for number in (2, 3)]
        await asyncio.sleep(0)
        goes_on.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(all_of_them()) == [2, 4, 6]
    assert context.asked == [[1], [2, 3]]


def test_one_question_may_fail_and_the_others_be_answered() -> None:
    context = Desk()
    failure = RecordFailed("three")
    context.batches = MicroBatcher(
        lambda numbers: [failure if number == 3 else number for number in numbers], most=4, size=abs
    )
    assert context.ask(1, 2, 3, 4) == [1, 2, failure, 4]


@pytest.mark.parametrize("error", [UserError("no room"), RuntimeError("a bug")])
def test_what_answering_raises_is_raised_for_all_and_the_next_batch_is_tried(error: Exception) -> None:
    context = Desk(most=2)

    def answer(numbers: list[int]) -> Sequence[int | Exception]:
        if 1 in numbers:
            raise error
        return numbers

    context.batches = MicroBatcher(answer, most=2, size=abs)
    assert context.ask(1, 2, 3) == [error, error, 3]


def test_an_answer_too_few_is_a_bug_that_nobody_waits_for_in_vain() -> None:
    context = Desk()
    context.batches = MicroBatcher(lambda numbers: numbers[1:], most=4, size=abs)
    assert [type(found) for found in context.ask(1, 2)] == [ValueError, ValueError]


def test_who_has_gone_is_not_answered_and_when_all_have_it_shows() -> None:
    context = Desk(most=2)
    begun, seen = threading.Event(), threading.Event()

    def answer(numbers: list[int]) -> Sequence[int | Exception]:
        context.asked.append(numbers)
        begun.set()
        while not context.batches.abandoned and not seen.wait(0.001):
            pass
        return numbers

    context.batches = MicroBatcher(answer, most=2, size=abs)

    async def some_leave() -> list[int | BaseException]:
        calls = [asyncio.create_task(context.batches(number)) for number in (1, 2, 3, 4)]
        await asyncio.to_thread(begun.wait, 20)
        calls[0].cancel()
        await asyncio.sleep(0.01)
        assert not context.batches.abandoned, "two still waits"
        calls[2].cancel()
        calls[1].cancel()
        while len(context.asked) < 2:
            await asyncio.sleep(0.001)
        seen.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(some_leave())
    assert [type(one) for one in found[:3]] == [asyncio.CancelledError] * 3
    assert found[3] == 4
    assert context.asked == [[1, 2], [4]]
