"""Makes the files and folders of the table that cannot be written as text: ``{make = "backbone"}``."""

import fcntl
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import vpctl
from tests.hostile.folders import tensors

WEIGHTS = Path(vpctl.__file__).parent / "shapes" / "weights"


class Touch:
    """When it is unpickled, it creates the file that shows that foreign code ran."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, ("RAN", "w")


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"step": 1, "state": Touch()}))


def _torch_pickle(path: Path) -> None:
    import torch  # takes five seconds, and few cases need it

    torch.save({"step": 1, "state": Touch()}, path)


def _torch_tensors(path: Path) -> None:
    import torch

    torch.save({"step": 1, "weights": torch.zeros(3)}, path)


def _tensors(path: Path, *, shapes: dict[str, tuple[int, ...]]) -> None:
    tensors(path, shapes)


def _legacy_pickle(path: Path) -> None:
    import torch

    torch.save({"step": 1, "state": Touch()}, path, _use_new_zipfile_serialization=False)


def _backbone(path: Path) -> None:
    shutil.copytree(WEIGHTS / "backbone", path)


def _pipeline(path: Path) -> None:
    shutil.copytree(WEIGHTS / "small", path)


def _lora(path: Path, *, of: str = "unet.nothing", rank: int = 2, value: float = 0.0) -> None:
    import torch
    from safetensors.torch import save_file

    path.mkdir()
    weights = {
        f"{of}.lora_{part}.weight": torch.full(size, value) for part, size in (("A", (rank, 8)), ("B", (8, rank)))
    }
    save_file(weights, path / "pytorch_lora_weights.safetensors")


def _claims(path: Path, *, width: int, height: int, bits: int = 8, colour: int = 2) -> None:
    """A PNG that states this size, and holds one empty row."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(bytes(64))))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _nested(path: Path, *, depth: int, before: str = "", after: str = "") -> None:
    path.write_text(before + "[" * depth + "]" * depth + after)


_held: list[int] = []


def _locked(path: Path) -> None:
    """A file that is locked, as by another process, until `release`."""
    _held.append(os.open(path, os.O_CREAT | os.O_RDWR))
    fcntl.flock(_held[-1], fcntl.LOCK_EX)


def release() -> None:
    """Release all locked files."""
    while _held:
        os.close(_held.pop())


def _nothing(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


MAKERS: dict[str, Callable[..., None]] = {
    "backbone": _backbone,
    "claims": _claims,
    "fifo": lambda path: os.mkfifo(path),
    "folder": lambda path: path.mkdir(),
    "legacy-pickle": _legacy_pickle,
    "locked": _locked,
    "lora": _lora,
    "nested": _nested,
    "nothing": _nothing,
    "pickle": _pickle,
    "pipeline": _pipeline,
    "tensors": _tensors,
    "torch-pickle": _torch_pickle,
    "torch-tensors": _torch_tensors,
    "unreadable": lambda path: path.chmod(0),
}
"""Maps the name in a case to its maker. `claims` is a picture that claims a size; `tensors` is a safetensors file of
zeros; `nothing` removes a file."""
