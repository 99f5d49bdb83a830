"""Frozen weights that several processes divide among themselves: FSDP, fully sharded data parallel.

Zhao et al. 2023 (arXiv 2304.11277), in the form of torch's ``fully_shard``. A process has its own part of each weight.
It gets the other parts of a layer for the moment in which the layer computes. The numbers stay the same, up to
rounding. A LoRA is not sharded: it is small, and every process has the whole of it.

All processes must therefore compute the same layers in the same order.
"""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def shard(model: nn.Module, world_size: int, device: torch.device) -> None:
    """Divide all weights of `model` among the processes, and move this process's part to its `device`.

    `model` may be in the memory of the CPU: the device holds one layer more than this part at most. Layers that are
    added later, such as those of a LoRA, are not sharded.
    """
    mesh = init_device_mesh(device.type, (world_size,))
    # What diffusers names so are blocks that are computed as a whole, such as a transformer layer.
    blocks = {*(getattr(model, "_no_split_modules", None) or [])}
    for part in reversed([*model.modules()]):  # an outer block shards what its inner blocks leave
        if part is model or type(part).__name__ in blocks:
            fully_shard(part, mesh=mesh)


def size_of(weight: Tensor) -> int:
    """The number of bytes that a weight takes in this process."""
    return (weight.to_local() if isinstance(weight, DTensor) else weight).nbytes
