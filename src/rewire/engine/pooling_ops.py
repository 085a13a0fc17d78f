"""Torch ops that pool blocked activations: maximum and average of windows, at any kernel, stride and padding."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rewire.engine.layout_ops import LANES, threads
from rewire.engine.library import kernels
from rewire.engine.op import Op

Pair = tuple[int, int]


def pooled(side: int, kernel: int, stride: int, padding: int) -> int:
    """Returns how many windows lie on a side, rounded down.

    >>> pooled(32, 3, 2, 1)
    16
    """
    return (side + 2 * padding - kernel) // stride + 1


def _window(x: Tensor, window: Sequence[int]) -> Any:
    """Returns what the kernels want to know: planes, height, width, and kernel, stride and padding."""
    blocks, channels, height, width, _ = x.shape
    return (ctypes.c_int64 * 9)(blocks * channels, height, width, *window)


def _empty(x: Tensor, window: Sequence[int]) -> Tensor:
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w = window
    high, wide = pooled(x.shape[2], kernel_h, stride_h, pad_h), pooled(x.shape[3], kernel_w, stride_w, pad_w)
    return x.new_empty((x.shape[0], x.shape[1], high, wide, LANES))


def _maximum_cpu(x: Tensor, window: Sequence[int], indices: bool) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    y, index = _maximum_fake(x, window, indices)
    where = index.data_ptr() if indices else None
    kernels().rw_max_pool(_window(x, window), x.data_ptr(), y.data_ptr(), where, threads(x))
    return y, index


def _maximum_fake(x: Tensor, window: Sequence[int], indices: bool) -> tuple[Tensor, Tensor]:
    y = _empty(x, window)
    return y, torch.empty(y.shape if indices else (0,), dtype=torch.uint8, device=x.device)


def _maximum_backward_cpu(dy: Tensor, index: Tensor, height: int, width: int, window: Sequence[int]) -> Tensor:
    dy, index = dy.contiguous(), index.contiguous()
    dx = _input_fake(dy, height, width)
    kernels().rw_max_pool_backward(_window(dx, window), dy.data_ptr(), index.data_ptr(), dx.data_ptr(), threads(dx))
    return dx


def _average_cpu(x: Tensor, window: Sequence[int], include_padding: bool) -> Tensor:
    x, y = x.contiguous(), _empty(x, window)
    kernels().rw_average_pool(_window(x, window), x.data_ptr(), include_padding, y.data_ptr(), threads(x))
    return y


def _average_backward_cpu(dy: Tensor, height: int, width: int, window: Sequence[int], include_padding: bool) -> Tensor:
    dy = dy.contiguous()
    dx = _input_fake(dy, height, width)
    kernels().rw_average_pool_backward(_window(dx, window), dy.data_ptr(), include_padding, dx.data_ptr(), threads(dx))
    return dx


def _input_fake(dy: Tensor, height: int, width: int) -> Tensor:
    return dy.new_empty((dy.shape[0], dy.shape[1], height, width, LANES))


_maximum = Op("max_pool(Tensor x, int[6] window, bool indices) -> (Tensor, Tensor)", _maximum_cpu, _maximum_fake)
_maximum_backward = Op(
    "max_pool_backward(Tensor dy, Tensor index, SymInt height, SymInt width, int[6] window) -> Tensor",
    _maximum_backward_cpu,
    lambda dy, index, height, width, window: _input_fake(dy, height, width),
)
_average = Op(
    "average_pool(Tensor x, int[6] window, bool include_padding) -> Tensor",
    _average_cpu,
    lambda x, window, include_padding: _empty(x, window),
)
_average_backward = Op(
    "average_pool_backward(Tensor dy, SymInt height, SymInt width, int[6] window, bool include_padding) -> Tensor",
    _average_backward_cpu,
    lambda dy, height, width, window, include_padding: _input_fake(dy, height, width),
)


def _maximum_setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, ctx.window, _ = inputs
    ctx.side = x.shape[2:4]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


@once_differentiable
def _maximum_gradient(ctx: Any, dy: Tensor | None, _: None) -> tuple[Tensor | None, None, None]:
    (index,) = ctx.saved_tensors
    return None if dy is None else _maximum_backward(dy, index, *ctx.side, ctx.window), None, None


def _average_setup(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, ctx.window, ctx.include_padding = inputs
    ctx.side = x.shape[2:4]


@once_differentiable
def _average_gradient(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
    return _average_backward(dy, *ctx.side, ctx.window, ctx.include_padding), None, None


_maximum.differentiable(_maximum_setup, _maximum_gradient)
_average.differentiable(_average_setup, _average_gradient)


def max_pool(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """Returns the largest element of each window of the blocked x; of equal ones the first gets the gradient.

    kernel: at most 256 places, as the gradient's way is kept in a byte.
    """
    indices = x.requires_grad and torch.is_grad_enabled()
    y: Tensor = _maximum(x, (*kernel, *stride, *padding), indices)[0]
    return y


def average_pool(x: Tensor, kernel: Pair, stride: Pair, padding: Pair = (0, 0), include_padding: bool = True) -> Tensor:
    """Returns the mean of each window of the blocked x, with or without the zeros of the padding."""
    y: Tensor = _average(x, (*kernel, *stride, *padding), include_padding)
    return y
