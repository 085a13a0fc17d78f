"""The products of a sparse layer as torch ops: forward, gradient of the input, gradients of active weights and bias.

Streams travel as tensors, so that a compiled graph sees a new topology as new contents of its inputs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

from rewire.engine.library import kernels
from rewire.engine.op import Op
from rewire.engine.stream import Geometry, Stream

# By handle: called with (x, dy), both blocked, inside the layer's backward, when its active weights get their gradient.
watchers: dict[int, Callable[[Tensor, Tensor], None]] = {}


def sparse_layer(
    x: Float[Tensor, "blocks in height width 16"],
    values: Float[Tensor, "count"],
    bias: Float[Tensor, "out"] | None,
    stream: Stream,
    handle: int,
    relu: bool = False,
) -> Float[Tensor, "blocks out high wide 16"]:
    """Returns the convolution of a blocked activation by the active weights; differentiable in x, values and bias.

    handle: key of the layer's watcher in `watchers`, if there is one. relu: whether a ReLU follows, which then costs
    no pass over memory of its own.
    """
    out: Tensor = _sparse_layer(x, values, bias, stream.layer, *stream.forward, *stream.backward, handle, relu)
    return out


def dense_weight_gradient(
    x: Float[Tensor, "blocks in height width 16"], dy: Float[Tensor, "blocks out high wide 16"], geometry: Geometry
) -> Float[Tensor, "out in kernel_h kernel_w"]:
    """Returns the gradient of the dense weight, as torch computes it: for the steps on which growth needs all of it."""
    if geometry.kernel == (1, 1) and geometry.stride == 1 and geometry.padding == (0, 0):
        gradient = x.new_zeros(geometry.out, geometry.in_)
        for block in range(len(x)):
            gradient.addmm_(dy[block].flatten(1), x[block].flatten(1).T)
        return gradient.reshape(geometry.shape)
    images, gradients = _channels_last(x), _channels_last(dy)
    found: Tensor = conv2d_weight(images, geometry.shape, gradients, geometry.stride, geometry.padding)
    return found


def _channels_last(
    x: Float[Tensor, "blocks channels height width 16"],
) -> Float[Tensor, "images channels height width"]:
    return x.permute(0, 4, 2, 3, 1).flatten(0, 1).permute(0, 3, 1, 2)


def _layer(layer: tuple[int, ...] | list[int]) -> Any:
    return (ctypes.c_int64 * len(layer))(*layer)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _output(x: Tensor, layer: list[int]) -> Tensor:
    out, _, kernel_h, kernel_w, stride, pad_h, pad_w, height, width, blocks, _ = layer
    high = (height + 2 * pad_h - kernel_h) // stride + 1
    wide = (width + 2 * pad_w - kernel_w) // stride + 1
    return x.new_empty((blocks, out, high, wide, 16))


def _forward(x: Tensor, values: Tensor, bias: Tensor | None, layer: list[int], *rest: Any) -> Tensor:
    pointers, offsets, order, relu = *rest[:3], rest[-1]
    x, values, y = x.contiguous(), values.contiguous(), _output(x, layer)
    kernels().rw_forward(
        _layer(layer), x.data_ptr(), values.data_ptr(), _address(bias), pointers.data_ptr(), offsets.data_ptr(),
        order.data_ptr(), relu, y.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return y


def _grad_input_cpu(
    dy: Tensor, y: Tensor | None, values: Tensor, layer: list[int], pointers: Tensor, offsets: Tensor, order: Tensor
) -> Tensor:
    dy, values = dy.contiguous(), values.contiguous()
    dx = dy.new_empty((layer[9], layer[1], layer[7], layer[8], 16))
    kernels().rw_grad_input(
        _layer(layer), dy.data_ptr(), _address(y), values.data_ptr(), pointers.data_ptr(), offsets.data_ptr(),
        order.data_ptr(), dx.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return dx


def _grad_values_cpu(
    x: Tensor, dy: Tensor, y: Tensor | None, layer: list[int], pointers: Tensor, offsets: Tensor, order: Tensor,
    handle: int,
) -> Tensor:  # fmt: skip
    x, dy = x.contiguous(), dy.contiguous()
    if handle in watchers:
        watchers[handle](x, dy if y is None else torch.where(y <= 0, 0, dy))
    gradient = x.new_empty(layer[10])
    kernels().rw_grad_values(
        _layer(layer), x.data_ptr(), dy.data_ptr(), _address(y), pointers.data_ptr(), offsets.data_ptr(),
        order.data_ptr(), gradient.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return gradient


def _grad_bias_cpu(dy: Tensor, y: Tensor | None, layer: list[int]) -> Tensor:
    dy, gradient = dy.contiguous(), dy.new_empty(layer[0])
    kernels().rw_grad_bias(_layer(layer), dy.data_ptr(), _address(y), gradient.data_ptr(), torch.get_num_threads())
    return gradient


def _forward_fake(x: Tensor, values: Tensor, bias: Tensor | None, layer: list[int], *rest: Any) -> Tensor:
    return _output(x, layer)


def _grad_input_fake(dy: Tensor, y: Tensor | None, values: Tensor, layer: list[int], *rest: Any) -> Tensor:
    return dy.new_empty((layer[9], layer[1], layer[7], layer[8], 16))


def _grad_values_fake(x: Tensor, dy: Tensor, y: Tensor | None, layer: list[int], *rest: Any) -> Tensor:
    return x.new_empty(layer[10])


def _grad_bias_fake(dy: Tensor, y: Tensor | None, layer: list[int]) -> Tensor:
    return dy.new_empty(layer[0])


_STREAM = "Tensor pointers, Tensor offsets, Tensor order"
_sparse_layer = Op(
    f"sparse_layer(Tensor x, Tensor values, Tensor? bias, SymInt[] layer, {_STREAM}, "
    "Tensor back_pointers, Tensor back_offsets, Tensor back_order, int handle, bool relu) -> Tensor",
    _forward,
    _forward_fake,
)
_grad_input = Op(
    f"sparse_layer_grad_input(Tensor dy, Tensor? y, Tensor values, SymInt[] layer, {_STREAM}) -> Tensor",
    _grad_input_cpu,
    _grad_input_fake,
)
_grad_values = Op(
    f"sparse_layer_grad_values(Tensor x, Tensor dy, Tensor? y, SymInt[] layer, {_STREAM}, int handle) -> Tensor",
    _grad_values_cpu,
    _grad_values_fake,
)
_grad_bias = Op(
    "sparse_layer_grad_bias(Tensor dy, Tensor? y, SymInt[] layer) -> Tensor", _grad_bias_cpu, _grad_bias_fake
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, bias, ctx.layer, *streams, ctx.handle, relu = inputs
    ctx.save_for_backward(x, values, output if relu else None, *streams)
    ctx.biased = bias is not None


@once_differentiable
def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, values, y, *streams = ctx.saved_tensors
    dx = gradient = bias = None
    if ctx.needs_input_grad[1]:
        gradient = _grad_values(x, dy, y, ctx.layer, *streams[:3], ctx.handle)
    if ctx.needs_input_grad[0]:
        dx = _grad_input(dy, y, values, ctx.layer, *streams[3:])
    if ctx.biased and ctx.needs_input_grad[2]:
        bias = _grad_bias(dy, y, ctx.layer)
    return dx, gradient, bias, *(None,) * 9


_sparse_layer.differentiable(_setup, _backward)
