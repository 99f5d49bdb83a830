"""Runs rewards over pictures: each picture is decoded once for all rewards, while those before it are scored."""

import math
import os
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, Protocol, SupportsFloat, TypeVar

from PIL import Image

from .. import plugins
from ..contracts import Reward
from ..errors import RecordFailed, UserError
from ..flow import ahead, hand_over
from ..progress import plural
from .shared import sharing

MAX_BATCH_PIXELS = 1 << 25
"""Number of pixels at which a batch is full: 128 MiB when decoded, or 32 pictures of 1024 × 1024."""
LARGE = 1 << 22
"""Number of pixels from which a picture is decoded alone, because decoding takes several times its memory."""
MOST_THREADS = 8
"""Maximum number of threads that decode pictures."""
_FINISHED = object()
"""Says that a thread has finished an item."""
R = TypeVar("R", bound=Mapping[str, Any])
T = TypeVar("T")
S = TypeVar("S")


class Album(Protocol):
    """Opens pictures by name; see `images.pictures.Pictures`."""

    def size(self, path: str) -> tuple[int, int]:
        """Width and height in pixels. Raises `RecordFailed` if there is no picture."""
        ...

    def open(self, path: str) -> Image.Image:
        """The picture as upright RGB. Raises `RecordFailed` if it cannot be decoded."""
        ...


class Batch(NamedTuple, Generic[R]):
    """Records with what each reward prepared from their pictures, and the errors of records that have no picture."""

    records: list[R]
    inputs: dict[str, list[Any]]
    failures: list[RecordFailed]

    @property
    def prompts(self) -> list[str]:
        """The prompt of each record."""
        return [record["prompt"] for record in self.records]

    @property
    def size(self) -> int:
        """How many records there were, with those that failed."""
        return len(self.records) + len(self.failures)

    def scored(self, rewards: Mapping[str, Reward]) -> tuple[list[tuple[R, dict[str, float]]], list[RecordFailed]]:
        """Each record with its score by every reward, and all failures.

        A score that is not finite is a failure: NaN and infinity cannot be compared, and JSON cannot hold them. Raises
        `UserError` if a reward does not return a number for each picture.
        """
        columns = compute_scores(rewards, self.inputs, self.prompts)
        found: list[tuple[R, dict[str, float]]] = []
        failures = [*self.failures]
        for place, record in enumerate(self.records):
            scores = {spec: column[place] for spec, column in columns.items()}
            if bad := [spec for spec, score in scores.items() if not math.isfinite(score)]:
                reason = f"{bad[0]} gave {scores[bad[0]]}, which is not a valid score"
                failures.append(RecordFailed(f"{record['file_name']}: {reason}"))
            else:
                found.append((record, scores))
        return found, failures


def load_batches(
    records: Iterable[R | RecordFailed], album: Album, rewards: Mapping[str, Reward], *, most: int
) -> Iterator[Batch[R]]:
    """The records in batches of at most `most`, in order, with what the rewards prepared from their pictures.

    A record has a `file_name`. An input that is a `RecordFailed` stays one. Threads read the records, decode the next
    batch and prepare it while this one is used. What a batch holds is released when the next one is taken, because
    large pictures fill the memory.
    """

    def prepared(record: R | RecordFailed) -> tuple[R, dict[str, Any]] | RecordFailed:
        if isinstance(record, RecordFailed):
            return record
        try:
            picture = album.open(record["file_name"])
        except RecordFailed as failure:
            return failure
        try:
            with sharing():
                return record, {spec: reward.prepare(picture) for spec, reward in rewards.items()}
        except RecordFailed as failure:
            return RecordFailed(f"{record['file_name']}: {failure}")

    def sized() -> Iterator[tuple[R | RecordFailed, bool]]:
        """The records, and whether their pictures are large. A record without a picture becomes its failure."""
        for record in records:
            if isinstance(record, RecordFailed):
                yield record, False
                continue
            try:
                yield record, math.prod(album.size(record["file_name"])) >= LARGE
            except RecordFailed as failure:
                yield failure, False

    for items in ahead(batches(_in_threads(prepared, sized()), most, _pixels), is_large=_fills_memory):
        failures = [one for one in items if isinstance(one, RecordFailed)]
        pairs = [one for one in items if not isinstance(one, RecordFailed)]
        inputs = {spec: [inputs[spec] for _, inputs in pairs] for spec in rewards}
        batch = Batch([record for record, _ in pairs], inputs, failures)
        del items, pairs, inputs
        yield batch
        for column in batch.inputs.values():
            column.clear()


def _in_threads(work: Callable[[T], S], items: Iterator[tuple[T, bool]]) -> Iterator[S]:
    """The results of `work`, in order. It runs in several threads, but alone for an item that says so.

    A result that is ready is not held back while the next item has not arrived: it may depend on it, in a pipe.
    """
    most = min(MOST_THREADS, os.cpu_count() or 1)
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()  # what `hand_over` puts, and _FINISHED
    waiting: deque[Future[S]] = deque()
    with ThreadPoolExecutor(most) as pool:
        taken, end = hand_over(items, events.put, most)
        try:
            while True:
                while waiting and waiting[0].done():
                    yield waiting.popleft().result()
                    taken.release()
                event = events.get()
                if event is _FINISHED:
                    continue
                if isinstance(event, tuple) and not event[0][1]:
                    waiting.append(pool.submit(work, event[0][0]))
                    waiting[-1].add_done_callback(lambda _: events.put(_FINISHED))
                    continue
                while waiting:
                    yield waiting.popleft().result()
                    taken.release()
                if event is None:
                    return
                if isinstance(event, BaseException):
                    raise event
                yield work(event[0][0])
                taken.release()
        finally:
            end()


def batches(items: Iterable[T], most: int, pixels: Callable[[T], int]) -> Iterator[list[T]]:
    """The items in batches of at most `most`. A batch is smaller if its pictures are large.

    `pixels` returns the number of pixels of an item. A batch ends when it has `MAX_BATCH_PIXELS` of them.
    """
    batch: list[T] = []
    taken = 0
    for item in items:
        batch.append(item)
        taken += pixels(item)
        del item  # or its picture would stay in memory while the next ones are decoded
        if len(batch) == most or taken >= MAX_BATCH_PIXELS:
            yield batch
            batch, taken = [], 0
    if batch:
        yield batch


def _pixels(one: tuple[Any, dict[str, Any]] | RecordFailed) -> int:
    """The number of pixels of the picture, if a reward still needs it whole."""
    if isinstance(one, RecordFailed):
        return 0
    whole = [held for held in one[1].values() if isinstance(held, Image.Image)]
    return whole[0].width * whole[0].height if whole else 0


def _fills_memory(batch: list[tuple[R, dict[str, Any]] | RecordFailed]) -> bool:
    """Whether the pictures of a batch use all the memory that pictures may use."""
    return sum(map(_pixels, batch)) >= MAX_BATCH_PIXELS


def compute_scores(
    rewards: Mapping[str, Reward], inputs: Mapping[str, list[Any]], prompts: list[str]
) -> dict[str, list[float]]:
    """The scores by reward, from pictures or what the reward prepared from them.

    Raises `UserError` if a reward does not return a number for each.
    """
    scores: dict[str, list[float]] = {}
    with sharing():
        for spec, reward in rewards.items():
            pictures = inputs[spec]
            with plugins.blamed("reward", spec):
                given = reward(pictures, prompts) if pictures else []
                values: Any = given.tolist() if hasattr(given, "tolist") else given
                if not isinstance(values, list | tuple) or not all(isinstance(one, SupportsFloat) for one in values):
                    raise plugins.contract_error("reward", spec, given)
                if len(values) != len(pictures):
                    wanted = plural(len(pictures), "picture")
                    raise UserError(f"--reward {spec}: gave {plural(len(values), 'reward')} for {wanted}")
                scores[spec] = [*map(float, values)]
    return scores
