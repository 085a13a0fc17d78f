"""Masks as bits: eight to a byte, for files and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor


def pack_bits(mask: Bool[Tensor, "..."]) -> UInt8[Tensor, "bytes"]:
    """Returns the mask as bytes, ceil(numel / 8) of them.

    Element i, counted in row-major order whatever the memory layout, is bit i mod 8 of byte i div 8, the lowest
    bit first (numpy.packbits with bitorder="little"). The unused bits of the last byte are 0.

    >>> pack_bits(torch.tensor([[True, False, False], [True, True, False], [False, False, True]]))
    tensor([25,  1], dtype=torch.uint8)
    """
    bits = mask.reshape(-1).to(torch.uint8)
    missing = -bits.numel() % 8
    if missing:
        bits = torch.cat([bits, bits.new_zeros(missing)])
    bits = bits.view(-1, 8)
    packed = bits[:, 0].clone()
    for place in range(1, 8):
        packed |= bits[:, place] << place
    return packed


def unpack_bits(packed: UInt8[Tensor, "bytes"], shape: Sequence[int]) -> Bool[Tensor, "..."]:
    """Returns the mask of the given shape that `pack_bits` made the bytes from.

    >>> unpack_bits(torch.tensor([25, 1], dtype=torch.uint8), (3, 3)).int()
    tensor([[1, 0, 0],
            [1, 1, 0],
            [0, 0, 1]], dtype=torch.int32)
    """
    count = math.prod(shape)
    if packed.numel() != math.ceil(count / 8):
        raise ValueError(
            f"{packed.numel()} bytes are not a mask of shape {tuple(shape)}, because its {count} weights at "
            f"eight to a byte take {math.ceil(count / 8)}. Give the bytes and the shape of the same mask."
        )
    mask = torch.empty((packed.numel(), 8), dtype=torch.bool, device=packed.device)
    for place in range(8):
        mask[:, place] = packed & (1 << place)
    return mask.view(-1)[:count].view(tuple(shape))
