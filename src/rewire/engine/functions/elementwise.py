"""Functions of each element of a blocked activation, and of two activations or an activation and numbers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rewire.engine.activation import CONVERT, Blocked, blocked_of, fits
from rewire.engine.functions.table import HOMES, channels_second, like, stays
from rewire.engine.pending import Ready, Value, add_of, relu_of

ELEMENTWISE = (
    *("sigmoid", "tanh", "silu", "gelu", "hardswish", "hardsigmoid", "hardtanh", "relu6", "leaky_relu", "elu", "selu"),
    *(
        "celu",
        "softplus",
        "mish",
        "logsigmoid",
        "softsign",
        "tanhshrink",
        "hardshrink",
        "softshrink",
        "abs",
        "absolute",
    ),
    *("neg", "negative", "square", "clamp", "clamp_min", "clamp_max", "clip", "__neg__", "__abs__"),
)


@stays("relu")
def _relu(func: Any, input: Any, inplace: bool = False) -> Any:
    value = relu_of(input.value())
    return input.assign(value) if inplace else like(input, value)


@stays("relu_")
def _relu_in_place(func: Any, input: Any) -> Any:
    return input.assign(relu_of(input.value()))


@stays(*ELEMENTWISE)
def _elementwise(func: Any, input: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Any:
    others = (*args, *kwargs.values())
    if not isinstance(input, Blocked) or any(isinstance(other, Tensor | bool) for other in others):
        return CONVERT  # a positional bool may be `inplace`
    value = Ready(func(input.value().tensor(), *args, **kwargs))
    return input.assign(value) if inplace else like(input, value)


for _name in ELEMENTWISE:
    _functions = [getattr(home, _name) for home in HOMES if hasattr(home, _name)]

    @stays(f"{_name}_")
    def _in_place(func: Any, input: Any, *args: Any, _out_of_place: Any = _functions[0], **kwargs: Any) -> Any:
        return _elementwise(_out_of_place, input, *args, inplace=True, **kwargs)


@stays("pow", "__pow__")
def _pow(func: Any, input: Any, exponent: Any = None) -> Any:
    whole = isinstance(input, Blocked) and type(exponent) is int and exponent >= 1
    return like(input, Ready(func(input.value().tensor(), exponent))) if whole else CONVERT


@stays("prelu")
def _prelu(func: Any, input: Any, weight: Any = None) -> Any:
    if not channels_second(input) or not fits(weight):
        return CONVERT
    return like(input, Ready(func(input.value().tensor(), weight)))


@stays("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", homes=(F,))
def _dropout(func: Any, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    # In training the random numbers are drawn for the ordinary tensor, so that they are the same as the dense model's.
    return CONVERT if training else input


# ---- two activations, or an activation and numbers


def _single(other: Any) -> bool:
    """Returns whether `other` is a tensor of one real number without dimensions, which promotes nothing."""
    ordinary = type(other) in (Tensor, torch.nn.Parameter) and other.dim() == 0
    return ordinary and other.device.type == "cpu" and not other.is_complex()


def _operand(lead: Blocked, other: Any) -> Any:
    """Returns what stands for `other` beside the value of `lead`: a value, tensor or number; or None."""
    if isinstance(other, int | float):
        return other
    if isinstance(other, Blocked):
        same = other._image == lead._image and len(other.sizes) == len(lead.sizes) and other._rows == lead._rows
        aligned = same and (lead._image or other.sizes[:-1] == lead.sizes[:-1])
        return other.value() if aligned else None
    if _single(other):
        return other
    if not fits(other):
        return None
    if lead._image and other.dim() == 4 and other.shape[0] == lead.sizes[0]:
        return blocked_of(other, True)
    if lead._image and (other.dim() < 4 or other.shape[0] == 1):
        return other.reshape(*(1,) * (4 - other.dim()), *other.shape, 1)
    if not lead._image and other.numel() == other.shape[-1]:
        return other.reshape(1, -1, 1, 1, 1)
    if not lead._image and other.shape == lead.sizes:
        return blocked_of(other, False)
    return None


def _lead(input: Any, other: Any) -> Blocked | None:
    """Returns the Blocked whose shape is the result's."""
    own = [x for x in (input, other) if isinstance(x, Blocked)]
    others = [x for x in (input, other) if isinstance(x, Tensor)]
    if len(others) == 1 or (len(own) == 2 and own[0].sizes == own[1].sizes):
        return own[0]
    try:
        shape = torch.broadcast_shapes(*(x.sizes if isinstance(x, Blocked) else x.shape for x in others))
    except RuntimeError:
        return None  # torch's own message
    return next((x for x in own if x.sizes == shape), None)


def _binary(function: Any, input: Any, other: Any, in_place: bool, **scale: Any) -> Any:
    lead = _lead(input, other)
    if lead is None or (in_place and lead is not input):
        return CONVERT
    left, right = _operand(lead, input), _operand(lead, other)
    if left is None or right is None:
        return CONVERT
    joins = function is torch.add and not scale
    value: Value
    if isinstance(left, Value) and isinstance(right, Value) and left.shape == right.shape and joins:
        value = add_of(left, right)
    else:
        tensors = [side.tensor() if isinstance(side, Value) else side for side in (left, right)]
        value = Ready(function(*tensors, **scale))
    return lead.assign(value) if in_place else like(lead, value)


@stays("add", "__add__", "__radd__", "sub", "subtract", "__sub__")
def _sum(func: Any, input: Any, other: Any = None, *, alpha: float = 1) -> Any:
    function = torch.add if "add" in func.__name__ else torch.sub
    return _binary(function, input, other, False, **({} if alpha == 1 else {"alpha": alpha}))


@stays("add_", "__iadd__", "sub_", "subtract_", "__isub__", homes=(Tensor,))
def _sum_in_place(func: Any, input: Any, other: Any = None, *, alpha: float = 1) -> Any:
    function = torch.add if "add" in func.__name__ else torch.sub
    return _binary(function, input, other, True, **({} if alpha == 1 else {"alpha": alpha}))


@stays("rsub", "__rsub__")
def _reversed(func: Any, input: Any, other: Any = None) -> Any:
    return _binary(torch.sub, other, input, False)


@stays("mul", "multiply", "__mul__", "__rmul__")
def _product(func: Any, input: Any, other: Any = None) -> Any:
    return _binary(torch.mul, input, other, False)


@stays("mul_", "multiply_", "__imul__", homes=(Tensor,))
def _product_in_place(func: Any, input: Any, other: Any = None) -> Any:
    return _binary(torch.mul, input, other, True)


def _divisible(input: Any, other: Any) -> bool:
    """Returns whether no lane past the last image is divided by what may be 0 there alone."""
    number = isinstance(other, int | float) or _single(other)
    return isinstance(input, Blocked) and number


@stays("div", "divide", "true_divide", "__div__", "__truediv__")
def _quotient(func: Any, input: Any, other: Any = None) -> Any:
    return _binary(torch.div, input, other, False) if _divisible(input, other) else CONVERT


@stays("div_", "divide_", "true_divide_", "__idiv__", "__itruediv__", homes=(Tensor,))
def _quotient_in_place(func: Any, input: Any, other: Any = None) -> Any:
    return _binary(torch.div, input, other, True) if _divisible(input, other) else CONVERT
