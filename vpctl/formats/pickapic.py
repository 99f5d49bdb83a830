"""Pick-a-Pic v1 and v2: Parquet files with two pictures in a row, and which one a user liked: pickapic:PATH."""

from collections.abc import Iterator
from typing import Any

from ..contracts import DataRow, Format, RecordKind
from ..errors import RecordFailed, UserError
from ..judging.preferences import BEST, PREFERENCE
from ..sources import known_settings
from ._parquet import Parquet
from ._pictures import picture_id
from ._tables import plain
from ._votes import GIVES, LOST, Vote, records, text

ANNOTATOR = "human:pickapic"
_KEPT = ("ranking_id", "user_id", "created_at", "num_example_per_prompt")
"""Columns that a judgement keeps."""


class PickAPic(Format):
    """Two pictures of a caption. The label 1 is the score 5, 0 is 1, and 0.5 for both, a tie, is 3."""

    gives = GIVES

    def __init__(self, argument: str) -> None:
        self._path, _ = known_settings(argument, {})

    def __call__(self, kind: RecordKind) -> Iterator[DataRow]:
        """The rows of one file, or of all files in a folder."""
        file = Parquet(self._path)
        if missing := [name for name in ("caption", "label_0", "label_1") if name not in file.names]:
            raise UserError(f"{self._path}: Pick-a-Pic has a column {missing[0]!r}; this has {', '.join(file.names)}")
        return records(_votes(file, kind), kind)

    def count(self) -> int:
        """The number of rows, which the files state."""
        return Parquet(self._path).count()


def _votes(file: Parquet, kind: RecordKind) -> Iterator[tuple[str, Vote | RecordFailed]]:
    for where, row in file.rows(file.names, ["jpg_0", "jpg_1"] if kind != "prompt" else []):
        try:
            if isinstance(row, RecordFailed):
                raise row
            if kind == "judgement" and row.get("has_label") is False:  # a user saw the pictures and did not choose
                continue
            yield where, _vote({name: plain(value, name) for name, value in row.items()}, kind)
        except RecordFailed as fault:
            yield where, fault


def _vote(row: dict[str, Any], kind: RecordKind) -> Vote:
    prompt = text(row, "caption")
    if kind == "prompt":
        return Vote(prompt, [], [], {})
    ids, names = [], []
    for number in (0, 1):
        uid, saved, url = (row.get(key.format(number)) for key in ("image_{}_uid", "jpg_{}", "image_{}_url"))
        name = saved or url
        if not isinstance(name, str):
            raise RecordFailed(f"has neither jpg_{number} nor image_{number}_url")
        names.append(name)
        ids.append(uid if isinstance(uid, str) and uid else picture_id(name) if saved else name)
    scores = {PREFERENCE: [_score(row.get(f"label_{number}")) for number in (0, 1)]} if kind == "judgement" else {}
    models = [{"model": one} if isinstance(one := row.get(f"model_{number}"), str) else {} for number in (0, 1)]
    kept = {key: row[key] for key in _KEPT if row.get(key) is not None}
    return Vote(prompt, ids, names, scores, "", ANNOTATOR, {"mode": "pair", **kept}, of_pictures=models)


def _score(label: object) -> float:
    if not isinstance(label, int | float) or label not in (0, 0.5, 1):
        raise RecordFailed("label_0 and label_1 must be 0, 0.5 or 1")
    return LOST + (BEST - LOST) * label


def load(argument: str, *, device: str = "auto") -> PickAPic:
    """The votes of a Parquet file, or of a folder of them."""
    return PickAPic(argument)
