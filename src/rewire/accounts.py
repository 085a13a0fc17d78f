"""What every sparse layer may hold, is to hold, and has held: the budget of a run, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rewire.core.budget import ConstantDensity, Distribution, allocate, rank
from rewire.core.method import Method
from rewire.storage import Storage

LAST = 1 << 62  # a step after all others


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
        self,
        storages: Mapping[str, Storage],
        step: int,
        scores: Mapping[str, Tensor] | None = None,
        part: float = 1.0,
        most: Mapping[str, int] | None = None,
    ) -> dict[str, int]:
        """Returns the active *units* of every layer at a step; for "global", ranked by the `scores` of units.

        Each weight of a unit counts there, so that the total is right where layers have units of unlike sizes.
        At later steps of a density schedule "global" has no scores and plans evenly; `share` moves it from there.
        part: of the way from dense, on which the density d of a layer (of all together, for "global") is d^part.
        """
        density = self.method.density(step, self.density)
        size = {name: storage.size for name, storage in storages.items()}
        quanta = {name: storage.structure.quantum(storage.shape) for name, storage in storages.items()}
        near = len(set(size.values())) > 1  # a unit of one layer can be as many weights as another layer has
        if self.distribution == "global" and scores is not None:
            by_weight = {n: values.reshape(-1, 1).expand(-1, size[n]).flatten() for n, values in scores.items()}
            total = sum(values.numel() for values in by_weight.values())
            ranked = rank(by_weight, round(density**part * total), quanta, near)
            return {name: count // size[name] for name, count in ranked.items()}
        counts = allocate(
            {name: storage.shape for name, storage in storages.items()},
            density,
            "uniform" if self.distribution == "global" else self.distribution,
            overrides={name: self.method.density(step, value) for name, value in self.overrides.items()},
            quanta=quanta,
            most=most,
            near=near,
        )
        units = {name: storage.groups * storage.units for name, storage in storages.items()}
        return {n: round(units[n] * (count // size[n] / units[n]) ** part) for n, count in counts.items()}


class Accounts:
    """Units planned for every layer, and weights held on average over the steps; all by the layers' names."""

    def __init__(self, budget: Budget, method: Method, storages: Mapping[str, Storage]) -> None:
        self.budget, self.method, self.storages = budget, method, storages
        self._planned = self._units()  # at first, and for good where nothing moves the budget
        self.final = budget.counts(storages, LAST) if budget.moves else self._planned
        self._spent, self._until = dict.fromkeys(storages, 0), 0  # active weights summed over steps, up to a step

    def _units(self) -> dict[str, int]:
        """Returns the units that are active now."""
        return {name: storage.count() // storage.size for name, storage in self.storages.items()}

    def plan(self, step: int, units: Mapping[str, int] | None = None) -> dict[str, int]:
        """Returns the units planned at a step; where layers trade, as many as they have.

        units: held up to then, by default those that are active now. Where nothing grows no layer gets more, though
        rounding by largest remainder can give a layer one more out of a smaller total.
        """
        if self.budget.moves:
            held = self._units() if units is None else units
            most = {name: held[name] * storage.size for name, storage in self.storages.items()}
            return self.budget.counts(self.storages, step, most=None if self.method.grow is not None else most)
        return self._units() if self.method.share.between_layers else self._planned

    def end(self) -> dict[str, int]:
        """Returns the weights planned for the end of training; where layers trade, those that they have."""
        trades = self.method.share.between_layers and not self.budget.moves
        units = self._units() if trades else self.final
        return {name: units[name] * storage.size for name, storage in self.storages.items()}

    def spend(self, step: int) -> None:
        """Books the weights that are active up to this step, after which others will be."""
        for name, storage in self.storages.items():
            self._spent[name] += (step - self._until) * storage.count()
        self._until = step

    def mean(self, step: int) -> dict[str, float]:
        """Returns the density on average over the steps up to this one; before the first, as it is."""
        steps = max(step, 1)
        return {
            name: (self._spent[name] + (steps - self._until) * storage.count()) / (steps * storage.numel)
            for name, storage in self.storages.items()
        }

    def planned_mean(self, steps: int) -> dict[str, float]:
        """Returns the density planned on average over a run of that many steps."""
        units, since = dict(self._planned), 0
        total = dict.fromkeys(units, 0)
        for step in range(1, steps + 1):
            if self.method.dynamic and self.method.due(step):
                total = {name: total[name] + (step - since) * count for name, count in units.items()}
                units, since = self._held(step, units), step
        return {
            name: (total[name] + (steps - since) * units[name]) * storage.size / (steps * storage.numel)
            for name, storage in self.storages.items()
        }

    def _held(self, step: int, units: Mapping[str, int]) -> dict[str, int]:
        """Returns the units that are to be held after the update of a step, up to which `units` are."""
        share, fraction, planned = self.method.share, self.method.fraction(step), self.plan(step, units)
        return {n: share.held(planned[n], fraction, s.groups, s.units) for n, s in self.storages.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"planned": dict(self._planned), "spent": dict(self._spent), "until": self._until}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._planned, self._spent, self._until = dict(state["planned"]), dict(state["spent"]), state["until"]
        if not self.budget.moves:
            self.final = self._planned
