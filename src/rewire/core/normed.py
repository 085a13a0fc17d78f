"""Scores that do not depend on the scale of an output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rewire.core.score import Layer, Need, Score


@dataclass(frozen=True)
class Normed(Score):
    """The score times a power of the norm of the weights of the same output (neuron, channel).

    Where a normalisation follows the layer, the loss does not change when all weights of an output are multiplied by
    a number; but they grow by it, and their gradients shrink by it. ``Normed(Magnitude(), -1)`` and
    ``Normed(Gradient(), 1)`` do not change either. For an output without active weights they are 0.
    """

    score: Score
    power: Literal[-1, 1]

    @property
    def needs(self) -> frozenset[Need]:
        return self.score.needs

    def __call__(self, layer: Layer) -> Float[Tensor, "groups units size"]:
        norms = layer.output_norms()
        if self.power == 1:
            return self.score(layer) * norms
        return self.score(layer) / norms.clamp(min=torch.finfo(norms.dtype).tiny)


def reads_norms(score: Score) -> bool:
    """Returns whether a score is `Normed`, or made of one that is."""
    return isinstance(score, Normed) or any(
        reads_norms(part) for part in vars(score).values() if isinstance(part, Score)
    )
