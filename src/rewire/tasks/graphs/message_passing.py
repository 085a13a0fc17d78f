"""Encoders that pass messages between neighbours. The one place that uses torch_geometric."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rewire.tasks.graphs.seeds import generator


class LinkPredictor(nn.Module):
    """Scores pairs of nodes by the dot product of what message passing makes of learned node embeddings.

    The embeddings stand for node features, which an edge list has not; they are nodes x width, often most of the
    parameters, and as an nn.Embedding they stay dense.

    layers: torch_geometric layers, called as layer(x, edge_index); a ReLU stands between two.
    """

    def __init__(self, nodes: int, width: int, layers: list[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(nodes, width)
        self.layers = nn.ModuleList(layers)

    def forward(self, edge_index: Int64[Tensor, "2 arcs"], pairs: Int64[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """The logit of each pair being an edge; messages pass from edge_index[0] to edge_index[1], all at once."""
        heads, tails = self.encode(edge_index)[pairs].unbind(1)
        return (heads * tails).sum(1)

    def encode(self, edge_index: Int64[Tensor, "2 arcs"]) -> Float[Tensor, "nodes width"]:
        """What the last layer makes of each node."""
        x: Tensor = self.embedding.weight.clone()  # no weight itself, so that FLOPs belong to what multiplies it
        for number, layer in enumerate(self.layers):
            x = layer(x.relu() if number else x, edge_index)
        return x


def gcn(nodes: int, *, width: int = 128, layers: int = 2, seed: int = 0) -> LinkPredictor:
    """Graph convolutions: x' = D^-1/2 (A + I) D^-1/2 x W^T + b, with D the degrees of A + I.

    Each layer has one weight (width, width), `layers.N.lin.weight`.

    Reference: T. Kipf, M. Welling, "Semi-Supervised Classification with Graph Convolutional Networks", 2017,
    https://arxiv.org/abs/1609.02907
    """

    def layer() -> nn.Module:
        convolution: nn.Module = _torch_geometric().GCNConv(width, width)
        convolution.lin = nn.Linear(width, width, bias=False)
        return convolution

    return _initialised(lambda: LinkPredictor(nodes, width, [layer() for _ in range(layers)]), seed)


def graphsage(nodes: int, *, width: int = 128, layers: int = 2, seed: int = 0) -> LinkPredictor:
    """GraphSAGE with the mean: x' = mean of the neighbours' x W_l^T + b + x W_r^T; no neighbour, no mean (0).

    Each layer has two weights (width, width), `layers.N.lin_l.weight` and `layers.N.lin_r.weight`.

    Reference: W. Hamilton et al., "Inductive Representation Learning on Large Graphs", 2017,
    https://arxiv.org/abs/1706.02216
    """

    def layer() -> nn.Module:
        convolution: nn.Module = _torch_geometric().SAGEConv(width, width)
        convolution.lin_l = nn.Linear(width, width)
        convolution.lin_r = nn.Linear(width, width, bias=False)
        return convolution

    return _initialised(lambda: LinkPredictor(nodes, width, [layer() for _ in range(layers)]), seed)


def _torch_geometric() -> Any:
    """Its layers. Their own Linear is no nn.Linear, and is replaced by one, which every tool for PyTorch knows."""
    try:
        from torch_geometric import nn as layers
    except ImportError as error:
        raise ImportError(
            "Messages cannot be passed: that is the work of torch_geometric, which is not installed. "
            'Type: pip install "rewire[graphs]"'
        ) from error
    return layers


def _initialised(build: Callable[[], LinkPredictor], seed: int) -> LinkPredictor:
    """The model with Glorot uniform matrices (embeddings too) and biases 0, drawn from `seed` alone."""
    with torch.random.fork_rng(devices=[]):  # its layers draw numbers of their own, which are overwritten
        model = build()
    draws = generator(seed, "weights")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter, generator=draws)
        else:
            nn.init.zeros_(parameter)
    return model


WIDTH = 128
ENCODERS: dict[str, Callable[..., LinkPredictor]] = {"gcn": gcn, "graphsage": graphsage}
