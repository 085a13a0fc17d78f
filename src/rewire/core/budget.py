"""Budgets: how many weights each layer may have, exact in the total.

`allocate` spreads a density over layers by their shapes, `rank` by scores, and a `Density` says how the total
moves over training.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rewire.core.schedule import Cubic
from rewire.core.select import nth_highest
from rewire.core.unfit import UnfitError

Distribution = Literal["uniform", "er", "erk", "global"]


class Density(ABC):
    """The density of the sparse layers over training, given the one that the user asked for."""

    @abstractmethod
    def __call__(self, step: int, target: float) -> float:
        """Returns the density planned after `step` optimizer steps; `target` is the final one."""


@dataclass(frozen=True)
class ConstantDensity(Density):
    """The target, always."""

    def __call__(self, step: int, target: float) -> float:
        return target


@dataclass(frozen=True)
class CubicDensity(Density):
    """Sparsity rises from `start` to the target by a cubic: s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3.

    start: sparsity s_i before step `begin` (t_0). end: the step t_1 from which the target holds.

    Reference: Zhu and Gupta, To prune, or not to prune, section 3, https://arxiv.org/abs/1710.01878
    """

    start: float
    begin: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise ValueError(
                f"CubicDensity(start={self.start}) is not a sparsity to begin with, because it is the share of weights "
                "that are zero, in [0, 1). Give start=0.0 to begin dense."
            )
        self(0, 0.0)  # raises ValueError where the steps make no schedule

    def __call__(self, step: int, target: float) -> float:
        return Cubic(1 - self.start, target, self.begin, self.end)(step)


@dataclass(frozen=True)
class Alternating(Density):
    """Phases of `every` steps, dense and sparse in turn from a dense one, up to step `last`; sparse from there on.

    Reference: Peste et al., AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks, section 3,
    https://arxiv.org/abs/2106.12379

    >>> [Alternating(every=2, last=6)(step, 0.1) for step in range(9)]
    [1.0, 1.0, 0.1, 0.1, 1.0, 1.0, 0.1, 0.1, 0.1]
    """

    every: int
    last: int

    def __post_init__(self) -> None:
        if self.every < 1 or self.last < 1 or self.last % (2 * self.every) != self.every:
            raise ValueError(
                f"{self} does not end sparse: its last step must be an odd multiple of every, at which a sparse phase "
                f"begins. Use for example last={max(1, self.every)}."
            )

    def __call__(self, step: int, target: float) -> float:
        return target if min(step, self.last) // self.every % 2 else 1.0


def layer_densities(shapes: Mapping[str, torch.Size], density: float, distribution: Distribution) -> dict[str, float]:
    """Returns the density of every layer such that the mean over all weights is `density`.

    uniform: the same everywhere. er: proportional to (in + out) / (in * out). erk: the same with the kernel sizes,
    sum(shape) / prod(shape). Layers whose density would exceed 1 become dense and the rest is solved again.

    Reference: Evci et al., Rigging the Lottery, section 3, https://arxiv.org/abs/1911.11134

    >>> layer_densities({"a": torch.Size([10, 10]), "b": torch.Size([10, 10])}, 0.2, "erk")
    {'a': 0.2, 'b': 0.2}
    """
    if distribution == "uniform":
        return dict.fromkeys(shapes, density)
    if distribution not in ("er", "erk"):
        raise ValueError(f'distribution="{distribution}" is unknown. Use one of "erk", "er", "uniform" or "global".')
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {
        name: sum(shape[:2]) / math.prod(shape[:2]) if distribution == "er" else sum(shape) / math.prod(shape)
        for name, shape in shapes.items()
    }
    dense: set[str] = set()
    while True:
        budget = density * sum(sizes.values()) - sum(sizes[name] for name in dense)
        room = sum(raw[name] * sizes[name] for name in shapes if name not in dense)
        scale = budget / room if room else 0.0
        above = {name for name in shapes if name not in dense and scale * raw[name] > 1}
        if not above:
            return {name: 1.0 if name in dense else scale * raw[name] for name in shapes}
        dense |= above


def allocate(
    shapes: Mapping[str, torch.Size],
    density: float,
    distribution: Distribution = "erk",
    *,
    overrides: Mapping[str, float] | None = None,
    quanta: Mapping[str, int] | None = None,
    most: Mapping[str, int] | None = None,
    near: bool = False,
) -> dict[str, int]:
    """Returns the number of active weights of every layer; the total is round(density * weights).

    shapes: weight shapes by layer name. overrides: densities of layers that leave the solve, by name.
    quanta: the step, in weights, in which a layer can change (1 where absent); a total that the steps cannot meet
    exactly is missed by less than one step. most: weights that no layer may exceed, all where absent. near: every layer
    is rounded up by one step at most, also where that leaves over what the steps of others are too large for.
    Fractions are rounded by largest remainder, ties in the order of the layers. Every layer keeps at least one step; a
    warning says which layers had less.

    Raises UnfitError where the budget is below one step a layer.
    """
    overrides, quanta = overrides or {}, quanta or {}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    step = {name: quanta.get(name, 1) for name in shapes}
    solved = {name: shape for name, shape in shapes.items() if name not in overrides}
    ideal = {name: overrides[name] * sizes[name] for name in shapes if name in overrides}
    total = sum(round(value) for value in ideal.values())
    if solved:
        ideal |= {n: d * sizes[n] for n, d in layer_densities(solved, density, distribution).items()}
        total += round(density * sum(sizes[name] for name in solved))
    return _round(ideal, {name: min(size, (most or sizes)[name]) for name, size in sizes.items()}, step, total, near)


def rank(
    scores: Mapping[str, Float[Tensor, "..."]],
    total: int,
    quanta: Mapping[str, int] | None = None,
    near: bool = False,
) -> dict[str, int]:
    """Returns how many of the `total` highest scores over all layers lie in each layer, at least one step each.

    Equal scores are taken in the order of the layers and, within a layer, of the weights; those of -inf are not taken.
    quanta, near: as in `allocate`.
    """
    sizes = {name: values.numel() for name, values in scores.items()}
    most = {name: int((values > -torch.inf).sum()) for name, values in scores.items()}
    total = min(total, sum(most.values()))
    everything = torch.cat([values.flatten() for values in scores.values()])
    pieces = dict(zip(scores, everything.split(list(sizes.values())), strict=True))  # now of one type
    count = min(max(total, 1), everything.numel())
    threshold = nth_highest(everything, count)
    ideal: dict[str, float] = {name: int((values > threshold).sum()) for name, values in pieces.items()}
    ties = count - int(sum(ideal.values()))
    for name, values in pieces.items():
        taken = min(ties, int((values == threshold).sum()))
        ideal[name] += taken
        ties -= taken
    return _round(ideal, most, {name: (quanta or {}).get(name, 1) for name in sizes}, total, near)


def _round(
    ideal: Mapping[str, float], sizes: Mapping[str, int], step: Mapping[str, int], total: int, near: bool
) -> dict[str, int]:
    """Whole numbers near `ideal`, multiples of `step`, between one step and the layer's size, that sum to total."""
    if total < sum(step.values()):
        raise UnfitError(
            f"The budget leaves {total} active weights for {len(sizes)} layers, and each needs at least one unit "
            f"({', '.join(f'{name}: {step[name]}' for name in list(sizes)[:4])}"
            f"{', ...' if len(sizes) > 4 else ''}), so a layer would be cut off. Lower the sparsity or leave small "
            "layers dense with exclude=[...]."
        )
    floored = [n for n in sizes if 2 * ideal[n] < step[n]]
    if floored:
        warnings.warn(
            f"The budget would leave {', '.join(floored)} without an active weight; each keeps the floor of one unit "
            f"per group ({', '.join(str(step[n]) for n in floored)}). Lower the sparsity, or leave them dense with "
            f'exclude=["{floored[0]}"].',
            stacklevel=2,
        )
    counts = {n: min(max(int(ideal[n] / step[n]), 1) * step[n], sizes[n]) for n in sizes}
    by_remainder = sorted(sizes, key=lambda n: counts[n] / step[n] - ideal[n] / step[n])
    missing = total - sum(counts.values())
    while missing > 0:  # give one step to the layers that were rounded down the most
        takers = [
            n
            for n in by_remainder
            if step[n] <= min(missing, sizes[n] - counts[n]) and not (near and counts[n] >= ideal[n])
        ]
        if not takers:
            break
        for name in takers:
            if step[name] <= min(missing, sizes[name] - counts[name]):
                counts[name] += step[name]
                missing -= step[name]
    while missing < 0:  # floors of one step took more than there was: the best-endowed layers pay
        donors = [n for n in counts if counts[n] >= 2 * step[n]]
        if not donors:
            break
        richest = max(donors, key=lambda n: counts[n] / step[n])
        counts[richest] -= step[richest]
        missing += step[richest]
    return counts


def match_overrides(names: list[str], sparsity: float | Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """Returns the overall sparsity and the sparsities of single layers, from a number or a mapping of globs.

    Of several globs that match a layer the last wins; "*" is the overall value, which the budget is solved for.
    A glob matches a weight's full name ("layer1.0.conv1.weight") or its module's ("layer1.0.conv1").

    >>> match_overrides(["conv1.weight", "fc.weight"], {"*": 0.95, "fc": 0.5})
    (0.95, {'fc.weight': 0.5})
    """
    if not isinstance(sparsity, (int, float, Mapping)):
        raise ValueError(
            f"sparsity={sparsity!r} is neither a number nor a mapping of globs, so it gives no share of zeros. Use for "
            'example sparsity=0.95 or {"*": 0.95, "fc": 0.5}.'
        )
    rules = dict(sparsity) if isinstance(sparsity, Mapping) else {"*": sparsity}
    for glob, value in rules.items():
        if not 0 <= value < 1:
            raise ValueError(
                f"sparsity={value}{'' if glob == '*' else f' for {glob!r}'} is outside [0, 1): it is the share of "
                "weights that are zero, and some must stay. Use for example sparsity=0.95."
            )
    overrides: dict[str, float] = {}
    used = {"*"}
    for name in names:
        for glob, value in rules.items():
            if fnmatchcase(name, glob) or fnmatchcase(name.rpartition(".")[0], glob):
                used.add(glob)
                overrides.pop(name, None)
                if glob != "*":
                    overrides[name] = value
    unused = [glob for glob in rules if glob not in used]
    if unused:
        raise ValueError(
            f"sparsity names {unused[0]!r}, which matches no sparse layer. The sparse layers are: {', '.join(names)}."
        )
    if "*" not in rules and len(overrides) < len(names):
        missing = next(name for name in names if name not in overrides)
        raise ValueError(
            f'sparsity says nothing about {missing}, because it has no "*" entry. Add one, such as {{"*": 0.95, ...}}.'
        )
    return rules.get("*", 0.0), overrides
