"""Acquisition: what growth adds to the gradient so that units are tried that few topologies held.

Growing by abs(gradient) alone exploits; these scores explore as well. Units are counted, drawn for and ranked as a
whole, whatever the structure: `visits` are topologies that held the unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rewire.core.schedule import Schedule
from rewire.core.score import GRADIENT, VISITS, Layer, Need, Random, Score, of_units

_THOMPSON, _EPSILON = 0x7503, 0xE951  # streams of randomness, apart from that of Random


@dataclass(frozen=True)
class Bonus(Score):
    """What is added to abs(gradient), the smaller the more topologies held the unit.

    c: a number, or a schedule over steps. eps: keeps the bonus finite for a unit that was never active.
    scale: "none" takes c as it is, whose size must be chosen against that of the gradients; with "layer" the bonus is
        measured in units of the mean abs(gradient) over the layer's inactive weights at this step, so that one c fits
        layers, losses and loss scales alike.

    It is a float32 number (at least) under bf16 and fp16 as well: beside a gradient in 8 bits of precision a small
    bonus would be rounded away.
    """

    c: float | Schedule = 1e-5
    eps: float = 1.0
    scale: Literal["none", "layer"] = "none"

    def __post_init__(self) -> None:
        if self.eps <= 0:
            raise ValueError(
                f"eps={self.eps} would divide by zero for a weight that was never active. Use eps > 0, such as 1."
            )
        if isinstance(self.c, (int, float)) and not (math.isfinite(self.c) and self.c >= 0):
            raise ValueError(
                f"c={self.c} is not a bonus: it must be finite and at least 0 (0 is RigL-ITOP). Use c=1e-5, the "
                "authors' value."
            )
        if self.scale not in ("none", "layer"):
            raise ValueError(f'scale="{self.scale}" is unknown. Use scale="none" or scale="layer".')

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({VISITS, GRADIENT} if self.scale == "layer" else {VISITS})

    def sized(self, layer: Layer, factor: float = 1.0) -> float | Tensor:
        """Returns c of this step times a factor, in the units that `scale` says."""
        factor *= self.c(layer.step) if isinstance(self.c, Schedule) else self.c
        if self.scale == "none":
            return factor
        inactive = ~layer.active
        sums = layer.dense_grad().abs().mean(-1).mul_(inactive).sum()
        return factor * sums / inactive.sum().clamp(min=1)

    def counted(self, layer: Layer) -> Float[Tensor, "groups units 1"]:
        """Returns N + eps of every unit."""
        visits = layer.visits.to(torch.promote_types(layer.weight.dtype, torch.float32))
        return visits.unsqueeze(-1) + self.eps


@dataclass(frozen=True)
class Exploration(Bonus):
    """The exploration bonus of DST-EE: c * ln(t) / (N + eps).

    t: `layer.step`, optimizer steps so far. N: `layer.visits`, topologies so far in which the unit was active. c, eps,
    scale: as in `Bonus`; "none" is the printed formula. Before the second step the bonus is 0.

    Reference: Huang et al., Dynamic Sparse Training via Balancing the Exploration-Exploitation Trade-off, DAC 2023,
    section III, https://arxiv.org/abs/2211.16667
    """

    def __call__(self, layer: Layer) -> Float[Tensor, "#groups #units #size"]:
        return self.sized(layer, math.log(max(layer.step, 1))) / self.counted(layer)


@dataclass(frozen=True)
class Thompson(Bonus):
    """Thompson sampling: c * z / sqrt(N + eps), with z standard normal, one for each unit.

    Added to abs(gradient) it gives a sample of a normal posterior whose mean is what was seen now and whose deviation
    shrinks with N, the topologies so far in which the unit was active. c, eps, scale: as in `Bonus`. There is no ln(t),
    so the same c is a smaller bonus than in `Exploration`. z comes from the layer's key, drawn on the CPU in float32 so
    that every device, type and rank agrees.

    Reference: Thompson, On the Likelihood that One Unknown Probability Exceeds Another in View of the Evidence of Two
    Samples, Biometrika 25, 1933; Chapelle and Li, An Empirical Evaluation of Thompson Sampling, NIPS 2011,
    https://papers.nips.cc/paper/2011/hash/e53a0a2978c28872a4505bdb51db06dc-Abstract.html
    """

    def __call__(self, layer: Layer) -> Float[Tensor, "#groups #units #size"]:
        generator = torch.Generator().manual_seed(layer.key ^ _THOMPSON)
        z = torch.randn((*layer.active.shape, 1), generator=generator).to(layer.weight.device)
        return self.sized(layer) * z / self.counted(layer).sqrt_()


@dataclass(frozen=True)
class EpsilonGreedy(Score):
    """Epsilon-greedy growth: the share `epsilon` of what grows is picked at random, the rest by `score`.

    How many units grow is not known to a score, so it is one order whose beginnings all have that share. A group's
    inactive units stand in two orders, by the score and at random, and the i-th and j-th of them (from 0) have the
    positions

        (i + u) / (1 - epsilon)    and    (j + 1 - u) / epsilon,    u uniform on [0, 1), one for each group

    so that of the first m positions floor(epsilon m + u) are of the random order: epsilon m, rounded up or down such
    that it is right on average, in the small groups of N:M too. A unit counts at the earlier of its two, and its score
    is minus that. So the best k are all that the first m picks hold, for some m >= k; m > k where both orders picked
    the same unit.

    Active units, which can be grown only where this very update dropped them, stand just before the inactive unit that
    follows them in either order and use up no place: the scores of inactive units do not depend on them. Ties go to the
    lower index.

    epsilon: 0 is `score` itself and 1 is `Random()`, each bit for bit. Costs two sorts of the layer.

    Reference: Sutton and Barto, Reinforcement Learning, second edition, 2018, section 2.2,
    http://incompleteideas.net/book/the-book-2nd.html
    """

    score: Score
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ValueError(
                f"epsilon={self.epsilon} is outside [0, 1]: it is the share of grown weights that is picked at random. "
                "Use epsilon=0.1."
            )

    @property
    def needs(self) -> frozenset[Need]:
        return self.score.needs

    def __call__(self, layer: Layer) -> Float[Tensor, "#groups #units #size"]:
        if self.epsilon in (0, 1):
            return self.score(layer) if self.epsilon == 0 else Random()(layer)
        generator = torch.Generator().manual_seed(layer.key ^ _EPSILON)
        u = torch.rand((len(layer.active), 1), generator=generator).to(layer.weight.device)
        greedy = _positions(of_units(self.score, layer), layer.active, u, 1 - self.epsilon)
        chance = _positions(of_units(Random(), layer), layer.active, 1 - u, self.epsilon)
        return -torch.minimum(greedy, chance).unsqueeze(-1)


def _positions(
    score: Float[Tensor, "groups units"],
    active: Bool[Tensor, "groups units"],
    offset: Float[Tensor, "groups 1"],
    share: float,
) -> Float[Tensor, "groups units"]:
    """Returns (i + offset) / share for the i-th best inactive unit of a group; active units come just before the next.

    In float64, which tells the units of the largest layers apart; MPS has none.
    """
    dtype = torch.float32 if score.device.type == "mps" else torch.float64
    order = score.argsort(dim=-1, descending=True, stable=True)
    active = active.gather(-1, order)
    before = (~active).cumsum(-1) - (~active).int()
    units = order.shape[1]
    just = torch.arange(-units, 0, dtype=dtype, device=order.device) / (units << 10)  # among themselves in order
    positions = (before + offset.to(dtype)) / share + just * active
    return torch.empty_like(positions).scatter_(-1, order, positions)
