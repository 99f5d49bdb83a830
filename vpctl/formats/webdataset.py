"""Tar shards of the webdataset library, with a .json or .txt beside each picture: webdataset:DIR."""

import glob
import os
import re
import tarfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from functools import cached_property
from typing import Any, BinaryIO, NamedTuple

from ..contracts import DataRow, Format, RecordKind
from ..errors import RecordFailed, UserError, os_reason
from ..sources import known_settings
from ..streams.jsonlines import MAX_LINE_BYTES, dump, parse
from ..streams.names import rename
from ..streams.whole import atomic_folder
from ._pictures import PictureStore, stored_name
from ._tables import check_own, is_file
from .imagefolder import CAPTIONS, MAX_CAPTION, PICTURES

SHARD_BYTES = 1_000_000_000
"""Maximum number of bytes of the files in a shard. A larger sample has a shard of its own."""
SHARD_SAMPLES = 10_000
"""Maximum number of samples in a shard."""
MAX_PICTURE = 1 << 28
"""Maximum number of bytes of a picture. The header of a tar file may promise any number."""
MAX_MEMBERS = 1_000
"""Maximum number of files in a sample."""
_SHARD = re.compile(r"shard-\d{6,}\.tar")
"""Matches the shards that vpctl writes."""
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
"""Matches the name of a file in a sample: the key, a dot, and the suffix. Other files belong to no sample."""
_STEMS = {"file_name": "", "chosen_file_name": "chosen.", "rejected_file_name": "rejected."}
"""By the key of a record: how the suffix of its picture begins. The pictures of all other keys are numbered."""
_OF_PROMPT = ("prompt_id", "source_prompt", "split")
"""Keys that a prompt keeps, beside its text."""
_CAPTION_KEYS = ("caption", "text")
"""Keys of a .json that hold the prompt, if it has none and no text file lies beside it."""
_DAMAGE = (tarfile.TarError, EOFError, IndexError, RecursionError, ValueError, OverflowError)
"""What tarfile raises for a damaged file."""


class WebDataset(Format):
    """Samples: neighbouring files in a shard whose names have the same key before their first dot."""

    takes = ("pair", "rating", "judgement", "image")
    copies_pictures = True

    def __init__(self, argument: str) -> None:
        self._path, _ = known_settings(argument, {})
        if self._path.startswith("pipe:") or "://" in self._path:
            raise UserError(f"webdataset:{self._path}: names no file on this machine; download the shards first")

    @property
    def gives(self) -> tuple[RecordKind, ...]:  # type: ignore[override]
        """What the first sample says that can be read."""
        return self._gives

    @cached_property
    def _gives(self) -> tuple[RecordKind, ...]:
        for path in self._shards:
            with closing(_samples(path)) as samples:
                for _, sample in samples:
                    try:
                        if isinstance(sample, RecordFailed):
                            continue
                        about = sample.about()
                    except RecordFailed:
                        continue
                    if "chosen_file_name" in about:
                        return ("pair", "prompt")
                    if {"aspect", "annotator", "file_names", "scores"} <= about.keys():
                        return ("judgement", "prompt")
                    return ("rating", "image", "prompt") if "label" in about else ("image", "prompt")
        return ("image", "prompt")

    @cached_property
    def _shards(self) -> list[str]:
        """The shards, in alphabetical order, or in that of the braces. Raises `UserError` if there are none."""
        if os.path.isdir(self._path):
            names = sorted(name for name in os.listdir(self._path) if name.endswith(".tar") and name[0] != ".")
            found = [os.path.join(self._path, name) for name in names]
            for path in found:
                check_own(path, self._path)
        elif os.path.exists(self._path):
            found = [self._path]
        elif "{" in self._path:
            found = _with_braces(self._path)
        elif glob.has_magic(self._path):
            found = sorted(glob.glob(self._path))
        else:
            found = [self._path]
        if not found:
            raise UserError(f"webdataset:{self._path}: there is no file that ends in .tar")
        return [is_file(path) for path in found]

    def __call__(self, kind: RecordKind) -> Iterator[DataRow]:
        """The record of each sample. Pictures become files beside their shard, once. A place is a shard and a key.

        A prompt that neighbouring samples share is one record.
        """
        before = ""
        for path in self._shards:
            store = PictureStore(f"{os.path.splitext(os.path.abspath(path))[0]}.pictures")
            shard = "" if path == self._path else f"{os.path.basename(path)}:"
            for key, sample in _samples(path):
                try:
                    if isinstance(sample, RecordFailed):
                        raise sample
                    record = sample.record(kind, store)
                    if kind == "prompt":
                        same, before = before, record.get("prompt_id") or record["prompt"]
                        if same == before:
                            continue
                    yield f"{shard}{key}", record
                except RecordFailed as fault:
                    yield f"{shard}{key}", fault

    def write(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Write a sample for each record: its pictures, and the record as .json, which names them.

        A picture is in each sample that names it, so that every sample can be used alone. Raises `UserError` for a
        file that is no picture.
        """
        self._check_target()
        try:
            with atomic_folder(self._path) as folder:
                rows = _write((_sample(f"{number:09}", record) for number, record in enumerate(records)), folder)
                if not rows:
                    raise UserError(f"webdataset:{self._path}: there are no records, so there is nothing to write")
        except OSError as error:
            raise UserError(f"{error.filename or self._path}: {os_reason(error)}") from None
        return rows

    def _check_target(self) -> None:
        """Raise `UserError` if there is something else at the PATH than older shards."""
        if self._path.endswith(".tar") or glob.has_magic(self._path) or "{" in self._path:
            raise UserError(f"webdataset:{self._path}: is written as a folder of shards; name a folder")
        if not os.path.lexists(self._path):
            return
        if os.path.islink(self._path) or not os.path.isdir(self._path):
            raise UserError(f"webdataset:{self._path}: is not a folder; name another path")
        others = sorted(name for name in os.listdir(self._path) if not _SHARD.fullmatch(name))
        if others:
            are = f"is a folder with other files, such as {others[0]}, which merge would remove"
            raise UserError(f"webdataset:{self._path}: {are}; name a new folder, or delete this one")


def _with_braces(pattern: str) -> list[str]:
    """The files that a pattern such as ``shard-{000000..000009}.tar`` names. Raises `UserError` if one is missing."""
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise _no_library() from None
    try:
        return [is_file(path) for path in braceexpand(pattern)]  # ends at the first of millions that is not there
    except ValueError:
        raise UserError(f"webdataset:{pattern}: a brace is not closed; write shard-{{000000..000009}}.tar") from None


def _no_library() -> UserError:
    return UserError("this needs the package webdataset: pip install 'vpctl[webdataset]'")


def _samples(path: str) -> Generator[tuple[str, "_Sample | RecordFailed"], None, None]:
    """Each sample of a shard with its key. Where the shard is damaged, it ends.

    The readers of the webdataset library are not used: they load a whole member whatever its size, leave out links
    without a word, end a damaged shard as if it were complete, run ``pipe:`` commands, and decode pickles.
    """
    key, files, fault = "", dict[str, tarfile.TarInfo](), ""
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            for member in _members(tar, file):
                found = None if member.isdir() else _NAME.fullmatch(member.name)
                if not found:
                    continue
                if found[1] != key:
                    if key:
                        yield _text(key), RecordFailed(fault) if fault else _Sample(tar, key, files)
                    key, files, fault = found[1], {}, ""
                suffix = found[2].lower()
                fault = fault or _fault(member, suffix, files)
                if not fault:
                    files[suffix] = member
            if key:
                yield _text(key), RecordFailed(fault) if fault else _Sample(tar, key, files)
    except OSError as error:
        raise UserError(f"{path}: {os_reason(error)}") from None
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        yield _text(key), RecordFailed(f"the shard is damaged here, or ends early: {reason}")


def _members(tar: Any, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """What is in an archive. Raises one of `_DAMAGE` where it is damaged."""
    before = -1
    while member := tar.next():
        tar.members.clear()  # they would fill the memory
        if tar.offset <= before:
            raise tarfile.ReadError("a size is negative")
        before = tar.offset
        yield member
    file.seek(tar.offset)  # tarfile also ends, without a word, at a header that it cannot read
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("the end of the archive is missing")


class _Sample(NamedTuple):
    """The files of a sample by suffix, in lower case. They are read from the archive when they are asked for."""

    tar: tarfile.TarFile
    key: str
    files: dict[str, tarfile.TarInfo]

    def read(self, suffix: str, most: int) -> bytes:
        """The content of a file. Raises `RecordFailed` if it has more than `most` bytes."""
        member = self.files[suffix]
        if member.size > most:
            raise RecordFailed(f"its .{suffix} has more than {most >> 20} MiB")
        try:
            file = self.tar.extractfile(member)
            return file.read() if file else b""
        except (*_DAMAGE, OSError) as error:
            raise RecordFailed(f"its .{suffix} cannot be read: {error}") from None

    def about(self) -> dict[str, Any]:
        """What the .json of a sample says; nothing if it has none. Raises `RecordFailed` if it is no object."""
        if "json" not in self.files:
            return {}
        try:
            value = parse(self.read("json", MAX_LINE_BYTES), "its .json")
        except UserError as error:
            raise RecordFailed(str(error)) from None
        if not isinstance(value, dict):
            raise RecordFailed("its .json is not a JSON object")
        return value

    def record(self, kind: RecordKind, store: PictureStore) -> dict[str, Any]:
        """The record of the sample. Raises `RecordFailed`."""
        about = self.about()
        prompt = self._prompt(about)
        if kind == "prompt":
            return {"prompt": prompt, **{name: about[name] for name in _OF_PROMPT if name in about}}
        stem = f"{self.key.rpartition('/')[2]}."
        pictures = {f"{stem}{suffix}": suffix for suffix in self.files if f".{suffix}".endswith(PICTURES)}

        def saved(name: str) -> str:
            """The path of a picture in the sample."""
            if name not in pictures:
                raise RecordFailed(f"has no picture {_text(name)}, which its .json names")
            return store.save(self.read(pictures[name], MAX_PICTURE))

        own = about.get("file_name")
        is_named = isinstance(own, str) and (own in pictures or (not pictures and "://" in own))
        if kind in ("image", "rating") and not is_named:
            found = [name for name, suffix in pictures.items() if "." not in suffix] or [*pictures]  # no x.mask.png
            if len(found) != 1:
                raise RecordFailed(f"has {len(found)} pictures, and not one" if found else "has no picture")
            return {**about, "prompt": prompt, "file_name": saved(found[0])}
        rename(about, saved)
        return {**about, "prompt": prompt}

    def _prompt(self, about: dict[str, Any]) -> Any:
        """The prompt. A key of the .json that it is found at, in place of `prompt`, is removed."""
        if about.get("prompt"):
            return about["prompt"]
        for suffix in CAPTIONS:
            if suffix[1:] in self.files:
                try:
                    text = self.read(suffix[1:], MAX_CAPTION).decode("utf-8-sig")
                except UnicodeDecodeError:
                    raise RecordFailed(f"its {suffix} is not UTF-8 text") from None
                if prompt := " ".join(text.split()):
                    return prompt
        for name in _CAPTION_KEYS:
            if isinstance(about.get(name), str) and about[name].strip():
                return about.pop(name)
        raise RecordFailed("has no prompt; it needs a .txt, or a .json with prompt or caption")


def _fault(member: tarfile.TarInfo, suffix: str, others: Mapping[str, tarfile.TarInfo]) -> str:
    """Why a file cannot be in a sample with these others; empty if it can."""
    name = _text(member.name)
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return f"the name {name} leads out of the shard"
    if not member.isreg():
        return f"{name} is not a regular file"
    if suffix in others:
        return f"has two files .{suffix}"
    return f"has more than {MAX_MEMBERS} files" if len(others) == MAX_MEMBERS else ""


def _text(name: str) -> str:
    """A name in a tar file as text: what is not UTF-8 is replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _sample(key: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """The files of a sample by suffix, as the library writes them. Raises `UserError` if a file is no picture."""
    files: dict[str, Any] = {}
    row: dict[str, Any] = {}
    for name, value in record.items():

        def placed(path: str, name: str = name) -> str:
            """The name of a picture in the shard."""
            with open(path, "rb") as file:
                content = file.read()
            try:
                ending = os.path.splitext(stored_name(content))[1][1:]
            except RecordFailed as fault:
                raise UserError(f"{path}: {fault}; leave its record out") from None
            suffix = f"{_STEMS.get(name, f'{len(files)}.')}{ending}"
            files[suffix] = content
            return f"{key}.{suffix}"

        one = {name: value}
        rename(one, placed)
        row |= one
    return {"__key__": key, **files, "json": dump(row)}


def _write(samples: Iterator[dict[str, Any]], folder: str) -> int:
    """Write samples to shards in a folder, and return their number. Begins a new shard where one is full."""
    try:
        from webdataset.writer import TarWriter
    except ImportError:
        raise _no_library() from None
    rows = shards = 0
    waiting = next(samples, None)
    while waiting:
        # given a name, the library would look for shell commands and addresses in it; without the time, the same
        # records give the same bytes
        name = os.path.join(folder, f"shard-{shards:06}.tar")
        with open(name, "xb") as file, TarWriter(file, encoder=False, mtime=0) as tar:
            inside = size = 0
            while waiting and (not inside or (inside < SHARD_SAMPLES and size + _size(waiting) <= SHARD_BYTES)):
                tar.write(waiting)
                inside, size = inside + 1, size + _size(waiting)
                waiting = next(samples, None)
        rows, shards = rows + inside, shards + 1
    return rows


def _size(sample: Mapping[str, Any]) -> int:
    return sum(len(content) for content in sample.values())


def load(argument: str, *, device: str = "auto") -> WebDataset:
    """The shards at a path."""
    return WebDataset(argument)
