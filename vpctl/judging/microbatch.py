"""Microbatching: coroutines ask one question each, and a thread answers the waiting questions in batches."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

IDLE_SECONDS = 0.005
"""Seconds without a new question after which a batch starts although it is not full."""


class _Waiting(NamedTuple, Generic[Q, A]):
    question: Q
    answer: "asyncio.Future[A]"


class MicroBatcher(Generic[Q, A]):
    """Answers single questions in batches: ``await batches(question)`` is the answer to one question.

    ``answer(questions)`` runs in a thread, for one batch at a time, so it needs no lock. It returns an answer for every
    question, or an exception, which is then raised where that question was asked. If `answer` itself raises an
    exception, that is raised for every question of the batch.

    `max_batch_size` is the maximum number of questions in a batch and may be lowered during the run. A batch is the
    question that has waited longest, together with the waiting questions that are nearest to it in `size`: padding to
    the largest question of a batch costs time and gives nothing.
    """

    def __init__(
        self, answer: Callable[[list[Q]], Sequence[A | Exception]], *, most: int, size: Callable[[Q], float]
    ) -> None:
        self.max_batch_size = most
        self._answer = answer
        self._size = size
        self._waiting: list[_Waiting[Q, A]] = []
        self._under_way: list[_Waiting[Q, A]] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, question: Q) -> A:
        """The answer to the question, when its batch has been answered."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting[Q, A](question, loop.create_future())
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return await waiting.answer

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits any longer for an answer of the current batch, for example after an interrupt."""
        return all(one.answer.done() for one in self._under_way)

    async def _work(self) -> None:
        while self._waiting:
            await self._no_more_come()
            self._under_way = self._next()
            if self._under_way:
                self._hand_out(await self._answers())

    async def _no_more_come(self) -> None:
        there = 0
        while there < len(self._waiting) < self.max_batch_size:
            there = len(self._waiting)
            await asyncio.sleep(IDLE_SECONDS)

    def _next(self) -> list[_Waiting[Q, A]]:
        """The next batch. Questions that nobody waits for any longer are dropped."""
        left = [one for one in self._waiting if not one.answer.done()]
        sizes = [self._size(one.question) for one in left]
        taken = set(sorted(range(len(left)), key=lambda place: abs(sizes[place] - sizes[0]))[: self.max_batch_size])
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
