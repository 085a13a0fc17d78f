"""The only place of the sparsity code that knows of sharded tensors (DTensor) and collectives."""

from __future__ import annotations

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Returns whether a tensor is a DTensor, as under FSDP2 or tensor parallelism."""
    return hasattr(tensor, "device_mesh")


def distributed_processes() -> int:
    """Returns how many processes train together, 1 outside of torch.distributed."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
