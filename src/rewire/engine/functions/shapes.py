"""Views, slices, padding and concatenation of blocked activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from rewire.engine.activation import CONVERT, Blocked, View, blocked_of, fits, make
from rewire.engine.functions.table import channels_second, stays
from rewire.engine.pending import Ready, Value


def _view(x: Blocked, shape: Sequence[int], inner: Sequence[int], image: bool) -> Blocked:
    """Returns the same memory in another shape, and with other sizes of the tensor inside."""
    before = tuple(x.value().shape)

    def derive(value: Value) -> Value:
        return value if before == tuple(inner) else Ready(value.tensor().view(*inner))

    def put(base: Value, own: Value) -> Value:
        return own if before == tuple(inner) else Ready(own.tensor().view(before))

    return make(derive(x.value()), shape, image, View(x, derive, put))


@stays("reshape", "view")
def _reshape(func: Any, input: Any, *shape: Any) -> Any:
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    if not all(isinstance(size, int) for size in sizes) or math.prod(input.sizes) == 0:
        return CONVERT
    known = math.prod(size for size in sizes if size != -1)
    if sum(size == -1 for size in sizes) > 1 or known <= 0 or math.prod(input.sizes) % known:
        return CONVERT  # torch's own messages
    sizes = tuple(math.prod(input.sizes) // known if size == -1 else size for size in sizes)
    if math.prod(sizes) != math.prod(input.sizes):
        return CONVERT
    if channels_second(input) and len(sizes) in (2, 4) and sizes[0] == input.sizes[0]:
        blocks, _, _, _, lanes = input.value().shape
        places = sizes[1:] if len(sizes) == 4 else (sizes[1], 1, 1)
        return _view(input, sizes, (blocks, *places, lanes), len(sizes) == 4)
    if not input._image and len(sizes) >= 2 and sizes[-1] == input.sizes[-1]:
        return _view(input, sizes, tuple(input.value().shape), False)
    return CONVERT


@stays("flatten")
def _flatten(func: Any, input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    dims = len(input.sizes)
    if not all(isinstance(dim, int) and -dims <= dim < dims for dim in (start_dim, end_dim)):
        return CONVERT
    start, end = start_dim % dims, end_dim % dims
    if start > end:
        return CONVERT
    merged = math.prod(input.sizes[start : end + 1])
    return _reshape(func, input, (*input.sizes[:start], merged, *input.sizes[end + 1 :]))


@stays("__getitem__")
def _getitem(func: Any, x: Any, index: Any = None) -> Any:
    slices = isinstance(index, tuple) and all(isinstance(part, slice) for part in index)
    if not slices or not channels_second(x) or not 1 <= len(index) <= len(x.sizes) or index[0] != slice(None):
        return CONVERT

    def derive(value: Value) -> Value:
        return Ready(value.tensor()[index])

    def put(base: Value, own: Value) -> Value:
        changed = base.tensor().clone()
        changed[index] = own.tensor()
        return Ready(changed)

    value = derive(x.value())
    _, channels, height, width, _ = value.shape
    if 0 in (channels, height, width):
        return CONVERT
    shape = (x.sizes[0], channels, height, width)[: len(x.sizes)]
    return make(value, shape, x._image, View(x, derive, put))


@stays("pad", homes=(F,))
def _pad(func: Any, input: Any, pad: Any = None, mode: str = "constant", value: float | None = None) -> Any:
    finite = value is None or (isinstance(value, int | float) and math.isfinite(value))
    if not isinstance(input, Blocked) or pad is None or mode != "constant" or not finite:
        return CONVERT
    if input._image and len(pad) in (2, 4, 6):
        inner = (0, 0, *pad)
    elif not input._image and len(pad) == 2:
        inner = (0, 0, 0, 0, 0, 0, *pad)
    else:
        return CONVERT
    padded = F.pad(input.value().tensor(), inner, "constant", value)
    _, channels, height, width, _ = padded.shape
    shape = (input.sizes[0], channels, height, width) if input._image else (*input.sizes[:-1], channels)
    return make(Ready(padded), shape, input._image)


@stays("cat", "concat", "concatenate", homes=(torch,))
def _cat(func: Any, tensors: Any = None, dim: int = 0) -> Any:
    if not isinstance(tensors, tuple | list) or not isinstance(dim, int):
        return CONVERT
    lead = next((x for x in tensors if isinstance(x, Blocked)), None)
    if lead is None or dim % len(lead.sizes) != (1 if lead._image else len(lead.sizes) - 1):
        return CONVERT
    values: list[Value] = []
    for x in tensors:
        kin = x._image == lead._image if isinstance(x, Blocked) else fits(x)
        if (
            not kin
            or x.dim() != len(lead.sizes)
            or any(x.shape[d] != lead.sizes[d] for d in range(len(lead.sizes)) if d != dim % len(lead.sizes))
        ):
            return CONVERT
        values.append(x.value() if isinstance(x, Blocked) else blocked_of(x, lead._image))
    joined = torch.cat([value.tensor() for value in values], 1)
    shape = list(lead.sizes)
    shape[dim % len(lead.sizes)] = joined.shape[1]
    return make(Ready(joined), shape, lead._image)
