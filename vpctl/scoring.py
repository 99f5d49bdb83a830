"""Pictures through rewards: each decoded once for all of them, the next batch while the rewards work on this one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from .errors import RecordFailed

Reward = Callable[[list[Image.Image], list[str]], Any]
T = TypeVar("T", bound=Mapping[str, Any])


class Scored(NamedTuple):
    """A record with its picture's reward by name, or with the reason why there is none."""

    record: Any
    scores: dict[str, float]
    failure: RecordFailed | None = None


def scored(
    records: Iterable[T], rewards: Mapping[str, Reward], *, batch: int, open_picture: Callable[[str], Image.Image]
) -> Iterator[Scored]:
    """The records, which have a `prompt` and a `file_name`, in their order, with the scores of every reward."""
    source = iter(records)

    def decoded() -> list[tuple[T, Image.Image | RecordFailed]]:
        loaded: list[tuple[T, Image.Image | RecordFailed]] = []
        for record in islice(source, batch):
            try:
                loaded.append((record, open_picture(record["file_name"])))
            except RecordFailed as failure:
                loaded.append((record, failure))
        return loaded

    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(decoded)
        while loaded := coming.result():
            coming = reader.submit(decoded)
            good = [(record, picture) for record, picture in loaded if isinstance(picture, Image.Image)]
            rows = iter(_rows(good, rewards))
            for record, picture in loaded:
                if isinstance(picture, RecordFailed):
                    yield Scored(record, {}, picture)
                else:
                    yield Scored(record, next(rows))


def _rows(loaded: list[tuple[T, Image.Image]], rewards: Mapping[str, Reward]) -> list[dict[str, float]]:
    if not loaded:
        return []
    pictures = [picture for _, picture in loaded]
    prompts = [record["prompt"] for record, _ in loaded]
    columns = {name: reward(pictures, prompts).tolist() for name, reward in rewards.items()}
    return [{name: column[index] for name, column in columns.items()} for index in range(len(loaded))]
