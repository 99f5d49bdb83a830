"""What a launcher, such as ``accelerate launch``, says in environment variables to each process that it starts.

This module does not import torch, so that a wrong launch is refused at once.
"""

import os
from importlib.util import find_spec

from ..errors import UserError

FSDP = "ACCELERATE_USE_FSDP"
OFFLOAD = "FSDP_OFFLOAD_PARAMS"
DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
STAGE, STAGES, USUAL_STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE", ("0", "1", "2"), "2"
CONFIG_FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
OFFLOADS = {
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "--offload_optimizer_device none",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "--offload_param_device none",
}
MEGATRON = "ACCELERATE_USE_MEGATRON_LM"
EVEN = ("dpo", "kto", "ddpo", "grpo")
"""Algorithms whose processes compute equally many gradients in an optimizer step. With others, stage 2 would hang."""


def asks_for(name: str) -> bool:
    """Whether the launcher has set the variable with this name, such as `FSDP`, to true."""
    return os.environ.get(name, "").lower() in ("1", "true", "yes")


def processes() -> int:
    """The number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def shards() -> bool:
    """Whether the processes divide the frozen weights of a model among themselves.

    Raises `UserError` if the launcher asks for a division that vpctl does not have.
    """
    if asks_for(MEGATRON):
        raise UserError(f"{MEGATRON}: vpctl does not train with Megatron-LM; launch it without")
    if not asks_for(FSDP):
        return False
    if asks_for(OFFLOAD):
        raise UserError(f"{OFFLOAD}: vpctl keeps all weights on the GPUs; launch it without --fsdp_offload_params")
    return processes() > 1


def zero_stage() -> int:
    """The stage of ZeRO, 1 or 2, in which DeepSpeed divides the state of the optimizer among the processes; 0 if none.

    Raises `UserError` if the launcher asks for what vpctl does not have, or if DeepSpeed is not installed.
    """
    if not asks_for(DEEPSPEED):
        return 0
    if asks_for(FSDP):
        raise UserError(f"{DEEPSPEED}: cannot be used together with {FSDP}; launch it with one of them")
    if _has(CONFIG_FILE):
        raise UserError(
            f"{CONFIG_FILE}: vpctl sets all but the stage of ZeRO itself; launch it with --zero_stage 1 or 2 in place "
            "of --deepspeed_config_file"
        )
    if offloads := [way_out for name, way_out in OFFLOADS.items() if _has(name)]:
        raise UserError(f"{DEEPSPEED}: vpctl keeps all that it trains on the GPUs; launch it with {offloads[0]}")
    stage = os.environ.get(STAGE, USUAL_STAGE)
    if stage not in STAGES:
        raise UserError(
            f"{STAGE} {stage}: vpctl divides weights with FSDP; launch it with --use_fsdp, or with --zero_stage 1 or 2"
        )
    if processes() == 1 or stage == "0":
        return 0
    if find_spec("deepspeed") is None:
        raise UserError(f"{DEEPSPEED}: needs the package deepspeed: pip install 'vpctl[deepspeed]'")
    return int(stage)


def check_sharding(*, full: bool = False, algorithm: str = "", optimizer: str = "adamw", dtype: str = "") -> None:
    """Raise `UserError` if the launcher asks to divide what a training with these options cannot divide."""
    if stage := zero_stage():
        if optimizer != "adamw":
            raise UserError(f"--optimizer {optimizer}: DeepSpeed divides the moments of adamw; leave the option out")
        if dtype == "float16":
            raise UserError("--dtype float16: cannot be used with DeepSpeed; name --dtype bfloat16 or float32")
        if stage > 1 and algorithm not in EVEN:
            raise UserError(
                f"--algorithm {algorithm}: the processes compute different numbers of gradients, and stage {stage} of "
                "ZeRO needs equal ones; launch it with --zero_stage 1"
            )
    if not shards():
        return
    if full:
        raise UserError("--full: FSDP shards the frozen weights, and here none is frozen; launch without --use_fsdp")
    if algorithm == "refl":
        raise UserError(
            "--algorithm refl: stops each picture at a random step, and FSDP needs processes that keep step; launch "
            "without --use_fsdp, or name --algorithm nft"
        )


def _has(name: str) -> bool:
    return os.environ.get(name, "none") not in ("", "none")
