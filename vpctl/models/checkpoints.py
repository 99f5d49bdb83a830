"""Finds and inspects checkpoints: single files with the weights of a scorer, as its authors published them.

A checkpoint is a safetensors file or a file of ``torch.save``. The latter is a pickle, which can run code when it is
opened. So it is only opened with ``weights_only=True``, and only if it names nothing but tensors: this is checked here,
without torch and without opening the pickle.
"""

import os
import pickletools
import re
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import UserError, os_reason
from . import sources
from .folder import PICKLES, Folder, UnusableFolder, tensor_shapes

_LARGEST_PICKLE = 64 << 20
"""Maximum size in bytes of the pickle inside a checkpoint. It holds the names and shapes of tensors, not their data."""
_LEGACY_PICKLES = 5
"""Before version 1.6, torch wrote five pickles, one after the other, and then the tensors."""
_LFS_POINTER = b"version https://git-lfs"
_TENSORS_ONLY = re.compile(
    r"collections OrderedDict"
    r"|torch (Size|device|\w+Storage|(b?float|int|uint)\d+|bool)"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.storage (Typed|Untyped)Storage|torch\.\w+ \w+Storage"
    r"|torch\.nn\.parameter Parameter"
)
"""What the pickle of a state dict names: dictionaries and the parts of tensors."""


class PublishedCheckpoint(NamedTuple):
    """A checkpoint that authors published: a file of a model on the hub."""

    hub_id: str
    file: str

    def check(self, argument: str, *, option: str) -> None:
        """Raise `UserError` if the checkpoint cannot be used. Nothing large is fetched.

        `argument` is the path of the file, the path of the folder with the file, or empty for the published one.
        `option` is the text before it on the command line, such as ``--reward imagereward:``.
        """
        if argument:
            self._inspected(argument, f"{option}{argument}")
        else:
            sources.check_file(self.hub_id, self.file, option=option)

    def fetch(self, argument: str, *, option: str) -> Path:
        """The inspected file. The published one is fetched into the cache of the hub."""
        if argument:
            return self._inspected(argument, f"{option}{argument}")
        return self._inspected(sources.fetch_file(self.hub_id, self.file, option=option), f"{option}{self.hub_id}")

    def _inspected(self, source: str | Path, where: str) -> Path:
        path = self._found(Path(source), where)
        try:
            if path.suffix == ".safetensors":
                tensor_shapes(path, path.name)
            else:
                _check_pickle(path)
        except UnusableFolder as error:
            named = Path(source).name == path.name  # `where` ends with the name of the file
            raise UserError(f"{where}: {str(error).removeprefix(f'{path.name}: ') if named else error}") from None
        except OSError as error:
            raise UserError(f"{where}: cannot be read: {os_reason(error)}") from None
        return path

    def _found(self, source: Path, where: str) -> Path:
        """The file of a source: the source itself, or in a folder the one with the published name or the only one."""
        if source.is_file():
            return source
        if not source.is_dir():
            what = "is not a regular file" if source.exists() else "there is no such file"
            raise UserError(f"{where}: {what}; name the checkpoint, such as {self.file}")
        named = source / self.file
        if named.is_file():
            return named
        if holds := Folder(source).what_else():
            raise UserError(f"{where}: is not a checkpoint{holds}")
        files = sorted(one for one in source.iterdir() if one.suffix in (".safetensors", *PICKLES))
        if len(files) != 1:
            what = f"are {len(files)} checkpoints" if files else "is no checkpoint"
            raise UserError(f"{where}: there {what} in it; name the file, such as {os.path.join(source, self.file)}")
        return files[0]


def _check_pickle(path: Path) -> None:
    """Raise `UnusableFolder` if a file is not from ``torch.save``, or if opening it could run code."""
    with path.open("rb") as file:
        start = file.read(2)
        file.seek(0)
        if start == b"PK":
            named = {*_named_in_archive(file, path.name)}
        elif start[:1] == b"\x80":
            named = {*_named_in_legacy(file, path.name)}
        elif file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise UnusableFolder(f"{path.name}: is a pointer of Git LFS in place of the weights; run git lfs pull")
        else:
            raise UnusableFolder(f"{path.name}: is not a checkpoint: it is neither from torch.save nor in safetensors")
    foreign = sorted(one for one in named if not _TENSORS_ONLY.fullmatch(one))
    if foreign:
        raise UnusableFolder(
            f"{path.name}: is a pickle with more than tensors in it ({foreign[0].replace(' ', '.')}), which could run "
            "code and is not opened; name a copy in safetensors"
        )


def _named_in_archive(file: BinaryIO, name: str) -> Iterator[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            pickles = [one for one in archive.infolist() if one.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > _LARGEST_PICKLE:
                raise UnusableFolder(f"{name}: is not a checkpoint of torch.save")
            data = archive.read(pickles[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError):  # damaged, unknown method, encrypted, cut
        raise UnusableFolder(f"{name}: is cut off or damaged; copy it again") from None
    try:
        yield from _named(data)
    except ValueError:
        raise UnusableFolder(f"{name}: is damaged; copy it again") from None


def _named_in_legacy(file: BinaryIO, name: str) -> Iterator[str]:
    pickles = BytesIO(file.read(_LARGEST_PICKLE))  # the tensors after them are not read
    try:
        for _ in range(_LEGACY_PICKLES):
            yield from _named(pickles)
    except ValueError:
        raise UnusableFolder(f"{name}: is damaged, or not a checkpoint of torch.save") from None


def _named(data: "bytes | BinaryIO") -> Iterator[str]:
    """Module and name of everything that a pickle would import, read without opening it.

    A pickle that means harm can hide a name from this. `weights_only=True` refuses it then.
    """
    recent: list[str] = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif opcode.name == "STACK_GLOBAL":
            yield " ".join(recent[-2:])
        elif isinstance(argument, str):
            recent.append(argument)
