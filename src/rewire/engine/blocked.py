"""Blocked activations: how a layer takes its input into the layout and gives its output, and how to leave it.

    inner(x)            the tensor (blocks, C, H, W, 16) of a Blocked or of an ordinary tensor
    wrap(inner, shape)  the Blocked around such a tensor
    plain(x)            an ordinary tensor
    conversions()       counts the functions that had to leave the layout

`activation` says what a Blocked is, `functions` which functions stay in the layout, `pending` how batch norm waits for
the addition and the ReLU behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rewire.engine import functions
from rewire.engine.activation import Blocked, blocked_of, conversions, fits, make, product, unwrapped
from rewire.engine.layout_ops import blocks_of
from rewire.engine.pending import Pending, Product, Ready

__all__ = ["Blocked", "conversions", "functions", "inner", "plain", "unwrapped", "wrap"]


def inner(x: Tensor, image: bool | None = None) -> Tensor:
    """Returns the blocked tensor (blocks, C, H, W, 16) of x, computed now if it was waiting.

    image: whether x is (N, C, H, W), as a convolution takes it, or (*leading, C), as a Linear does, which comes as
    (blocks, C, 1, 1, 16). Left out, it is what a Blocked says, and for an ordinary tensor whether it has 4 dimensions.
    """
    if isinstance(x, Blocked):
        if image is None or image == x._image or (len(x.sizes) == 2 and not image):
            return x.value().tensor()
        x = x.ordinary()
    if not fits(x):
        what = f"{x.dtype} on {x.device}" if type(x) in (Tensor, torch.nn.Parameter) else type(x).__name__
        raise ValueError(
            f"A sparse layer of the CPU engine got a tensor of {what}; its kernels compute in float32 on the CPU. "
            'Give it x.float().cpu(), or train with engine="masked".'
        )
    image = x.dim() == 4 if image is None else image
    if image and x.dim() != 4:
        raise ValueError(f"A blocked image has the shape (N, C, H, W), not {tuple(x.shape)}. Use x.unsqueeze(0).")
    return blocked_of(x, image).tensor()


def wrap(inner: Tensor | Product, shape: Sequence[int]) -> Blocked:
    """Returns the Blocked of shape (N, C, H, W) or (*leading, C) around a blocked tensor (blocks, C, H, W, 16).

    The call of a sparse layer, in place of its result, waits for a ReLU that may follow.
    """
    shape = tuple(shape)
    image = len(shape) == 4 and inner.shape[1:4] == shape[1:] and inner.shape[0] == blocks_of(shape[0])
    rows = not image and inner.shape[1:4] == (shape[-1], 1, 1) and inner.shape[0] == blocks_of(product(shape[:-1]))
    if not (image or rows):
        raise ValueError(
            f"A blocked tensor {tuple(inner.shape)} does not hold an activation of shape {shape}: for (N, C, H, W) it "
            "is (ceil(N / 16), C, H, W, 16), for (*leading, C) it is (ceil(rows / 16), C, 1, 1, 16)."
        )
    return make(Ready(inner) if isinstance(inner, Tensor) else Pending(inner, None, False, None), shape, image)


def plain(x: Any) -> Any:
    """Returns an ordinary tensor, contiguous, of a Blocked; any other x as it is."""
    return x.ordinary() if isinstance(x, Blocked) else x
