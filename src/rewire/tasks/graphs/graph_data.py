"""The examples of message passing: a graph to pass messages along, and pairs of nodes to tell apart."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from rewire.tasks.graphs.edges import Edges, remarks, simple
from rewire.tasks.graphs.negatives import NonEdges, held_out_first, oriented
from rewire.tasks.graphs.seeds import generator
from rewire.tasks.graphs.split import split


@dataclass(frozen=True, eq=False)
class LabelledPairs:
    """Edges, and as many pairs of nodes that are none."""

    positive: Int64[Tensor, "n 2"]
    negative: Int64[Tensor, "n 2"]


@dataclass(frozen=True, eq=False)
class GraphData:
    """Learn from `train`, choose by `validation`, read `test` once, at the end; messages pass along `edge_index_train`.

    `edge_index_train` holds the training edges in both directions and no other edge. `non_edges` draws other negatives
    for `train.positive`, as training may want in every epoch, never one of validation or test. `fingerprint` is that of
    the edges as read. `note` belongs beside every figure measured on this data.
    """

    name: str
    num_nodes: int
    edge_index_train: Int64[Tensor, "2 arcs"]
    train: LabelledPairs
    validation: LabelledPairs
    test: LabelledPairs
    non_edges: NonEdges
    fingerprint: str = ""
    note: str = ""

    def __repr__(self) -> str:
        note = f", {self.note}" if self.note else ""
        return (
            f"GraphData({self.name}: {self.num_nodes} nodes; {len(self.train.positive)} training, "
            f"{len(self.validation.positive)} validation and {len(self.test.positive)} test edges, as many "
            f"non-edges{note})"
        )


def graph_data(edges: Edges, *, validation: float = 0.05, test: float = 0.1, seed: int = 0) -> GraphData:
    """The graph made simple and undirected (see `simple`), its edges divided (see `split`), negatives drawn 1:1.

    Neither the edges nor the non-edges of validation and test occur in training (see `held_out_first`).

    The default fractions are those of T. Kipf, M. Welling, "Variational Graph Auto-Encoders", 2016,
    https://arxiv.org/abs/1611.07308
    """
    graph = simple(edges)
    directions = "directions dropped" if edges.directed else ""
    parts = split(graph, validation=validation, test=test, seed=seed)
    pairs = oriented(graph.pairs, generator(seed, "orientation"))
    positives = {"train": pairs[parts.train], "validation": pairs[parts.validation], "test": pairs[parts.test]}
    negatives, others = held_out_first(graph, positives, seed)
    train, validated, tested = (LabelledPairs(positives[part], negatives[part]) for part in positives)
    return GraphData(
        name=edges.name,
        num_nodes=edges.nodes,
        edge_index_train=torch.cat([train.positive, train.positive.flip(1)]).T.contiguous(),
        train=train,
        validation=validated,
        test=tested,
        non_edges=others,
        fingerprint=edges.fingerprint,
        note=remarks(graph.note, directions, parts.note, "no held-out edge or non-edge is trained on"),
    )
