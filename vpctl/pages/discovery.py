"""Finds in the folder of a run what a page can show: reports, scored pictures, judgements, training runs."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from ..errors import UserError, os_reason
from ..records import Image, Judgement, Pair, Rating, Report
from .meanings import family

RUN_FILES = ("run.json", "metrics.jsonl")
"""A folder with these files is a training run."""
MAX_FIRST_LINE = 1 << 20
"""Bytes of the first record of a file that are read to see what it holds."""
_OTHERS = {"chosen_file_name": "pairs", "label": "ratings", "prompt": "prompts"}
"""What a file holds that the page does not show, by a key of its records."""


class FolderContents(NamedTuple):
    """The files and folders below a folder by what they hold, each in the order of the names.

    `left_out` has what the page does not show, with the reason.
    """

    reports: list[str]
    pictures: list[str]
    judgements: list[str]
    runs: list[str]
    left_out: dict[str, str]


def found_in(folder: str) -> FolderContents:
    """What is below a folder. The contents decide, and not the names. Links and hidden files are not followed.

    Raises `UserError` if the folder cannot be read.
    """
    found = FolderContents([], [], [], [], {})
    by_kind = {"reports": found.reports, "pictures": found.pictures, "judgements": found.judgements}
    for parent, names in _folders(folder):
        run = {*RUN_FILES} <= {*names}
        if run:
            found.runs.append(parent)
        elif RUN_FILES[0] in names:
            found.left_out[parent] = "a training run that has logged nothing yet"
        for name in names:
            path = os.path.join(parent, name)
            if not name.endswith(".jsonl") or (run and name in RUN_FILES) or os.path.islink(path):
                continue
            kind = kind_of(path)
            if kind in by_kind:
                by_kind[kind].append(path)
            else:
                found.left_out[path] = kind
    return found


def _folders(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder below and including this one, with the names of its files; without hidden ones."""

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: {os_reason(error)}") from None

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield parent, sorted(name for name in names if not name.startswith("."))


def kind_of(path: str) -> str:
    """What a file of JSON Lines holds, by its first record: a field of `FolderContents`, or else words that say it.

    Raises `UserError` if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            line = next((line for line in iter(lambda: file.readline(MAX_FIRST_LINE), b"") if line.strip()), b"")
    except OSError as error:
        raise UserError(f"{path}: {os_reason(error)}") from None
    if not line:
        return "empty"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return "not JSON Lines"
    keys = record.keys() if isinstance(record, dict) else set[str]()
    if Report.__required_keys__ <= keys:
        return "reports"
    if Judgement.__required_keys__ <= keys:
        return "judgements"
    if Image.__required_keys__ <= keys and not {*Rating.__required_keys__} <= keys:
        return "pictures" if isinstance(record.get("scores"), dict) else "pictures without scores"
    if not Pair.__required_keys__ <= keys and "chosen_file_name" in keys:
        return "not records of vpctl"
    return next((kind for key, kind in _OTHERS.items() if key in keys), "not records of vpctl")


def resolved(name: str, files: Sequence[str]) -> str:
    """The one of `files` that a report means by the name of a file, which may be relative to another folder.

    It is the one whose path has most last parts in common with the name: all parts of the name, or two. If that is none
    or several, it is the name itself.
    """
    parts = Path(os.path.normpath(name)).parts
    shared = {file: _shared(parts, Path(os.path.abspath(file)).parts) for file in files}
    most = max(shared.values(), default=0)
    best = [file for file, number in shared.items() if number == most]
    return best[0] if len(best) == 1 and (most >= 2 or most == len(parts)) else name


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """The number of last parts that two paths have in common."""
    number = 0
    for mine, theirs in zip(reversed(one), reversed(other), strict=False):
        if mine != theirs:
            break
        number += 1
    return number


def with_files(report: Report, files: Sequence[str]) -> Report:
    """The report of a comparison, or of pictures, with the files of pictures that it means."""
    if family(report["metric"]) not in ("win_rate", "elo", "images"):
        return report
    named = {key: resolved(str(value), files) for key, value in report.items() if key in ("name", "baseline")}
    return cast(Report, {**report, **named})
