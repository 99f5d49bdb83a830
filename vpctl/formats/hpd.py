"""Human Preference Dataset v2 and v3: test.json with ranks, train.json with pairs: hpd:PATH."""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..contracts import DataRow, Format, RecordKind
from ..errors import RecordFailed
from ..judging.preferences import BEST, PREFERENCE, scores_of_ranks
from ..sources import known_settings
from ._json import items
from ._votes import GIVES, LOST, WON, Vote, records, text, texts

ANNOTATOR = "human:hpd"
FOLDERS = ("", "test", "train", "images")
"""Where the pictures may lie, relative to the folder of the JSON."""
_KEPT = ("raw_annotations", "confidence", "choice_dist", "user_hash")
"""Keys of an item that a judgement keeps: who said what."""


class HPD(Format):
    """Pictures of a prompt that people ranked, or pairs with the picture that they preferred."""

    gives = GIVES

    def __init__(self, argument: str) -> None:
        self._path, _ = known_settings(argument, {})

    def __call__(self, kind: RecordKind) -> Iterator[DataRow]:
        """The items of the JSON."""
        return records(self._votes(), kind)

    def _votes(self) -> Iterator[tuple[str, Vote | RecordFailed]]:
        place = located(os.path.dirname(os.path.abspath(self._path)), FOLDERS)
        for where, item in items(self._path):
            try:
                yield where, item if isinstance(item, RecordFailed) else _vote(item, place)
            except RecordFailed as fault:
                yield where, fault


def located(base: str, folders: tuple[str, ...]) -> Callable[[str], str]:
    """A function that adds to the name of a picture the folder that it lies in, of those below `base`.

    Without such a file, names stay as they are. The last folder is looked at first.
    """
    order = [folder for folder in folders if os.path.isdir(os.path.join(base, folder))]

    def place(name: str) -> str:
        for folder in order if len(order) > 1 else ():
            if os.path.isfile(os.path.join(base, folder, name)):
                if folder != order[0]:
                    order.remove(folder)
                    order.insert(0, folder)
                return os.path.join(folder, name)
        return name

    return place


def _vote(item: Mapping[str, Any], place: Callable[[str], str]) -> Vote:
    """The vote in an item of test.json, of train.json or of HPDv3. Raises `RecordFailed`."""
    of_pictures: list[dict[str, Any]] = []
    if "path1" in item:
        names = [text(item, "path1"), text(item, "path2")]  # the first is the preferred one
        scores = [WON, LOST]
        of_pictures = [{"model": one} if isinstance(one := item.get(key), str) else {} for key in ("model1", "model2")]
    elif "rank" in item:
        names, scores = texts(item, "image_path"), scores_of_ranks(_ranks(item))
    else:
        names, scores = texts(item, "file_path" if "file_path" in item else "image_path"), _preferred(item)
    kept: dict[str, Any] = {"mode": "pair"} if len(names) == 2 and "rank" not in item else {}
    kept |= {key: item[key] for key in _KEPT if item.get(key) is not None}
    files = [place(name) for name in names]
    return Vote(text(item, "prompt"), names, files, {PREFERENCE: scores}, "", ANNOTATOR, kept, of_pictures=of_pictures)


def _ranks(item: Mapping[str, Any]) -> list[int]:
    """Ranks from 1, the best. In some files they begin with 0; means of several people are ranked anew."""
    value = item.get("rank")
    if not isinstance(value, list) or not all(isinstance(one, int | float) and 0 <= one < 1e6 for one in value):
        raise RecordFailed("'rank' must be a list of numbers")
    if all(float(one).is_integer() for one in value):
        first = 0 if 0 not in value else 1
        return [int(one) + first for one in value]
    order = sorted({*value})
    return [order.index(one) + 1 for one in value]


def _preferred(item: Mapping[str, Any]) -> list[float]:
    """Scores from 1 to 5 for the shares of people who preferred each picture."""
    value = item.get("human_preference")
    if not isinstance(value, list) or not all(isinstance(one, int | float) and 0 <= one <= 1 for one in value):
        raise RecordFailed("'human_preference' must be a list of numbers from 0 to 1")
    return [LOST + (BEST - LOST) * float(one) for one in value]


def load(argument: str, *, device: str = "auto") -> HPD:
    """The preferences of a file."""
    return HPD(argument)
