"""How far the topology of a model has moved. Topologies are masks by weight name, True where a weight is active."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Topology = Mapping[str, Tensor]


def exploration_degree(ever_active: Topology) -> float:
    """Returns the share of all weights that have been active at least once.

        R = |union over t of M_t| / total

    It starts at the density and never shrinks; at 1 every weight has had its turn. It is equal to the R_s of
    in-time over-parameterisation.

    ever_active: True where a weight has been active at least once, by weight name.

    >>> exploration_degree({"fc": torch.tensor([True, True, False, False]), "head": torch.tensor([True])})
    0.6

    Reference: Huang, Lei, Xu, Peng, Sun, Xie, Ding. "Dynamic Sparse Training via Balancing the
    Exploration-Exploitation Trade-off", DAC 2023, https://arxiv.org/abs/2211.16667; Liu, Yin, Mocanu, Pechenizkiy.
    "Do We Actually Need Dense Over-Parameterization?", ICML 2021, https://arxiv.org/abs/2102.02887
    """
    return _share(_count(ever_active.values()), sum(mask.numel() for mask in ever_active.values()), empty=0.0)


def churn(before: Topology, after: Topology) -> float:
    """Returns the share of the weights active before that are active no more: 0 if nothing moved, 1 if all did.

        churn = |B and not A| / |B|

    Where the number of active weights is constant, this is the share that was dropped and replaced. A weight that
    was dropped and grown again in the same update has not moved.

    >>> churn({"fc": torch.tensor([True, True, False])}, {"fc": torch.tensor([True, False, True])})
    0.5
    """
    pairs = _pairs(before, after)
    return _share(_count(old & ~new for old, new in pairs), _count(old for old, _ in pairs), empty=0.0)


def overlap(first: Topology, second: Topology) -> float:
    """Returns how alike two topologies are: 1 if they are equal, 0 if they share no active weight.

        overlap = |A and B| / |A or B|, over all layers together (the Jaccard index)

    Two random topologies of density d have about d / (2 - d) in common; two topologies without an active weight
    are equal.

    >>> overlap({"fc": torch.tensor([True, True, False])}, {"fc": torch.tensor([True, False, True])})
    0.3333333333333333
    """
    pairs = _pairs(first, second)
    return _share(_count(a & b for a, b in pairs), _count(a | b for a, b in pairs), empty=1.0)


def _count(masks: Iterable[Tensor]) -> int:
    """Returns how many are True in all masks together, with one transfer from the device."""
    counts = [mask.count_nonzero() for mask in masks]
    return int(torch.stack(counts).sum()) if counts else 0


def _share(part: int, whole: int, *, empty: float) -> float:
    return part / whole if whole else empty


def _pairs(first: Topology, second: Topology) -> list[tuple[Tensor, Tensor]]:
    if odd := sorted(first.keys() ^ second.keys()):
        raise ValueError(
            f"The two topologies cannot be compared, because only one of them has {', '.join(odd)}. "
            "Give masks of the same layers."
        )
    for name, mask in first.items():
        if mask.shape != second[name].shape:
            raise ValueError(
                f"The two topologies cannot be compared, because {name} has shape {tuple(mask.shape)} in one and "
                f"{tuple(second[name].shape)} in the other. Give masks of the same model."
            )
    return [(mask, second[name]) for name, mask in first.items()]
