"""Which edges are learned from, which choose, and which are read once, at the end."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from rewire.tasks.graphs.edges import Edges
from rewire.tasks.graphs.seeds import generator


@dataclass(frozen=True, eq=False)
class EdgeSplit:
    """Three disjoint sets of places in `Edges.pairs`, each ascending, that together are all edges.

    `note` says what made the test set: "split by time" or "split at random".
    """

    train: Int64[Tensor, " train"]
    validation: Int64[Tensor, " validation"]
    test: Int64[Tensor, " test"]
    note: str


def split(edges: Edges, *, validation: float, test: float, seed: int = 0) -> EdgeSplit:
    """Exactly round(test * edges) test edges and round(validation * edges) validation edges, the rest to train on.

    With times the test edges are the latest, whatever the seed (where the boundary falls among equal times: those
    further down in the file); the others are divided at random. Without times all are. Edges, that is events, are
    disjoint: two nodes that meet often may do so in several of the sets. Divide `simple(edges)` to have disjoint pairs.

    Reference for the split by time: N. Talati et al., "A Deep Dive Into Understanding The Random Walk-Based Temporal
    Graph Learning", IISWC 2021; their code draws validation edges that may be training edges too, this one does not.
    """
    count, held, tested = len(edges), round(validation * len(edges)), round(test * len(edges))
    if min(held, tested, count - held - tested) < 1:
        raise ValueError(
            f"{edges.name} has {count} edges, and fractions of {validation} for validation and {test} for the test "
            f"make sets of {count - held - tested}, {held} and {tested}: none may be empty. Use a larger graph, or "
            "fractions like 0.2 and 0.2."
        )
    shuffled = torch.randperm(count, generator=generator(seed, "split"))
    if edges.times is not None:
        latest = edges.times.argsort(stable=True)[count - tested :]
        late = torch.zeros(count, dtype=torch.bool)
        late[latest] = True
        shuffled = torch.cat([latest, shuffled[~late[shuffled]]])
    parts = shuffled.split([tested, held, count - tested - held])
    tested_on, chosen_by, learned_from = (part.sort().values for part in parts)
    note = "split at random" if edges.times is None else "split by time"
    return EdgeSplit(test=tested_on, validation=chosen_by, train=learned_from, note=note)
