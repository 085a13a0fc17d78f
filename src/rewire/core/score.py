"""Scores: what makes a unit worth keeping or growing.

A score is a frozen value that is called with a `Layer` and returns one number per weight, ``(groups, units, size)``
or broadcastable to it; the score of a unit is the mean over its weights. Scores add and take factors, so that a new
method is a sum: ``Gradient() + Exploration(c)`` is the acquisition function of DST-EE. A score declares what it
`needs`, and the Sparsifier keeps exactly that.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from rewire.core.structure import Structure, Unstructured


@dataclass(frozen=True)
class Layer:
    """All that a score may look at, at one update of one layer.

    shape: of the weight, before the fold.
    weight: 0 on inactive weights.
    grad: of the loss, dense, mean over micro-batches and ranks; None where no score of the method needs it.
    active: which units are.
    visits: topologies so far that held the unit, the initial one included (saturates at 255); where no score reads
        them, 1 for "ever active".
    extra: what the scores' `needs` asked for, by name.
    step: optimizer steps taken, from 1.
    key: seed of this layer's randomness at this step, the same on every rank and after a restart.
    structure: which made groups and units of the weight.
    """

    shape: torch.Size
    weight: Float[Tensor, "groups units size"]
    grad: Float[Tensor, "groups units size"] | None
    active: Bool[Tensor, "groups units"]
    visits: Shaped[Tensor, "groups units"]
    extra: Mapping[str, Tensor]
    step: int
    key: int
    structure: Structure = field(default=Unstructured())

    def dense_grad(self) -> Float[Tensor, "groups units size"]:
        """Returns the gradient, for a score that declared that it needs it."""
        assert self.grad is not None, "a score that reads the gradient must list GRADIENT in its needs"
        return self.grad

    def output_norms(self) -> Float[Tensor, "groups units size"]:
        """Returns for every weight the Euclidean norm of all weights of its output (neuron, channel)."""
        weight = self.structure.unfold(self.weight, self.shape)
        norms = weight.flatten(1).norm(dim=1).view(-1, *[1] * (len(self.shape) - 1))
        return self.structure.fold(norms.expand(self.shape))


def layer_key(seed: int, name: str, step: int) -> int:
    """Returns the seed of a layer's randomness at a step: the same on every rank and after a restart."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}/{step}".encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Need:
    """Something that a score reads and that the Sparsifier has to provide.

    gradient: when the dense weight gradient must exist for it: at due steps only, at every step, or never.
    window: steps, the due one included, whose dense gradient it must see, where that is for due steps.
    """

    name: str
    gradient: Literal["never", "due", "always"] = "never"
    window: int = 1

    def start(self, weight: Tensor) -> Tensor | None:
        """Returns the buffer to keep between steps, in the weight's shape, or None where nothing is kept."""
        return None

    def observe_(self, buffer: Tensor, gradient: Tensor) -> None:
        """Takes in the dense gradient of one step, in place."""

    def restart_(self, buffer: Tensor) -> None:
        """Begins anew after an update, in place."""

    def born_(self, buffer: Tensor, born: Tensor, key: int) -> None:
        """Hears, at an update, which weights were grown, True in the weight's shape. `key` seeds its randomness."""


GRADIENT = Need("gradient", "due")
VISITS = Need("visits")


@dataclass(frozen=True)
class GradientAverage(Need):
    """A running mean of the dense gradient, one float per weight: mean = decay * mean + (1 - decay) * gradient."""

    name: str = field(init=False)
    gradient: Literal["never", "due", "always"] = field(default="always", init=False)
    window: int = field(default=1, init=False)
    decay: float = 0.9

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"gradient_mean_{self.decay:g}")  # one buffer for each decay

    def start(self, weight: Tensor) -> Tensor | None:
        return torch.zeros_like(weight)

    def observe_(self, buffer: Tensor, gradient: Tensor) -> None:
        buffer.lerp_(gradient, 1 - self.decay)


@dataclass(frozen=True)
class RecentGradient(Need):
    """The mean of the dense gradient over the last `window` steps before an update, one float per weight."""

    name: str = field(init=False)
    gradient: Literal["never", "due", "always"] = field(default="due", init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"recent_gradient_{self.window}")  # one buffer for each window

    def start(self, weight: Tensor) -> Tensor | None:
        return torch.zeros_like(weight)

    def observe_(self, buffer: Tensor, gradient: Tensor) -> None:
        buffer.add_(gradient, alpha=1 / self.window)

    def restart_(self, buffer: Tensor) -> None:
        buffer.zero_()


class Score(ABC):
    """One number per weight; higher is kept, or grown, first."""

    @property
    def needs(self) -> frozenset[Need]:
        """What the score reads beyond the weight and the active units."""
        return frozenset()

    @abstractmethod
    def __call__(self, layer: Layer) -> Float[Tensor, "#groups #units #size"]:
        """Returns the score of every weight of the layer."""

    def __add__(self, other: Score) -> Score:
        return Sum(self, other)

    def __mul__(self, factor: float) -> Score:
        return Scaled(self, factor)

    def __rmul__(self, factor: float) -> Score:
        return Scaled(self, factor)


def of_units(score: Score, layer: Layer) -> Float[Tensor, "groups units"]:
    """Returns the score of every unit: the mean over its weights.

    Raises FloatingPointError where it is NaN, which has no place in any order.
    """
    values = score(layer).expand(layer.weight.shape)
    values = values.squeeze(-1) if values.shape[-1] == 1 else values.mean(-1)
    if bool(values.isnan().any()):
        raise FloatingPointError(
            f"The score {score!r} of a weight of shape {tuple(layer.shape)} is NaN at step {layer.step}, so its units "
            "cannot be ranked; no mask was changed. Give a score that is a number wherever weight and gradient are."
        )
    return values


@dataclass(frozen=True)
class Sum(Score):
    """first + second."""

    first: Score
    second: Score

    @property
    def needs(self) -> frozenset[Need]:
        return self.first.needs | self.second.needs

    def __call__(self, layer: Layer) -> Float[Tensor, "#groups #units #size"]:
        return self.first(layer) + self.second(layer)


@dataclass(frozen=True)
class Scaled(Score):
    """factor * score."""

    score: Score
    factor: float

    @property
    def needs(self) -> frozenset[Need]:
        return self.score.needs

    def __call__(self, layer: Layer) -> Float[Tensor, "#groups #units #size"]:
        return self.score(layer) * self.factor


@dataclass(frozen=True)
class Absolute(Score):
    """abs(score), weight by weight."""

    score: Score

    @property
    def needs(self) -> frozenset[Need]:
        return self.score.needs

    def __call__(self, layer: Layer) -> Float[Tensor, "#groups #units #size"]:
        return self.score(layer).abs()


@dataclass(frozen=True)
class Magnitude(Score):
    """abs(weight)."""

    def __call__(self, layer: Layer) -> Float[Tensor, "#groups #units #size"]:
        return layer.weight.abs()


@dataclass(frozen=True)
class Gradient(Score):
    """abs(dL/dw), or dL/dw itself with ``signed=True``."""

    signed: bool = False

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({GRADIENT})

    def __call__(self, layer: Layer) -> Float[Tensor, "#groups #units #size"]:
        return layer.dense_grad() if self.signed else layer.dense_grad().abs()


@dataclass(frozen=True)
class GradientMean(Score):
    """abs of the running mean of the dense gradient over all steps, with the given decay.

    Reference: Dettmers and Zettlemoyer, Sparse Networks from Scratch, section 3.1, https://arxiv.org/abs/1907.04840
    """

    decay: float = 0.9

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({GradientAverage(decay=self.decay)})

    def __call__(self, layer: Layer) -> Float[Tensor, "#groups #units #size"]:
        return layer.extra[GradientAverage(decay=self.decay).name].abs()


@dataclass(frozen=True)
class RecentGradientMean(Score):
    """abs of the mean of the dense gradient over the last `window` steps before an update, that step included.

    The mean itself with ``signed=True``. Noise of single batches averages out; it costs one float per weight and the
    dense gradient at that many steps. A window of 1 is `Gradient`, which keeps nothing.
    """

    window: int
    signed: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.window, int) or self.window < 1:
            raise ValueError(
                f"window={self.window} is not a number of steps to average the gradient over, that of the update "
                "included. Use a whole number of at least 1, such as window=4."
            )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({RecentGradient(window=self.window)})

    def __call__(self, layer: Layer) -> Float[Tensor, "#groups #units #size"]:
        mean = layer.extra[RecentGradient(window=self.window).name]
        return mean if self.signed else mean.abs()


@dataclass(frozen=True)
class Random(Score):
    """Uniform on [0, 1), from the layer's key, drawn on the CPU so that every device and rank agrees."""

    def __call__(self, layer: Layer) -> Float[Tensor, "#groups #units #size"]:
        generator = torch.Generator().manual_seed(layer.key)
        values = torch.rand((*layer.active.shape, 1), generator=generator)
        return values.to(layer.weight.device)
