"""Pairs of nodes that no edge joins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Int64
from torch import Tensor

from rewire.tasks.graphs.edges import Edges
from rewire.tasks.graphs.seeds import generator, moved


@dataclass(frozen=True, eq=False)
class NonEdges:
    """All ordered pairs of two different nodes that are no edge of a graph; of an undirected one in neither order.

    A pair (u, v) is the number u * nodes + v. `taken` are the numbers of self loops, edges and whatever else is not to
    be drawn, ascending; the k-th number that is not taken is then found by bisection, so that drawing one needs no
    rejection and cannot fail.
    """

    nodes: int
    directed: bool
    taken: Int64[Tensor, " taken"]

    @classmethod
    def of(cls, edges: Edges) -> NonEdges:
        """Those of the whole graph: what is to be found in validation and test is no negative of the training set."""
        loops = torch.arange(edges.nodes) * (edges.nodes + 1)
        return cls(edges.nodes, edges.directed, loops).without(edges.pairs)

    def without(self, pairs: Int64[Tensor, "n 2"]) -> NonEdges:
        """Those that are left without these pairs, in an undirected graph without either order of them."""
        both = pairs if self.directed else torch.cat([pairs, pairs.flip(1)])
        return replace(self, taken=torch.cat([self.taken, both[:, 0] * self.nodes + both[:, 1]]).unique())

    def to(self, device: torch.device | str) -> NonEdges:
        """The same on a device, where `corrupt` then draws the same pairs."""
        return replace(self, taken=self.taken.to(device))

    def __len__(self) -> int:
        return self.nodes**2 - len(self.taken)

    def corrupt(self, positives: Int64[Tensor, "n 2"], draws: torch.Generator) -> Int64[Tensor, "n 2"]:
        """One non-edge for each edge: with p = 0.5 another tail to its head, else any non-edge; drawn independently.

        A head that has no other tail left gets any non-edge too. The distribution is that of drawing until the pair is
        not taken. The same pair may come twice, as in the paper. `draws` is on the CPU; on a GPU the rest is done
        there, and the host does not wait.

        Reference: N. Talati et al., "A Deep Dive Into Understanding The Random Walk-Based Temporal Graph Learning",
        IISWC 2021 (they reject edges only; here a node is no neighbour of itself either).
        """
        if not len(self):
            raise ValueError(
                f"No pair of the {self.nodes} nodes is left that is neither an edge nor held out as a non-edge, so "
                "there is nothing to tell edges from. Use a graph with more nodes or fewer edges."
            )
        first, count = self._ranges
        coins, numbers = moved(torch.randint(2**62, (2, len(positives)), generator=draws), positives.device)
        row = positives[:, 0].masked_fill(coins % 2 == 0, self.nodes)
        rank = first[row] + numbers % count[row]  # but for a bias below count / 2**62 uniform
        number = rank + torch.searchsorted(self._free_before, rank, right=True)
        return torch.stack([number // self.nodes, number % self.nodes], 1)

    @cached_property
    def _ranges(self) -> tuple[Int64[Tensor, " rows"], Int64[Tensor, " rows"]]:
        """Of each head, and at last of all: the rank of its first non-edge, and how many it has (if none: as all)."""
        starts = torch.arange(self.nodes + 1, device=self.taken.device) * self.nodes
        first = starts - torch.searchsorted(self.taken, starts)
        count = first.diff()
        none = torch.cat([count == 0, count.new_ones(1, dtype=torch.bool)])
        return first.masked_fill(none, 0), torch.cat([count, count.new_zeros(1)]).masked_fill(none, len(self))

    @cached_property
    def _free_before(self) -> Int64[Tensor, " taken"]:
        """How many non-edges have a smaller number than each of `taken`."""
        return self.taken - torch.arange(len(self.taken), device=self.taken.device)


def held_out_first(
    edges: Edges, positives: Mapping[str, Int64[Tensor, "_ 2"]], seed: int
) -> tuple[dict[str, Int64[Tensor, "_ 2"]], NonEdges]:
    """One non-edge for each edge of "train", "validation" and "test" (see `corrupt`), and all that training may draw.

    No pair is in two of the sets, in an undirected graph in no order. The seed draws those of the test first, then
    those of validation; neither is drawn in training, which thereby sees no held-out non-edge, as it sees no held-out
    edge. If it saw all other non-edges, what it has never seen would be an edge.

    Reference: M. Zhang, Y. Chen, "Link Prediction Based on Graph Neural Networks", 2018,
    https://arxiv.org/abs/1802.09691, whose code divides one sample of non-edges among training and test (in
    which a pair may come twice, and so be in both).
    """
    left, found = NonEdges.of(edges), {}
    for part in ("test", "validation", "train"):
        found[part] = left.corrupt(positives[part], generator(seed, "negatives", part))
        left = left.without(found[part]) if part != "train" else left
    return found, left


def oriented(pairs: Int64[Tensor, "n 2"], draws: torch.Generator) -> Int64[Tensor, "n 2"]:
    """The pairs of an undirected graph with heads drawn by lot: as read, the order of an edge would give it away."""
    turned = torch.rand(len(pairs), generator=draws) < 0.5
    return torch.where(turned[:, None], pairs.flip(1), pairs)
