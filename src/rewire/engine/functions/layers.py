"""Batch norm, which waits for what follows it, and pooling of blocked activations."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rewire.engine.activation import CONVERT, Blocked, fits, make
from rewire.engine.functions.table import channels_second, like, stays
from rewire.engine.pending import Norm, Pending, Ready
from rewire.engine.pooling_ops import average_pool, max_pool, pooled


@stays("batch_norm", homes=(F,))
def _batch_norm(
    func: Any,
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not channels_second(input):
        return CONVERT
    given = [tensor for tensor in (running_mean, running_var, weight, bias) if tensor is not None]
    sound = all(fits(tensor) and tensor.shape == (input.sizes[1],) and tensor.is_contiguous() for tensor in given)
    numbers = math.prod(input.sizes) // max(1, input.sizes[1])  # of each channel
    if not sound or numbers == 0 or (running_mean is None) != (running_var is None):
        return CONVERT  # and torch's own messages
    if (training and numbers == 1) or eps < 0 or (training and eps == 0) or (not training and running_mean is None):
        return CONVERT
    running = None if running_mean is None else (running_mean, running_var)
    norm = Norm(input.value().tensor(), input._rows, running, weight, bias, training, momentum, eps)
    return like(input, Pending(norm, None, False, None))


def _pair(sizes: Any) -> tuple[int, int]:
    if isinstance(sizes, int):
        return sizes, sizes
    high, wide = sizes * 2 if len(sizes) == 1 else sizes
    return int(high), int(wide)


def _windows(x: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool) -> Any:
    """Returns kernel, stride, padding and the output's shape, or None where the layout has no such pooling."""
    if not isinstance(x, Blocked) or not x._image or kernel_size is None or 0 in x.sizes:
        return None
    kernel, padding = _pair(kernel_size), _pair(padding)
    stride = kernel if stride is None or stride == [] or stride == () else _pair(stride)
    sides = []
    for side, size, step, pad in zip(x.sizes[2:], kernel, stride, padding, strict=True):
        if size < 1 or step < 1 or pad < 0 or 2 * pad > size or side + 2 * pad < size:
            return None  # torch's own messages
        if ceil_mode and (side + 2 * pad - size) % step and pooled(side, size, step, pad) * step < side + pad:
            return None  # one more window, which hangs over the edge
        sides.append(pooled(side, size, step, pad))
    return kernel, stride, padding, (*x.sizes[:2], *sides)


@stays("max_pool2d", homes=(F, torch))
def _max_pool(
    func: Any,
    input: Any,
    kernel_size: Any = None,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    found = _windows(input, kernel_size, stride, padding, ceil_mode)
    if found is None or return_indices or _pair(dilation) != (1, 1) or math.prod(found[0]) > 256:
        return CONVERT
    return make(Ready(max_pool(input.value().tensor(), *found[:3])), found[3], True)


@stays("avg_pool2d", homes=(F,))
def _average_pool(
    func: Any,
    input: Any,
    kernel_size: Any = None,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    found = _windows(input, kernel_size, stride, padding, ceil_mode)
    if found is None or divisor_override is not None:
        return CONVERT
    kernel, stride, padding, shape = found
    y = average_pool(input.value().tensor(), kernel, stride, padding, count_include_pad)
    return make(Ready(y), shape, True)


@stays("adaptive_avg_pool2d", "adaptive_max_pool2d", homes=(F,))
def _adaptive_pool(func: Any, input: Any, output_size: Any = None, return_indices: bool = False) -> Any:
    if not isinstance(input, Blocked) or not input._image or output_size is None or return_indices:
        return CONVERT
    wanted = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    sides = input.sizes[2:]
    sizes = [side if size is None else size for size, side in zip(wanted, sides, strict=True)]
    if any(size < 1 or side % size for size, side in zip(sizes, sides, strict=True)):
        return CONVERT
    kernel = [side // size for size, side in zip(sizes, sides, strict=True)]
    return (_average_pool if func is F.adaptive_avg_pool2d else _max_pool)(func, input, kernel)


@stays("mean", homes=(torch, Tensor))
def _mean(func: Any, input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if (
        not isinstance(input, Blocked)
        or not input._image
        or not isinstance(dim, tuple | list)
        or math.prod(input.sizes) == 0
    ):
        return CONVERT
    if len(dim) != 2 or {axis % 4 for axis in dim} != {2, 3}:
        return CONVERT
    side = (input.sizes[2], input.sizes[3])
    value = Ready(average_pool(input.value().tensor(), side, side))
    return make(value, (*input.sizes[:2], 1, 1) if keepdim else input.sizes[:2], keepdim)
