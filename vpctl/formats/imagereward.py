"""Rankings of ImageRewardDB: its JSON with generations and ranking, or its Parquet files: imagereward:PATH."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from ..contracts import DataRow, Format, RecordKind
from ..errors import RecordFailed, UserError, os_reason
from ..judging.preferences import PREFERENCE, scores_of_ranks
from ..sources import known_settings
from ..streams.whole import atomic_write
from ._json import items
from ._parquet import Parquet
from ._pictures import picture_id
from ._tables import plain
from ._votes import GIVES, LOST, WON, Vote, ranks, ranks_of, records, text, texts

ANNOTATOR = "human:imagereward"
KEPT = "imagereward"
"""Key of a judgement that keeps an item as it was: all but its prompt and its list of pictures, which are null."""
_KEYS = ("id", "prompt", "generations", "ranking")
RATINGS = {
    "overall_rating": "overall",
    "image_text_alignment_rating": "prompt-following",
    "fidelity_rating": "fidelity",
}
"""The ratings of each picture in the Parquet files, from 1 to 7, and the aspects that they are about."""
_HIGHEST = 7
PAIR = ("img_better", "img_worse")
"""Columns of 8k_pair."""


class ImageReward(Format):
    """Pictures of a prompt that people ranked. Rank 1 is the score 5, rank 2 is 4, and so on; ties stay ties."""

    gives = GIVES
    takes = ("judgement",)

    def __init__(self, argument: str) -> None:
        self._path, _ = known_settings(argument, {})

    def __call__(self, kind: RecordKind) -> Iterator[DataRow]:
        """A row is an item of the JSON, or the pictures of one prompt in the Parquet file."""
        is_parquet = os.path.isdir(self._path) or self._path.endswith(".parquet")
        return records(_of_parquet(Parquet(self._path), kind) if is_parquet else _of_json(self._path), kind)

    def write(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Write JSON with an item for each judgement. Items that were read from such a file are written as they were.

        The file names of other judgements are relative to the folder of the file, and their rankings follow the scores.
        """
        rows = 0
        folder = os.path.dirname(os.path.abspath(self._path))
        try:
            os.makedirs(folder, exist_ok=True)
            with atomic_write(self._path, shared=True) as part, open(part, "w", encoding="utf-8") as file:
                for record in records:
                    if record.get("refused") is not None or record.get("failed") is not None:
                        continue
                    item = json.dumps(_item(record, folder), ensure_ascii=False, indent=4).replace("\n", "\n    ")
                    file.write(f"{',' if rows else '['}\n    {item}")
                    rows += 1
                file.write("\n]" if rows else "[]")
        except OSError as error:
            raise UserError(f"{self._path}: {os_reason(error)}") from None
        return rows


def _of_json(path: str) -> Iterator[tuple[str, Vote | RecordFailed]]:
    for where, item in items(path):
        try:
            if isinstance(item, RecordFailed):
                raise item
            names = texts(item, "generations")
            own = item.get("id", "")
            if not isinstance(own, str | int) or isinstance(own, bool):
                raise RecordFailed("'id' must be text")
            kept = {key: None if key in ("prompt", "generations") else value for key, value in item.items()}
            yield (
                where,
                Vote(
                    text(item, "prompt"),
                    names,
                    names,
                    {PREFERENCE: scores_of_ranks(ranks(item, "ranking"))},
                    str(own),
                    ANNOTATOR,
                    {KEPT: kept},
                ),
            )
        except RecordFailed as fault:
            yield where, fault


def _item(judgement: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The item of a judgement."""
    kept = judgement.get(KEPT)
    if isinstance(kept, dict) and {*_KEYS} - {"id"} <= kept.keys():
        return kept | {"prompt": judgement["prompt"], "generations": judgement["image_ids"]}
    names = [os.path.relpath(name, folder) for name in judgement["file_names"]]
    return dict(
        zip(_KEYS, (judgement["prompt_id"], judgement["prompt"], names, ranks_of(judgement["scores"])), strict=True)
    )


def _of_parquet(file: Parquet, kind: RecordKind) -> Iterator[tuple[str, Vote | RecordFailed]]:
    """The votes in the Parquet files of any configuration of ImageRewardDB.

    In 8k_pair, a row is the better and the worse of two pictures. In 8k_group, a row is a prompt with lists of
    pictures and ranks. In 8k, a row is a picture, and the neighbouring rows of a prompt are one vote.
    """
    is_pair = {*PAIR} <= {*file.names}
    if missing := [name for name in ("prompt_id", "prompt", *(() if is_pair else ("rank",))) if name not in file.names]:
        raise UserError(f"ImageRewardDB has a column {missing[0]!r}; this has {', '.join(file.names)}")
    rows = file.rows(file.names, () if kind == "prompt" else (*PAIR, "image"))
    if is_pair or file.is_list("rank"):
        for where, row in rows:
            try:
                if isinstance(row, RecordFailed):
                    raise row
                yield where, _vote_of_pair(row, kind) if is_pair else _vote(_pictures(row), kind)
            except RecordFailed as fault:
                yield where, fault
        return
    for key, group in groupby(rows, lambda row: None if isinstance(row[1], RecordFailed) else row[1]["prompt_id"]):
        if key is None:
            yield from group
            continue
        good = [*group]
        try:
            yield good[0][0], _vote([row for _, row in good], kind)
        except RecordFailed as fault:
            yield good[0][0], fault


def _vote_of_pair(row: Mapping[str, Any], kind: RecordKind) -> Vote:
    if kind == "prompt":
        return _only_prompt(row)
    names = [row.get(name) for name in PAIR]
    if not all(isinstance(name, str) for name in names):
        raise RecordFailed(f"{' or '.join(PAIR)} has no bytes")
    files = [str(name) for name in names]
    ids = [*map(picture_id, files)]
    scores = {PREFERENCE: [WON, LOST]}
    prompt = _only_prompt(row)
    return Vote(prompt.prompt, ids, files, scores, prompt.prompt_id, ANNOTATOR, {"mode": "pair"})


def _pictures(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each picture in the lists of a row. Raises `RecordFailed` if the lists do not fit."""
    lists = {name: value for name, value in row.items() if isinstance(value, list)}
    numbers = {name: len(value) for name, value in lists.items()}
    if len({*numbers.values()}) != 1 or 0 in numbers.values():
        told = ", ".join(f"{number} of {name}" for name, number in numbers.items())
        raise RecordFailed(f"its lists must have the same length, at least 1; it has {told or 'none'}")
    shared = {name: value for name, value in row.items() if name not in lists}
    return [shared | dict(zip(lists, each, strict=True)) for each in zip(*lists.values(), strict=True)]


def _vote(rows: list[dict[str, Any]], kind: RecordKind) -> Vote:
    if kind == "prompt":
        return _only_prompt(rows[0])
    rows = [{name: plain(value, name) for name, value in row.items()} for row in rows]
    files = [row.get("image") or row.get("image_path") for row in rows]
    if not all(isinstance(name, str) for name in files):
        raise RecordFailed("a picture has neither bytes nor an image_path")
    names = [str(name) for name in files]
    ids = [picture_id(name) if row.get("image") else name for row, name in zip(rows, names, strict=True)]
    scores = {PREFERENCE: scores_of_ranks(ranks({"rank": [row["rank"] for row in rows]}, "rank"))}
    for column, aspect in RATINGS.items():
        found = [row.get(column) for row in rows]
        values = [value for value in found if isinstance(value, int | float) and 1 <= value <= _HIGHEST]
        if len(values) == len(rows):
            scores[aspect] = [1 + (value - 1) * 4 / (_HIGHEST - 1) for value in values]
    return Vote(text(rows[0], "prompt"), ids, names, scores, str(rows[0]["prompt_id"]), ANNOTATOR)


def _only_prompt(row: Mapping[str, Any]) -> Vote:
    found = {name: plain(row[name], name) for name in ("prompt_id", "prompt")}
    return Vote(text(found, "prompt"), [], [], {}, str(found["prompt_id"]))


def load(argument: str, *, device: str = "auto") -> ImageReward:
    """The rankings at a path."""
    return ImageReward(argument)
