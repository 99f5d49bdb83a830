"""Pictures through rewards: each decoded once for all of them, the next batch while the rewards work on this one."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, SupportsFloat, TypeVar

from PIL import Image

from .. import plugins
from ..errors import RecordFailed, UserError
from ..flow import ahead
from ..progress import plural

RewardFunction = Callable[[list[Image.Image], list[str]], Any]
"""A reward, or a function with the call of one."""
PIXELS = 1 << 25
"""A batch is full with so many pixels, which are 128 MiB when decoded: 32 pictures of 1024 × 1024."""
R = TypeVar("R", bound=Mapping[str, Any])
T = TypeVar("T")


class Batch(NamedTuple, Generic[R]):
    """Records, a decoded picture for each, and why other records have none."""

    records: list[R]
    pictures: list[Image.Image]
    failures: list[RecordFailed]

    @property
    def prompts(self) -> list[str]:
        """The prompt of each picture."""
        return [record["prompt"] for record in self.records]

    def with_scores(self, columns: Mapping[str, list[float]]) -> Iterator[tuple[R, dict[str, float]]]:
        """Each record with its scores, of what `scored` returned. One that is not finite makes a failure instead.

        NaN and infinity cannot be compared, and JSON cannot hold them.
        """
        for place, record in enumerate(self.records):
            scores = {spec: column[place] for spec, column in columns.items()}
            if bad := [spec for spec, score in scores.items() if not math.isfinite(score)]:
                reason = f"{bad[0]} gave {scores[bad[0]]}, which is not a valid score"
                self.failures.append(RecordFailed(f"{record['file_name']}: {reason}"))
            else:
                yield record, scores


def loaded(
    records: Iterable[R | RecordFailed], open_picture: Callable[[str], Image.Image], *, most: int
) -> Iterator[Batch[R]]:
    """The records with their pictures, at most `most` in a batch, in their order.

    A record has a `file_name`. One that failed before stays a failure. A thread reads the records and decodes the next
    batch while this one is used. A batch loses its pictures when the next one is taken: large ones fill the memory.
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
    """The items, at most `most` in a batch, and fewer where their pictures, of so many `pixels`, are large."""
    batch: list[T] = []
    taken = 0
    for item in items:
        batch.append(item)
        taken += pixels(item)
        del item  # its picture would stay in memory while the next ones are decoded
        if len(batch) == most or taken >= PIXELS:
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
    """Whether the pictures of a batch take all the memory that pictures may take."""
    return sum(map(_pixels, batch)) >= PIXELS


def scored(
    rewards: Mapping[str, RewardFunction], pictures: list[Image.Image], prompts: list[str]
) -> dict[str, list[float]]:
    """The scores of the pictures, by reward. Raises `UserError` if a reward does not give one number for each."""
    scores: dict[str, list[float]] = {}
    for spec, reward in rewards.items():
        with plugins.blamed("reward", spec):
            given = reward(pictures, prompts) if pictures else []
            values = given.tolist() if hasattr(given, "tolist") else given
            if not isinstance(values, list | tuple) or not all(isinstance(one, SupportsFloat) for one in values):
                raise plugins.misfit("reward", spec, given)
            if len(values) != len(pictures):
                wanted = plural(len(pictures), "picture")
                raise UserError(f"--reward {spec}: gave {plural(len(values), 'reward')} for {wanted}")
            scores[spec] = [*map(float, values)]
    return scores
