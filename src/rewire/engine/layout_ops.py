"""Torch ops into the blocked layout and out of it.

A blocked activation is a contiguous float32 tensor (blocks, channels, height, width, 16): image n is lane n % 16 of
block n // 16. Lanes past the last image hold any finite number in a forward tensor and exactly 0 in every gradient;
each op of the layout keeps to that. Kernels are called only on tensors of the CPU; `library.load()` must give them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rewire.engine.library import kernels
from rewire.engine.op import Op

LANES = 16


def blocks_of(rows: int) -> int:
    """Returns how many blocks hold so many images.

    >>> blocks_of(33)
    3
    """
    return (rows + LANES - 1) // LANES


def threads(x: Tensor) -> int:
    """Returns how many threads to use: one for a small tensor, which it passes over before a second one is awake."""
    return torch.get_num_threads() if x.numel() > 32768 else 1


def _sizes(x: Tensor) -> tuple[int, ...]:
    """Returns rows, channels, height, width and the four strides of x, (rows, channels) or (rows, channels, h, w)."""
    if x.dim() == 2:
        return (*x.shape, 1, 1, *x.stride(), 1, 1)
    return (*x.shape, *x.stride())


def _block_cpu(x: Tensor) -> Tensor:
    y = _block_fake(x)
    kernels().rw_block(*_sizes(x), x.data_ptr(), y.data_ptr(), threads(y))
    return y


def _block_fake(x: Tensor) -> Tensor:
    rows, channels, height, width = x.shape if x.dim() == 4 else (*x.shape, 1, 1)
    return torch.empty((blocks_of(rows), channels, height, width, LANES), dtype=x.dtype, device=x.device)


def _unblock_cpu(x: Tensor, rows: int, channels_last: bool) -> Tensor:
    x = x.contiguous()
    y = _unblock_fake(x, rows, channels_last)
    kernels().rw_unblock(*_sizes(y), x.data_ptr(), y.data_ptr(), threads(x))
    return y


def _unblock_fake(x: Tensor, rows: int, channels_last: bool) -> Tensor:
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((rows, *x.shape[1:4]), dtype=x.dtype, device=x.device, memory_format=order)


_block = Op("block(Tensor x) -> Tensor", _block_cpu, _block_fake)
_unblock = Op("unblock(Tensor x, SymInt rows, bool channels_last) -> Tensor", _unblock_cpu, _unblock_fake)


def _block_setup(ctx: Any, inputs: Any, output: Tensor) -> None:
    (x,) = inputs
    ctx.shape = x.shape
    ctx.channels_last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _block_backward(ctx: Any, dy: Tensor) -> Tensor:
    return unblock(dy, ctx.shape[0], ctx.channels_last).reshape(ctx.shape)


def _unblock_backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
    return block(dy), None, None


_block.differentiable(_block_setup, _block_backward)
_unblock.differentiable(lambda ctx, inputs, output: None, _unblock_backward)


def block(x: Tensor) -> Tensor:
    """Returns x, (rows, channels) or (rows, channels, height, width) in any strides, in the layout; 0 in the tail."""
    y: Tensor = _block(x)
    return y


def unblock(x: Tensor, rows: int, channels_last: bool = False) -> Tensor:
    """Returns the first `rows` images of the blocked x, (rows, channels, height, width)."""
    y: Tensor = _unblock(x, rows, channels_last)
    return y
