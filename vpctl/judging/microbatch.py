"""Questions that wait at the same time, answered together: coroutines ask one by one, a thread answers in batches."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

PAUSE = 0.005
"""Seconds in which nothing more is asked before a batch goes off that is not full."""


class _Waiting(NamedTuple, Generic[Q, A]):
    question: Q
    answer: "asyncio.Future[A]"


class MicroBatches(Generic[Q, A]):
    """`await batches(question)` is the question's answer out of ``answer(questions)``, which runs in a thread.

    `answer` runs for one batch at a time, so it needs no lock, and gives an answer for every question, or an exception
    to be raised where that question was asked; what it raises itself is raised for all. `most` is how many questions
    it gets, and may be lowered while it runs. Of those that wait, the one that has waited longest goes first, together
    with the ones nearest to it in `size`: padding to the largest of a batch is work for nothing.
    """

    def __init__(
        self, answer: Callable[[list[Q]], Sequence[A | Exception]], *, most: int, size: Callable[[Q], float]
    ) -> None:
        self.most = most
        self._answer = answer
        self._size = size
        self._waiting: list[_Waiting[Q, A]] = []
        self._under_way: list[_Waiting[Q, A]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, question: Q) -> A:
        """The answer, once the batch that the question is in has been answered."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting[Q, A](question, loop.create_future())
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return await waiting.answer

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits any more for any of the questions under way, as after an interrupt."""
        return all(one.answer.done() for one in self._under_way)

    async def _work(self) -> None:
        while self._waiting:
            await self._no_more_come()
            self._under_way = self._next()
            if self._under_way:
                self._hand_out(await self._answers())

    async def _no_more_come(self) -> None:
        there = 0
        while there < len(self._waiting) < self.most:
            there = len(self._waiting)
            await asyncio.sleep(PAUSE)

    def _next(self) -> list[_Waiting[Q, A]]:
        """The next batch, out of those still waited for."""
        left = [one for one in self._waiting if not one.answer.done()]
        sizes = [self._size(one.question) for one in left]
        taken = set(sorted(range(len(left)), key=lambda place: abs(sizes[place] - sizes[0]))[: self.most])
        self._waiting = [one for place, one in enumerate(left) if place not in taken]
        return [left[place] for place in sorted(taken)]

    async def _answers(self) -> Sequence[A | Exception]:
        batch = self._under_way
        try:
            answers = await asyncio.to_thread(self._answer, [one.question for one in batch])
            if len(answers) != len(batch):
                raise ValueError(f"{len(answers)} answers to {len(batch)} questions")
        except Exception as error:
            return [error] * len(batch)
        return answers

    def _hand_out(self, answers: Sequence[A | Exception]) -> None:
        for one, answer in zip(self._under_way, answers, strict=True):
            if one.answer.done():
                continue
            if isinstance(answer, Exception):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)
