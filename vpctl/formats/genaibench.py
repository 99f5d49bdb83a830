"""GenAI-Bench of TIGER-Lab: Parquet files of its image_generation, with a vote between two models: genaibench:PATH."""

from collections.abc import Iterator
from typing import Any

from ..contracts import DataRow, Format, RecordKind
from ..errors import RecordFailed, UserError
from ..judging.preferences import PREFERENCE
from ..sources import known_settings
from ._parquet import Parquet
from ._pictures import picture_id
from ._tables import plain
from ._votes import GIVES, LOST, TIED, WON, Vote, records, text

ANNOTATOR = "human:genaibench"
SIDES = ("left", "right")
SCORES = {
    "leftvote": (WON, LOST),
    "rightvote": (LOST, WON),
    "tievote": (TIED, TIED),
    "bothbad_vote": (LOST, LOST),
}
"""The scores of the left and the right picture for each vote."""


class GenAIBench(Format):
    """Two pictures of a prompt, and which one a visitor of the arena preferred."""

    gives = GIVES

    def __init__(self, argument: str) -> None:
        self._path, _ = known_settings(argument, {})

    def __call__(self, kind: RecordKind) -> Iterator[DataRow]:
        """The rows of one file, or of all files in a folder."""
        file = Parquet(self._path)
        wanted = ("prompt", "vote_type", "left_image", "right_image")
        if missing := [name for name in wanted if name not in file.names]:
            raise UserError(f"{self._path}: GenAI-Bench has a column {missing[0]!r}; this has {', '.join(file.names)}")
        return records(_votes(file, kind), kind)

    def count(self) -> int:
        """The number of rows, which the files state."""
        return Parquet(self._path).count()


def _votes(file: Parquet, kind: RecordKind) -> Iterator[tuple[str, Vote | RecordFailed]]:
    for where, row in file.rows(file.names, ["left_image", "right_image"] if kind != "prompt" else []):
        try:
            if isinstance(row, RecordFailed):
                raise row
            yield where, _vote({name: plain(value, name) for name, value in row.items()}, kind)
        except RecordFailed as fault:
            yield where, fault


def _vote(row: dict[str, Any], kind: RecordKind) -> Vote:
    prompt = text(row, "prompt")
    if kind == "prompt":
        return Vote(prompt, [], [], {})
    names = [text(row, f"{side}_image") for side in SIDES]
    vote = row.get("vote_type")
    if vote not in SCORES:
        raise RecordFailed(f"vote_type must be one of {', '.join(SCORES)}")
    models = [{"model": one} if isinstance(one := row.get(f"{side}_model"), str) else {} for side in SIDES]
    kept = {key: row[key] for key in ("vote_type", "left_model", "right_model") if row.get(key) is not None}
    ids = [picture_id(name) for name in names]
    return Vote(
        prompt, ids, names, {PREFERENCE: SCORES[vote]}, "", ANNOTATOR, {"mode": "pair", **kept}, of_pictures=models
    )


def load(argument: str, *, device: str = "auto") -> GenAIBench:
    """The votes of a Parquet file, or of a folder of them."""
    return GenAIBench(argument)
