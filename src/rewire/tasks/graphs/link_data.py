"""The examples of a plain MLP: pairs of nodes, and the vectors that stand for their ends."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from rewire.tasks.graphs.edges import Edges, remarks
from rewire.tasks.graphs.negatives import held_out_first, oriented
from rewire.tasks.graphs.seeds import generator
from rewire.tasks.graphs.split import EdgeSplit, split
from rewire.tasks.graphs.walks import random_walks
from rewire.tasks.graphs.word2vec import word2vec


@dataclass(frozen=True, eq=False)
class LinkExamples:
    """Pairs of nodes, labelled 1 for an edge and 0 for none: all edges, then as many non-edges."""

    pairs: Int64[Tensor, "n 2"]
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class LinkData:
    """Learn from `train`, choose by `validation`, read `test` once, at the end.

    `embeddings` are what a network sees of the nodes, and part of it (see `pair_mlp`): dense, and counted in its size.
    `fingerprint` is that of the edges as read.
    `note` is a remark that belongs beside every figure measured on this data.
    """

    name: str
    train: LinkExamples
    validation: LinkExamples
    test: LinkExamples
    embeddings: Float32[Tensor, "nodes dimensions"]
    edges: int
    fingerprint: str = ""
    note: str = ""

    @property
    def nodes(self) -> int:
        return len(self.embeddings)

    def __repr__(self) -> str:
        note = f", {self.note}" if self.note else ""
        return (
            f"LinkData({self.name}: {len(self.train)} training, {len(self.validation)} validation and "
            f"{len(self.test)} test pairs of {self.nodes} nodes, {self.edges} edges{note})"
        )


def link_data(
    edges: Edges,
    *,
    validation: float = 0.2,
    test: float = 0.2,
    walks: int = 10,
    length: int = 5,
    dimensions: int = 8,
    window: int = 5,
    negatives: int = 5,
    epochs: int = 5,
    seed: int = 0,
    walk_over: Literal["train", "all"] = "train",
) -> LinkData:
    """The link-prediction pipeline of the DST-EE paper, with its settings as defaults.

    Edges are divided (see `split`), the training edges alone are walked along (`random_walks`) and the walks embedded
    (`word2vec`, whose are `window`, `negatives` and `epochs`); to the edges of each set come as many non-edges of the
    whole graph, of which no pair is in two of the sets (`held_out_first`). A node that only validation or test edges
    join has the vector 0.

    walks: of each node. length: edges of a walk. epochs: of word2vec. walk_over: "all" is what the public code of
    Talati et al. (see `split`) does: it walks along all edges, test edges included, so that the vectors of two nodes
    know whether they will be joined. Such figures are much higher, and comparable among themselves only.

    That code also differs in word2vec: skip-gram, window 10, one epoch.

    Reference: S. Huang et al., "Dynamic Sparse Training via Balancing the Exploration-Exploitation Trade-off", DAC
    2023, https://arxiv.org/abs/2211.16667
    """
    parts = split(edges, validation=validation, test=test, seed=seed)
    seen = parts.train if walk_over == "train" else torch.arange(len(edges))
    walked = random_walks(
        edges.pairs[seen],
        None if edges.times is None else edges.times[seen],
        directed=edges.directed,
        per_node=walks,
        length=length,
        seed=seed,
    )
    vectors, missing = word2vec(
        walked, edges.nodes, dimensions=dimensions, window=window, negatives=negatives, epochs=epochs, seed=seed
    )
    pairs = edges.pairs if edges.directed else oriented(edges.pairs, generator(seed, "orientation"))
    positives = {"train": pairs[parts.train], "validation": pairs[parts.validation], "test": pairs[parts.test]}
    non_edges, _ = held_out_first(edges, positives, seed)

    def examples(part: str) -> LinkExamples:
        both = torch.cat([positives[part], non_edges[part]])
        return LinkExamples(both, (torch.arange(len(both)) < len(positives[part])).long())

    return LinkData(
        name=edges.name,
        train=examples("train"),
        validation=examples("validation"),
        test=examples("test"),
        embeddings=vectors,
        edges=len(edges),
        fingerprint=edges.fingerprint,
        note=remarks(LEAK if walk_over == "all" else "", _note(edges, parts, int(missing.sum()))),
    )


LEAK = "the walks saw the test edges, a leak, as in the published code: to be compared with its figures only"


def _note(edges: Edges, parts: EdgeSplit, missing: int) -> str:
    """What was left out, how the sets were made, how much of the test is no new link, and how many nodes are blank."""
    numbers = edges.pairs[:, 0] * edges.nodes + edges.pairs[:, 1]
    known = torch.isin(numbers[parts.test], numbers[parts.train]).double().mean().item()
    return remarks(
        edges.note,
        parts.note,
        "no held-out non-edge is trained on",
        f"{known:.0%} of the test edges join nodes that a training edge joins" if known else "",
        f"{missing / edges.nodes:.0%} of the nodes are on no walk and have the vector 0" if missing else "",
    )
