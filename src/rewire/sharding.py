"""The only place that knows of sharded tensors (DTensor) and collectives."""

from __future__ import annotations

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Returns whether a tensor is a DTensor, as under FSDP2 or tensor parallelism."""
    return hasattr(tensor, "device_mesh")
