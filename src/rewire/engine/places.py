"""Where the active weights are: ascending places in the dense weight, and how values move when the topology does."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor, nn


def places(mask: Bool[Tensor, "..."]) -> Int[Tensor, "active"]:
    """Returns the places of the active weights in row-major order, whatever the memory layout.

    >>> places(torch.tensor([[True, False], [False, True]]))
    tensor([0, 3], dtype=torch.int32)
    """
    return mask.reshape(-1).nonzero().squeeze(1).int()


class Move:
    """The move of values from the places `before` to the places `after`, both ascending: what was not there is 0.

    >>> Move(torch.tensor([0, 3, 5]), torch.tensor([1, 3, 4, 5]))(torch.tensor([7.0, 8.0, 9.0]))
    tensor([0., 8., 0., 9.])
    """

    def __init__(self, before: Int[Tensor, "old"], after: Int[Tensor, "new"]) -> None:
        found = torch.searchsorted(after, before).clamp_(max=after.numel() - 1)
        self.kept = (after[found] == before).nonzero().squeeze(1)
        self.found, self.count = found[self.kept], after.numel()

    def __call__(self, values: Shaped[Tensor, "old"]) -> Shaped[Tensor, "new"]:
        moved = values.new_zeros(self.count)
        moved[self.found] = values[self.kept]
        return moved


def resize_(parameter: nn.Parameter, values: Shaped[Tensor, "new"]) -> None:
    """Gives a parameter without a gradient another number of values. It stays the same object to the optimizer."""
    # While a graph of an earlier step lives, so does its node that accumulates gradients of the old size, and torch
    # would use it again; a change of type makes torch forget it.
    parameter.data = torch.empty(0, dtype=torch.float64)
    parameter.data = values
