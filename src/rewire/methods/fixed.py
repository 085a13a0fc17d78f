"""Methods that leave the topology alone."""

from __future__ import annotations

from rewire.core.method import Method
from rewire.methods.registry import method


@method(
    "dense",
    paper="-",
    keeps="all weights",
    costs="everything: it is what the others save",
)
def dense() -> Method:
    """Returns ordinary training, for use with sparsity=0: the baseline of every comparison."""
    return Method("dense")


@method(
    "static",
    paper="Liu et al., ICLR 2022, https://arxiv.org/abs/2202.02643",
    keeps="every mask",
    costs="nothing",
)
def static() -> Method:
    """Returns a fixed mask, drawn once before training.

    Reference: Liu et al., The Unreasonable Effectiveness of Random Pruning, https://arxiv.org/abs/2202.02643
    """
    return Method("static")
