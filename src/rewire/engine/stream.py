"""A layer's topology as the kernels read it, for inputs of one shape.

The kernels compute a tile of the output at a time from a scratch that holds a block of input channels. A stream lists,
for every block and every output channel, the active weights as places in that scratch. It is built by the library when
a topology first meets an input of a shape, and kept until the topology changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int32
from torch import Tensor

from rewire.engine.library import kernels


@dataclass(frozen=True)
class Geometry:
    """What the kernels know of a layer. A Linear is a 1x1 convolution of a map of one place."""

    out: int
    in_: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns height and width of the output.

        >>> Geometry(8, 3, (3, 3), stride=2, padding=(1, 1)).out_size(32, 32)
        (16, 16)
        """
        sides = zip((height, width), self.kernel, self.padding, strict=True)
        high, wide = ((side + 2 * padding - kernel) // self.stride + 1 for side, kernel, padding in sides)
        return high, wide

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the dense weight: (out, in, kernel height, kernel width)."""
        return self.out, self.in_, *self.kernel


@dataclass(frozen=True, eq=False)
class Stream:
    """Index tensors of a layer whose input is (blocks, in, height, width, 16).

    layer: what the kernels call a layer, see kernels/rewire.h. forward and backward: (pointers, offsets, order), where
    entries [pointers[k], pointers[k + 1]) belong to one block of channels and one output, offsets are places in the
    scratch and order says which active weight an entry is. What lies past the last pointer is never read.
    """

    geometry: Geometry
    layer: tuple[int, ...]
    forward: tuple[Tensor, Tensor, Tensor]
    backward: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def build(
        cls,
        geometry: Geometry,
        index: Int32[Tensor, "count"],
        height: int,
        width: int,
        blocks: int,
        spare: bool = False,
    ) -> Stream:
        """Returns the stream of the active weights at ascending flat places `index` of the dense weight.

        spare: with room for any topology of as many weights, so that `take_` always finds it. On maps of at most 2x2
        the kernels list a weight once for every place that it meets, and at the rim it meets fewer.
        """
        sides = (height, width, blocks, len(index))
        layer = (geometry.out, geometry.in_, *geometry.kernel, geometry.stride, *geometry.padding, *sides)
        described, sizes = torch.tensor(layer), torch.empty(4, dtype=torch.int64)
        library, index = kernels(), index.contiguous()
        library.rw_stream_sizes(described.data_ptr(), index.data_ptr(), sizes.data_ptr())
        entries, pointers, entries_back, pointers_back = sizes.tolist()
        if spare and geometry.kernel != (1, 1) and height * width <= 4:
            entries = entries_back = len(index) * math.prod(geometry.out_size(height, width))
        forward = _indices(pointers, entries)
        backward = _indices(pointers_back, entries_back)
        library.rw_stream_build(
            described.data_ptr(), index.data_ptr(), *(tensor.data_ptr() for tensor in (*forward, *backward))
        )
        return cls(geometry, layer, forward, backward)

    def take_(self, other: Stream) -> bool:
        """Takes over the contents of another stream; returns False, and changes nothing, where the sizes differ."""
        mine, others = (*self.forward, *self.backward), (*other.forward, *other.backward)
        if any(a.shape != b.shape for a, b in zip(mine, others, strict=True)):
            return False
        for a, b in zip(mine, others, strict=True):
            a.copy_(b)
        return True

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return sum(tensor.nbytes for tensor in (*self.forward, *self.backward))


def _indices(pointers: int, entries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns empty pointers, offsets (16 bits, read as unsigned) and order."""
    return (
        torch.empty(pointers, dtype=torch.int32),
        torch.empty(entries, dtype=torch.int16),
        torch.empty(entries, dtype=torch.int32),
    )
