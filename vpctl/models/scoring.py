"""Runs rewards over pictures. Each picture is decoded once for all rewards, one batch ahead of them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, SupportsFloat, TypeVar

from PIL import Image

from .. import plugins
from ..errors import RecordFailed, UserError
from ..flow import ahead
from ..progress import plural

RewardFunction = Callable[[list[Image.Image], list[str]], Any]
"""A reward, or a function with the same signature."""
MAX_BATCH_PIXELS = 1 << 25
"""Number of pixels at which a batch is full: 128 MiB when decoded, or 32 pictures of 1024 × 1024."""
R = TypeVar("R", bound=Mapping[str, Any])
T = TypeVar("T")


class Batch(NamedTuple, Generic[R]):
    """Records with their decoded pictures, and the errors of records that have no picture."""

    records: list[R]
    pictures: list[Image.Image]
    failures: list[RecordFailed]

    @property
    def prompts(self) -> list[str]:
        """The prompt of each picture."""
        return [record["prompt"] for record in self.records]

    @property
    def size(self) -> int:
        """How many records there were, with those that failed."""
        return len(self.records) + len(self.failures)

    def with_scores(
        self, columns: Mapping[str, list[float]]
    ) -> tuple[list[tuple[R, dict[str, float]]], list[RecordFailed]]:
        """Each record with its scores, as `compute_scores` returned them, and all failures.

        A score that is not finite is a failure: NaN and infinity cannot be compared, and JSON cannot hold them.
        """
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
    records: Iterable[R | RecordFailed], open_picture: Callable[[str], Image.Image], *, most: int
) -> Iterator[Batch[R]]:
    """The records with their pictures in batches of at most `most`, in order.

    A record has a `file_name`. An input that is a `RecordFailed` stays one. A thread reads the records and decodes the
    next batch while this one is used. The pictures of a batch are released when the next one is taken, because large
    pictures fill the memory.
    """
    decoded = (_decoded(record, open_picture) for record in records)
    for items in ahead(batches(decoded, most, _pixels), is_large=_fills_memory):
        failures = [one for one in items if isinstance(one, RecordFailed)]
        pairs = [one for one in items if not isinstance(one, RecordFailed)]
        batch = Batch([record for record, _ in pairs], [picture for _, picture in pairs], failures)
        del items, pairs
        yield batch
        batch.pictures.clear()


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


def _decoded(
    record: R | RecordFailed, open_picture: Callable[[str], Image.Image]
) -> tuple[R, Image.Image] | RecordFailed:
    if isinstance(record, RecordFailed):
        return record
    try:
        return record, open_picture(record["file_name"])
    except RecordFailed as failure:
        return failure


def _pixels(one: tuple[Any, Image.Image] | RecordFailed) -> int:
    return 0 if isinstance(one, RecordFailed) else one[1].width * one[1].height


def _fills_memory(batch: list[tuple[R, Image.Image] | RecordFailed]) -> bool:
    """Whether the pictures of a batch use all the memory that pictures may use."""
    return sum(map(_pixels, batch)) >= MAX_BATCH_PIXELS


def compute_scores(
    rewards: Mapping[str, RewardFunction], pictures: list[Image.Image], prompts: list[str]
) -> dict[str, list[float]]:
    """The scores of the pictures, by reward. Raises `UserError` if a reward does not return a number for each."""
    scores: dict[str, list[float]] = {}
    for spec, reward in rewards.items():
        with plugins.blamed("reward", spec):
            given = reward(pictures, prompts) if pictures else []
            values = given.tolist() if hasattr(given, "tolist") else given
            if not isinstance(values, list | tuple) or not all(isinstance(one, SupportsFloat) for one in values):
                raise plugins.contract_error("reward", spec, given)
            if len(values) != len(pictures):
                wanted = plural(len(pictures), "picture")
                raise UserError(f"--reward {spec}: gave {plural(len(values), 'reward')} for {wanted}")
            scores[spec] = [*map(float, values)]
    return scores
