"""Reads records and prompts from files and pipes. File names in the records become absolute; see `names`."""

import codecs
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from ..errors import UserError, os_reason
from ..records import Image, Judgement, Pair, Prompt, Rating, check, is_pair
from . import jsonlines, places
from .names import make_absolute
from .places import STDIN, descriptor, folder_of, is_stream

R = TypeVar("R", bound=Mapping[str, object])
Lines = Generator[tuple[str, bytes], None, None]
METADATA = "metadata.jsonl"
"""Name of the records that generate writes beside pictures."""


def read(source: str, kind: type[R], misfit: Callable[[R], str] = lambda _: "") -> Iterator[R]:
    """Return the records of a JSON Lines file, or of standard input for ``-``. The file is opened at once.

    Raises `UserError` with file and line at the first line that is not a valid record, or for which `misfit` returns a
    reason. All records before that line have been yielded.
    """
    return (record for _, record in located(source, kind, misfit))


def located(source: str, kind: type[R], misfit: Callable[[R], str] = lambda _: "") -> Iterator[tuple[str, R]]:
    """Like `read`, but each record comes with its place, ``FILE:LINE``. `source` may be a data set, FORMAT:PATH."""
    if found := places.data_set(source, is_read=True):
        return found.located(kind, misfit)
    lines = numbered_lines(source)
    return records_of(_no_prompts(lines) if kind is Image else lines, kind, folder_of(source), misfit)


def located_preferences(source: str) -> Iterator[tuple[str, Pair | Rating]]:
    """Like `located`, for a file of pairs, of ratings, or of both. A record with a chosen picture is a pair."""
    return _located_either(source, Rating, lambda _: True)


def located_comparisons(source: str) -> Iterator[tuple[str, Pair | Judgement]]:
    """Like `located`, for a file of pairs, of judgements, or of both. A record with a chosen picture is a pair."""
    return _located_either(source, Judgement, lambda record: "image_ids" in record)


def _located_either(source: str, other: Any, is_other: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """The records of a file of pairs, of another kind, or of both, each with its place. Anything else is a bad pair."""
    if found := places.data_set(source, is_read=True):
        yield from found.first_of([Pair, other])
        return
    with closing(numbered_lines(source)) as lines:
        for where, line in lines:
            record = jsonlines.parse(line, where)
            known = isinstance(record, dict) and not is_pair(cast(Any, record)) and is_other(record)
            kind: Any = other if known else Pair
            yield where, checked(record, kind, where, folder_of(source))


def records_of(lines: Lines, kind: type[R], base: str, misfit: Callable[[R], str]) -> Iterator[tuple[str, R]]:
    """Yield the record of each line with its place. File names in the records are relative to `base`."""
    with closing(lines):
        for where, line in lines:
            record = parse_record(line, kind, where, base)
            if reason := misfit(record):
                raise UserError(f"{where}: {reason}")
            yield where, record


def _no_prompts(lines: Lines) -> Lines:
    """The lines. Raises `UserError` if the first one is a prompt as plain text."""
    with closing(lines):
        for number, (where, line) in enumerate(lines):
            if number == 0 and _is_plain(line):
                raise UserError(
                    f"{where}: is plain text, not a record of a picture; generate draws pictures of prompts"
                )
            yield where, line


def _is_plain(line: bytes) -> bool:
    """Whether a first line is a prompt as plain text: words, and nothing that begins like JSON."""
    return re.match(rb"\s*[^\W\d_]+[\s,]+\w", line) is not None and not line.rstrip().endswith(b"}")


def read_prompts(source: str, misfit: Callable[[Prompt], str] = lambda _: "") -> Iterator[Prompt]:
    """Return prompts from JSON Lines, or from plain text with one prompt per line.

    A file whose name ends in ``.txt`` is plain text. A pipe is plain text unless its first line begins with a brace.
    Raises `UserError` if the plain text turns out to be JSON, CSV or TSV, whose lines are not prompts, and at the first
    prompt for which `misfit` returns a reason. A data set's prompts for which it does are reported and left out.
    """
    if found := places.data_set(source, is_read=True):
        return (prompt for _, prompt in found.located(Prompt, misfit))
    return _prompts(numbered_lines(source), source, misfit)


def _prompts(lines: Lines, source: str, misfit: Callable[[Prompt], str]) -> Iterator[Prompt]:
    plain = source.lower().endswith(".txt")
    with closing(lines):
        for number, (where, line) in enumerate(lines):
            if number == 0 and is_stream(source):
                plain = not line.lstrip().startswith(b"{")
            prompt = _plain(line, where, source, first=number == 0) if plain else _record_of(line, where, source)
            if reason := misfit(prompt):
                raise UserError(f"{where}: {reason}")
            yield prompt


def _plain(line: bytes, where: str, source: str, *, first: bool) -> Prompt:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise UserError(f"{where}: {jsonlines.NOT_UTF_8}") from None
    if reason := jsonlines.not_prompts(line, "FILE" if is_stream(source) else source, first=first):
        raise UserError(f"{where}: {reason}")
    return {"prompt": text.strip()}


def _record_of(line: bytes, where: str, source: str) -> Prompt:
    try:
        return parse_record(line, Prompt, where, folder_of(source))
    except UserError as error:
        if line.lstrip().startswith((b"{", b"[")) or source.endswith((".jsonl", ".json")):
            raise
        raise UserError(f"{error}; plain text is read from a .txt file or from a pipe") from None


def count(source: str) -> int | None:
    """The number of lines in a file, for a progress bar.

    None if there is no file, or for a stream, which cannot be read twice. For a data set, the number of its rows.
    """
    if found := places.data_set(source, is_read=True):
        return found.count()
    if is_stream(source) or not os.path.isfile(source):
        return None
    with open(source, "rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def numbered_lines(source: str, kind: Any = Judgement) -> Lines:
    """Yield every line that is not blank, with its place ``FILE:LINE``. The file is opened at once and read lazily.

    A data set, FORMAT:PATH, has no lines: its valid records of this kind become lines.
    """
    if found := places.data_set(source, is_read=True):
        return ((where, jsonlines.dump(record)) for where, record in found.located(kind, lambda _: ""))
    return _numbered(_opened(source), _name(source))


def _numbered(opened: BinaryIO, name: str) -> Lines:
    with opened as file:
        try:
            for number, line in enumerate(iter(lambda: file.readline(jsonlines.MAX_LINE_BYTES), b""), 1):
                text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if number == 1 and (reason := jsonlines.foreign_format(name, line)):
                    raise UserError(f"{name}: {reason}")
                if len(line) == jsonlines.MAX_LINE_BYTES:
                    most = jsonlines.MAX_LINE_BYTES >> 20
                    raise UserError(f"{name}:{number}: is longer than {most} MiB; is this a file of lines?")
                if text and not text.isspace():
                    yield f"{name}:{number}", text
        except OSError as error:
            raise UserError(f"{name}: {os_reason(error)}") from None


def _opened(source: str) -> BinaryIO:
    number = descriptor(source, STDIN)
    if number == STDIN and os.isatty(STDIN):
        raise UserError("no input: name a FILE, or pipe records into this command; see --help")
    try:
        return Path(source).open("rb") if number is None else os.fdopen(os.dup(number), "rb")
    except IsADirectoryError:
        inside = os.path.join(source, METADATA)
        name = f"name its file of records, {inside}" if os.path.isfile(inside) else "name a file of records"
        name = f"read its pictures as imagefolder:{source}" if _has_captions(source) else name
        raise UserError(f"{source}: is a folder; {name}") from None
    except OSError as error:
        raise UserError(f"{_name(source)}: {os_reason(error)}") from None


def _has_captions(folder: str) -> bool:
    """Whether a folder has a picture and a text file of the same name, which are a picture and its prompt."""
    try:
        names = {*map(str.lower, os.listdir(folder or "."))}
    except OSError:
        return False
    stems = (os.path.splitext(name)[0] for name in names if name.endswith((".png", ".jpg", ".jpeg", ".webp")))
    return any(f"{stem}.txt" in names for stem in stems)


def _name(source: str) -> str:
    return "stdin" if source == "-" else source


def parse_record(line: bytes, kind: type[R], where: str, base: str) -> R:
    """Return the record in one line. Raises `UserError`, which begins with `where`, if it is not a valid record."""
    return checked(jsonlines.parse(line, where), kind, where, base)


def checked(record: object, kind: type[R], where: str, base: str) -> R:
    """Return a record with absolute file names. Raises `UserError`, which begins with `where`, if it is not valid."""
    known = check(record, kind, where)
    make_absolute(known, base)
    return cast(R, known)
