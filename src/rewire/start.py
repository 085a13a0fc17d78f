"""Where training starts: the sparsity as the user says it, the counts of every layer, the first topologies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from rewire.core.budget import ConstantDensity, Distribution, allocate, match_overrides, rank
from rewire.core.method import Method
from rewire.core.score import Score, of_units
from rewire.core.structure import Structure
from rewire.core.update import initial_topology
from rewire.masked import Masked
from rewire.storage import Storage


@dataclass(frozen=True)
class Budget:
    """How many weights every sparse layer may have after a number of steps.

    density: the final one of the layers that are solved together. overrides: of the single layers that are not.
    """

    density: float
    overrides: Mapping[str, float]
    distribution: Distribution
    method: Method

    def __str__(self) -> str:
        layers = "".join(f", {1 - density:g} in {name}" for name, density in self.overrides.items())
        return f"sparsity {1 - self.density:.6g}{layers}, {self.distribution}"

    @property
    def moves(self) -> bool:
        """Whether the method changes the density over training."""
        return not isinstance(self.method.density, ConstantDensity)

    def counts(
        self, storages: Mapping[str, Storage], step: int, scores: Mapping[str, Tensor] | None = None
    ) -> dict[str, int]:
        """Returns the active *units* of every layer at a step; for "global", ranked by the `scores` of units.

        At later steps of a density schedule "global" has no scores and plans evenly; `share` moves it from there.
        """
        density = self.method.density(step, self.density)
        size = {name: storage.size for name, storage in storages.items()}
        if self.distribution == "global" and scores is not None:
            total = sum(values.numel() for values in scores.values())
            quanta = {n: s.structure.quantum(s.shape) // s.size for n, s in storages.items()}
            return rank(scores, round(density * total), quanta)
        counts = allocate(
            {name: storage.shape for name, storage in storages.items()},
            density,
            "uniform" if self.distribution == "global" else self.distribution,
            overrides={name: self.method.density(step, value) for name, value in self.overrides.items()},
            quanta={name: storage.structure.quantum(storage.shape) for name, storage in storages.items()},
        )
        return {name: count // size[name] for name, count in counts.items()}


def begin(
    storages: Mapping[str, Masked],
    method: Method,
    structure: Structure,
    start: Score | Mapping[str, Tensor],
    sparsity: float | Mapping[str, float] | None,
    distribution: Distribution,
    keys: Mapping[str, int],
) -> tuple[Budget, dict[str, Bool[Tensor, "groups units"]]]:
    """Returns the budget of the run and the first topology of every layer; `keys` seed the layers' randomness."""
    if not isinstance(start, Mapping):
        budget = resolve(sparsity, storages, structure, distribution, method)
        return budget, topologies_by_score(budget, storages, start, keys)
    if sparsity is not None:
        raise ValueError("start gives masks, which fix the sparsity, so sparsity= would be ignored. Leave one out.")
    topologies = topologies_by_mask(storages, start)
    active = sum(int(units.sum()) * storages[name].size for name, units in topologies.items())
    density = active / sum(storage.numel for storage in storages.values())
    return Budget(density, {}, distribution, method), topologies


def resolve(
    sparsity: float | Mapping[str, float] | None,
    storages: Mapping[str, Masked],
    structure: Structure,
    distribution: Distribution,
    method: Method,
) -> Budget:
    """Returns the budget that the user's `sparsity` means; ValueError where it contradicts itself."""
    fixed = structure.density()
    if method.name == "dense" and fixed is not None:
        raise ValueError(
            f"dense() keeps every weight, but {structure} fixes the sparsity at {1 - fixed:g}. Leave the structure "
            "out, or use static() for a fixed mask."
        )
    if method.name == "dense" and sparsity is None:
        sparsity = 0.0
    if fixed is not None:
        if sparsity is not None and not (isinstance(sparsity, float) and math.isclose(sparsity, 1 - fixed)):
            raise ValueError(
                f"sparsity={sparsity} contradicts {structure}, which fixes the sparsity at {1 - fixed:g}. "
                "Leave sparsity out, or choose another structure."
            )
        return Budget(fixed, {}, "uniform", method)
    if sparsity is None:
        raise ValueError(
            "sparsity is missing, and nothing else says how many weights may stay. Add for example sparsity=0.95."
        )
    overall, overrides = match_overrides(list(storages), sparsity)
    if method.name == "dense" and (overall or any(overrides.values())):
        raise ValueError(
            f"dense() keeps every weight, but sparsity={sparsity}. Use sparsity=0, or static() for a fixed mask."
        )
    if distribution == "global" and overrides:
        raise ValueError(
            f'distribution="global" ranks all layers together, so sparsity={sparsity} cannot fix single layers. '
            'Use one number, or distribution="erk".'
        )
    return Budget(1 - overall, {name: 1 - value for name, value in overrides.items()}, distribution, method)


def topologies_by_score(
    budget: Budget, storages: Mapping[str, Masked], start: Score, keys: Mapping[str, int]
) -> dict[str, Bool[Tensor, "groups units"]]:
    """Returns the first topology of every layer: the units that `start` scores highest."""
    if start.needs:
        raise ValueError(
            f"start={start!r} needs {', '.join(sorted(need.name for need in start.needs))}, which does not exist "
            "before training. Use Random() or Magnitude(), or give masks."
        )
    scores = {name: of_units(start, storage.layer(1, keys[name])) for name, storage in storages.items()}
    counts = budget.counts(storages, 0, scores)
    return {name: initial_topology(scores[name], counts[name]) for name in storages}


def topologies_by_mask(
    storages: Mapping[str, Masked], masks: Mapping[str, Tensor]
) -> dict[str, Bool[Tensor, "groups units"]]:
    """Returns the first topology of every layer from masks in the weights' shapes; ValueError where one cannot be."""
    for kind, names in (("lacks", storages.keys() - masks.keys()), ("has", masks.keys() - storages.keys())):
        if names:
            raise ValueError(
                f"start {kind} {', '.join(sorted(names))}: masks must name exactly the sparse layers. "
                f"These are {', '.join(storages)}."
            )
    topologies = {}
    for name, storage in storages.items():
        mask = masks[name]
        if mask.dtype != torch.bool or mask.shape != storage.parameter.shape:
            raise ValueError(
                f"The mask of {name} is {mask.dtype} {tuple(mask.shape)}, but must be torch.bool "
                f"{tuple(storage.parameter.shape)}, True where active. Use mask.bool(), of the weight's shape."
            )
        folded = storage.fold(mask.to(storage.parameter.device))
        active = folded[..., 0]
        fixed = storage.structure.density()
        per_group = int(active[0].sum()) if fixed is None else round(fixed * storage.units)
        if bool((folded != folded[..., :1]).any()) or bool((active.sum(1) != per_group).any()):
            raise ValueError(
                f"The mask of {name} does not hold {storage.structure}: its units or groups are not whole. "
                "Use structure=Unstructured(), or masks made with the same structure."
            )
        if not bool(active.any()):
            raise ValueError(f"The mask of {name} has no active weight, so nothing passes. Keep at least one.")
        topologies[name] = active
    return topologies
