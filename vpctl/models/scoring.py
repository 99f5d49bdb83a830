"""Pictures through rewards: each decoded once for all of them, the next batch while the rewards work on this one."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from queue import Queue
from typing import Any, NamedTuple, SupportsFloat, TypeVar

from PIL import Image

from .. import plugins
from ..errors import RecordFailed, UserError
from ..progress import plural

RewardFunction = Callable[[list[Image.Image], list[str]], Any]
"""A reward, or a function with the call of one."""
PIXELS = 1 << 25
"""A batch is full with so many pixels, which are 128 MiB when decoded: 32 pictures of 1024 × 1024."""
R = TypeVar("R", bound=Mapping[str, Any])
T = TypeVar("T")


class Scored(NamedTuple):
    """A record with its picture's reward by name, or with the reason why there is none."""

    record: Any
    scores: dict[str, float]
    failure: RecordFailed | None = None


def scored(
    records: Iterable[R],
    rewards: Mapping[str, RewardFunction],
    *,
    batch: int,
    open_picture: Callable[[str], Image.Image],
) -> Iterator[Scored]:
    """The records, which have a `prompt` and a `file_name`, in their order, with the scores of every reward."""
    decoded = ((record, _decoded(record["file_name"], open_picture)) for record in records)
    for loaded in ahead(batches(decoded, batch, lambda one: _pixels(one[1])), _is_full):
        rows = iter(_rows([(record, one) for record, one in loaded if isinstance(one, Image.Image)], rewards))
        told = [(record, one if isinstance(one, RecordFailed) else None) for record, one in loaded]
        loaded.clear()  # the pictures are no longer needed
        for record, failure in told:
            yield Scored(record, {}, failure) if failure else _checked(record, next(rows))


def _is_full(loaded: list[tuple[R, Image.Image | RecordFailed]]) -> bool:
    """Whether the pictures of a batch take all the memory that pictures may take."""
    return sum(_pixels(one) for _, one in loaded) >= PIXELS


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


def _decoded(path: str, open_picture: Callable[[str], Image.Image]) -> Image.Image | RecordFailed:
    try:
        return open_picture(path)
    except RecordFailed as failure:
        return failure


def _pixels(picture: Image.Image | RecordFailed) -> int:
    return 0 if isinstance(picture, RecordFailed) else picture.width * picture.height


def ahead(items: Iterator[T], is_large: Callable[[T], bool] = lambda _: False) -> Iterator[T]:
    """The items, the next one made by a thread while this one is used, or after it if this one is large.

    The thread dies with the process: a read from a silent pipe cannot hold up an interrupt.
    """
    made: Queue[list[T] | BaseException | None] = Queue()

    def make() -> None:
        end: BaseException | None = None
        try:
            for item in items:
                made.put([item])
                del item  # it would stay in memory while the next one is made
                made.join()
        except BaseException as error:
            end = error
        made.put(end)

    threading.Thread(target=make, daemon=True).start()
    while (item := made.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        large = is_large(item[0])
        if not large:
            made.task_done()
        yield item.pop()
        if large:
            made.task_done()


def _rows(loaded: list[tuple[R, Image.Image]], rewards: Mapping[str, RewardFunction]) -> list[dict[str, float]]:
    if not loaded:
        return []
    pictures = [picture for _, picture in loaded]
    prompts = [record["prompt"] for record, _ in loaded]
    columns = {name: rewarded(name, reward, pictures, prompts) for name, reward in rewards.items()}
    return [{name: column[index] for name, column in columns.items()} for index in range(len(loaded))]


def rewarded(spec: str, reward: RewardFunction, pictures: list[Image.Image], prompts: list[str]) -> list[float]:
    """What a reward gives the pictures. Raises `UserError` if that is not one number for each."""
    with plugins.blamed("reward", spec):
        given = reward(pictures, prompts)
        values = given.tolist() if hasattr(given, "tolist") else given
        if not isinstance(values, list | tuple) or not all(isinstance(one, SupportsFloat) for one in values):
            raise plugins.misfit("reward", spec, given)
        if len(values) != len(pictures):
            raise UserError(
                f"--reward {spec}: gave {plural(len(values), 'reward')} for {plural(len(pictures), 'picture')}"
            )
        return [*map(float, values)]


def _checked(record: R, scores: dict[str, float]) -> Scored:
    """What is not a number cannot be compared, and JSON cannot say it."""
    bad = [name for name, score in scores.items() if not math.isfinite(score)]
    failure = (
        RecordFailed(f"{record['file_name']}: {bad[0]} gave {scores[bad[0]]}, which is not a valid score")
        if bad
        else None
    )
    return Scored(record, {} if bad else scores, failure)
