"""The network of the DST-EE paper's link prediction: an MLP on the vectors of two nodes."""

from collections import OrderedDict
from collections.abc import Sequence

from jaxtyping import Float32
from torch import Tensor, nn

from rewire.tasks.models.mlp import mlp


def pair_mlp(embeddings: Float32[Tensor, "nodes dimensions"], widths: Sequence[int], *, seed: int = 0) -> nn.Sequential:
    """`mlp` with one output, the logit of an edge, on the vectors of head and tail, one after the other.

    It takes pairs of nodes, (n, 2). The vectors are as given and never trained. As a frozen nn.Embedding they stay
    dense, and are in the model's file and among its weights.

    >>> import torch
    >>> network = pair_mlp(torch.zeros(50, 8), [128])
    >>> [(name, tuple(p.shape)) for name, p in network.named_parameters() if p.ndim == 2]
    [('embedding.weight', (50, 8)), ('fc1.weight', (128, 16)), ('fc2.weight', (1, 128))]
    >>> network(torch.tensor([[1, 0], [7, 3]])).shape
    torch.Size([2, 1])
    """
    layers = mlp(2 * embeddings.shape[1], widths, 1, seed=seed).named_children()
    vectors = nn.Embedding.from_pretrained(embeddings.clone(), freeze=True)  # not shared with other models
    return nn.Sequential(OrderedDict([("embedding", vectors), *layers]))
