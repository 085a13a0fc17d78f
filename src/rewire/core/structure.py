"""Structures: which weights switch on and off together, and where the budget must hold.

A structure is a permutation and a reshape of a weight to ``(groups, units, size)``. The budget holds in every
group, a unit switches as a whole, and `size` is the number of weights in a unit. Scoring, selecting, dropping and
growing see only this folded form, so they exist once for all structures.

A weight comes with its output channels first: ``(out, in, *kernel)``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor


class Structure(ABC):
    """A way to group the weights of a layer into units that are active or inactive as a whole."""

    @abstractmethod
    def fold(self, weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, "groups units size"]:
        """Returns the weight, or its mask, as ``(groups, units, size)``; a view where the layout allows it."""

    @abstractmethod
    def unfold(self, folded: Shaped[Tensor, "groups units size"], shape: torch.Size) -> Shaped[Tensor, "..."]:
        """Returns the inverse of `fold`: a tensor of the given weight shape."""

    @abstractmethod
    def check(self, name: str, shape: torch.Size) -> None:
        """Raises ValueError where a weight of this shape cannot hold the structure."""

    def quantum(self, shape: torch.Size) -> int:
        """Returns the smallest step, in weights, by which a layer's active count can change."""
        return 1

    def density(self) -> float | None:
        """Returns the density that the structure itself fixes, or None where the user chooses it."""
        return None


@dataclass(frozen=True)
class Unstructured(Structure):
    """Every weight on its own: ``(1, numel, 1)``.

    >>> Unstructured().fold(torch.zeros(8, 3, 3, 3)).shape
    torch.Size([1, 216, 1])
    """

    def fold(self, weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, "groups units size"]:
        return weight.reshape(1, -1, 1)

    def unfold(self, folded: Shaped[Tensor, "groups units size"], shape: torch.Size) -> Shaped[Tensor, "..."]:
        return folded.reshape(shape)

    def check(self, name: str, shape: torch.Size) -> None:
        pass


@dataclass(frozen=True)
class FanIn(Structure):
    """Constant fan-in: every output unit has the same number of active inputs, ``(out, in * kernel, 1)``.

    >>> FanIn().fold(torch.zeros(8, 3, 3, 3)).shape
    torch.Size([8, 27, 1])

    Reference: Lasby et al., Dynamic Sparse Training with Structured Sparsity, https://arxiv.org/abs/2305.02299
    """

    def fold(self, weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, "groups units size"]:
        return weight.flatten(1).unsqueeze(-1)

    def unfold(self, folded: Shaped[Tensor, "groups units size"], shape: torch.Size) -> Shaped[Tensor, "..."]:
        return folded.reshape(shape)

    def check(self, name: str, shape: torch.Size) -> None:
        pass

    def quantum(self, shape: torch.Size) -> int:
        return shape[0]


@dataclass(frozen=True)
class Neuron(Structure):
    """Whole outputs, neurons or channels, with all of their inputs: ``(1, out, in * kernel)``.

    An inactive neuron puts out its bias alone. In the last layer it would be a class: leave that layer dense with
    ``exclude``. Refused with methods that move units between layers whose neurons differ in size, and with growth by
    gradients times the norm of an output (``relative=True``), which is 0 for a neuron that is off.

    >>> Neuron().fold(torch.zeros(8, 3, 3, 3)).shape
    torch.Size([1, 8, 27])
    """

    def fold(self, weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, "groups units size"]:
        return weight.flatten(1).unsqueeze(0)

    def unfold(self, folded: Shaped[Tensor, "groups units size"], shape: torch.Size) -> Shaped[Tensor, "..."]:
        return folded.reshape(shape)

    def check(self, name: str, shape: torch.Size) -> None:
        pass

    def quantum(self, shape: torch.Size) -> int:
        return math.prod(shape[1:])


@dataclass(frozen=True)
class NM(Structure):
    """N:M sparsity: `n` active weights in every `m` consecutive input channels, ``(numel / m, m, 1)``.

    A convolution is seen as ``(out, *kernel, in)``, the order in which hardware reads it.

    >>> NM(2, 4).fold(torch.zeros(8, 16, 3, 3)).shape
    torch.Size([288, 4, 1])

    Reference: Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch,
    https://arxiv.org/abs/2102.04010
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            raise ValueError(
                f"NM({self.n}, {self.m}) keeps {self.n} of every {self.m} weights, which needs 1 <= n <= m. "
                "Use for example NM(2, 4)."
            )

    def fold(self, weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, "groups units size"]:
        return weight.movedim(1, -1).reshape(-1, self.m, 1)

    def unfold(self, folded: Shaped[Tensor, "groups units size"], shape: torch.Size) -> Shaped[Tensor, "..."]:
        return folded.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)

    def check(self, name: str, shape: torch.Size) -> None:
        if shape[1] % self.m:
            raise ValueError(
                f"{name} has {shape[1]} input channels, not a multiple of M={self.m}, so {self.n}:{self.m} "
                f'cannot hold there. Leave it dense with exclude=["{name}"] or choose an M that divides '
                f"{shape[1]}."
            )

    def quantum(self, shape: torch.Size) -> int:
        return math.prod(shape) // self.m

    def density(self) -> float | None:
        return self.n / self.m


@dataclass(frozen=True)
class Block(Structure):
    """Blocks of ``height x width`` that tile the matrix ``(out, in * kernel)``: ``(1, blocks, height * width)``.

    >>> Block(4, 4).fold(torch.zeros(8, 16)).shape
    torch.Size([1, 8, 16])
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(
                f"Block({self.height}, {self.width}) has an empty side, so it holds no weight. "
                "Use sides of at least 1, for example Block(16, 1)."
            )

    def fold(self, weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, "groups units size"]:
        matrix = weight.flatten(1)
        tiles = matrix.reshape(matrix.shape[0] // self.height, self.height, -1, self.width)
        return tiles.transpose(1, 2).reshape(1, -1, self.height * self.width)

    def unfold(self, folded: Shaped[Tensor, "groups units size"], shape: torch.Size) -> Shaped[Tensor, "..."]:
        tiles = folded.reshape(shape[0] // self.height, -1, self.height, self.width)
        return tiles.transpose(1, 2).reshape(shape)

    def check(self, name: str, shape: torch.Size) -> None:
        rows, columns = shape[0], math.prod(shape[1:])
        if rows % self.height or columns % self.width:
            raise ValueError(
                f"{name} is a matrix of {rows} x {columns}, which blocks of {self.height} x {self.width} do not "
                f'tile. Leave it dense with exclude=["{name}"] or choose sides that divide {rows} and {columns}.'
            )

    def quantum(self, shape: torch.Size) -> int:
        return self.height * self.width
