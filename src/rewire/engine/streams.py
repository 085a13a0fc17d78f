"""The streams of one layer: those of the last few shapes of input, and those that a compiler holds."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from rewire.engine.stream import Geometry, Stream

KEPT = 2  # shapes of input that a layer remembers, those of full and last batches; each takes about 12 bytes a value


class Streams:
    """Builds the stream of a layer when an input of a new shape comes, and follows the topology.

    index: places of the active weights in the dense weight. sizes: how often tensors of streams had to be others.
    """

    def __init__(self, geometry: Geometry, index: Int[Tensor, "active"]) -> None:
        self.geometry, self.index, self.sizes = geometry, index, 0
        self.kept: dict[tuple[int, int, int], Stream] = {}
        self._compiled: dict[tuple[int, int, int], Stream] = {}

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return sum(stream.nbytes for stream in (*self.kept.values(), *self._compiled.values()))

    def get(self, height: int, width: int, blocks: int) -> Stream:
        """Returns what the kernels read for inputs (blocks, in, height, width, 16)."""
        shape = height, width, blocks
        if shape in self._compiled:
            return self._compiled[shape]
        found = self.kept.pop(shape, None) or self._build(*shape)
        self.kept[shape] = found
        while len(self.kept) > KEPT:
            self.kept.pop(next(iter(self.kept)))
        return found

    def compiled(self, height: int, width: int, blocks: int, sizes: int) -> Stream:
        """Returns the same to a compiler, whose graph holds its tensors for as long as `sizes` is the same."""
        shape = height, width, blocks
        if shape not in self._compiled:
            self._compiled[shape] = self._build(*shape, spare=True)
        return self._compiled[shape]

    # What torch.compiler.assume_constant_result sets: a compiler that traces calls it and takes the result as it is.
    compiled._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def follow_(self, index: Int[Tensor, "active"]) -> None:
        """Follows the topology. What a compiler holds is renewed in the same tensors where their sizes are the same."""
        same, self.index = index.numel() == self.index.numel(), index
        self.kept.clear()
        same = same and all(stream.take_(self._build(*shape, spare=True)) for shape, stream in self._compiled.items())
        if not same:
            self._compiled.clear()
            self.sizes += 1

    def _build(self, height: int, width: int, blocks: int, spare: bool = False) -> Stream:
        return Stream.build(self.geometry, self.index, height, width, blocks, spare)
