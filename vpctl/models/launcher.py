"""What a launcher, such as ``accelerate launch``, says in environment variables to each process that it starts.

This module does not import torch, so that a wrong launch is refused at once.
"""

import os

from ..errors import UserError

FSDP = "ACCELERATE_USE_FSDP"
OFFLOAD = "FSDP_OFFLOAD_PARAMS"
OTHERS = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
"""Other ways to divide a model, which vpctl does not have."""


def processes() -> int:
    """The number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def shards() -> bool:
    """Whether the processes divide the frozen weights of a model among themselves.

    Raises `UserError` if the launcher asks for what vpctl does not have.
    """
    for name, kind in OTHERS.items():
        if _is_set(name):
            raise UserError(f"{name}: vpctl does not train with {kind}; launch it with --use_fsdp, or without either")
    if not _is_set(FSDP):
        return False
    if _is_set(OFFLOAD):
        raise UserError(f"{OFFLOAD}: vpctl keeps all weights on the GPUs; launch it without --fsdp_offload_params")
    return processes() > 1


def check_sharding(*, full: bool = False, algorithm: str = "") -> None:
    """Raise `UserError` if the launcher asks to shard weights, and a training with these options cannot do it."""
    if not shards():
        return
    if full:
        raise UserError("--full: FSDP shards the frozen weights, and here none is frozen; launch without --use_fsdp")
    if algorithm == "refl":
        raise UserError(
            "--algorithm refl: stops each picture at a random step, and FSDP needs processes that keep step; launch "
            "without --use_fsdp, or name --algorithm nft"
        )


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")
