"""A method is a value: what to drop, what to grow, how much, when, and how the budget is shared."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rewire.core.budget import ConstantDensity, Density, rank
from rewire.core.schedule import Constant, Due, Never, Schedule
from rewire.core.score import Layer, Need, Score, of_units


class Quota(NamedTuple):
    """Units of a layer to keep when dropping, and to end with after growing."""

    keep: int
    end: int


class Share(ABC):
    """Sets the quota of every layer; the ends sum to the planned total."""

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    @abstractmethod
    def __call__(
        self,
        layers: Mapping[str, Layer],
        planned: Mapping[str, int],
        fraction: float,
        method: Method,
    ) -> dict[str, Quota]:
        """Returns the quotas, from the units planned for each layer and the drop fraction of this update."""


def moves(layer: Layer, end: int, fraction: float, regrow: bool) -> Quota:
    """Returns the quota of a layer that ends with `end` units after moving ceil(fraction * units) of them.

    A layer that stays full moves none; one that was full and shrinks moves as any other. Without `regrow` no more can
    move than were inactive before.
    """
    active, units = int(layer.active.sum()), layer.active.numel()
    survivors = min(active, end)
    moved = math.ceil(fraction * survivors) if survivors < units else 0
    if not regrow:
        moved = max(0, min(moved, units - active - (end - survivors)))
    return Quota(survivors - moved, end)


@dataclass(frozen=True)
class Keep(Share):
    """Every layer keeps its own budget."""

    def __call__(
        self, layers: Mapping[str, Layer], planned: Mapping[str, int], fraction: float, method: Method
    ) -> dict[str, Quota]:
        return {name: moves(layer, planned[name], fraction, method.regrow) for name, layer in layers.items()}


@dataclass(frozen=True)
class Ranked(Share):
    """The drop scores of all layers are ranked together; each layer ends with its part of the best.

    Reference: Liu et al., Sparse Training via Boosting Pruning Plasticity with Neuroregeneration (GraNet),
    https://arxiv.org/abs/2106.10404
    """

    def __call__(
        self, layers: Mapping[str, Layer], planned: Mapping[str, int], fraction: float, method: Method
    ) -> dict[str, Quota]:
        assert method.drop is not None, "a method that shares by rank must say what it drops"
        scores = {name: of_units(method.drop, layer)[layer.active] for name, layer in layers.items()}
        total = min(sum(planned.values()), sum(values.numel() for values in scores.values()))
        ends = rank(scores, total)
        return {name: moves(layer, ends[name], fraction, method.regrow) for name, layer in layers.items()}


@dataclass(frozen=True)
class Proportional(Share):
    """What all layers drop is handed back in proportion to the mean score over each layer's active units.

    Reference: Dettmers and Zettlemoyer, Sparse Networks from Scratch, section 3.2, https://arxiv.org/abs/1907.04840
    """

    score: Score

    @property
    def needs(self) -> frozenset[Need]:
        return self.score.needs

    def __call__(
        self, layers: Mapping[str, Layer], planned: Mapping[str, int], fraction: float, method: Method
    ) -> dict[str, Quota]:
        kept = {name: moves(layer, planned[name], fraction, method.regrow).keep for name, layer in layers.items()}
        weights = {n: float(of_units(self.score, layer)[layer.active].mean()) for n, layer in layers.items()}
        taken = kept if method.regrow else {name: int(layer.active.sum()) for name, layer in layers.items()}
        room = {name: layer.active.numel() - taken[name] for name, layer in layers.items()}
        given = {name: int(kept[name] == 0) for name in layers}  # at least one, so that no layer dies out
        free = sum(planned.values()) - sum(kept.values()) - sum(given.values())
        while free:  # a layer that is full hands its part on to the others
            open_ = [name for name in layers if given[name] < room[name]]
            total = sum(weights[name] for name in open_)
            part = {n: free * weights[n] / total if total > 0 else free / len(open_) for n in open_}
            whole = {n: min(int(part[n]), room[n] - given[n]) for n in open_}
            if not any(whole.values()):  # less than one each: the largest parts first
                whole = dict.fromkeys(sorted(open_, key=lambda n: -part[n])[:free], 1)
            for name, count in whole.items():
                given[name] += count
                free -= count
        return {name: Quota(kept[name], kept[name] + given[name]) for name in layers}


@dataclass(frozen=True)
class Method:
    """A dynamic sparse training method.

    name: as printed and stored. drop: units of lowest score go. grow: inactive units of highest score come.
    fraction: of the active units that move at an update, over steps. due: the steps after which an update happens.
    density: how the planned density moves over training. share: how the budget moves between layers.
    regrow: whether a unit dropped at an update may be grown at the same one (it then keeps its value and state).

    >>> Method("still").dynamic
    False
    """

    name: str
    drop: Score | None = None
    grow: Score | None = None
    fraction: Schedule = Constant(0.0)
    due: Due = Never()
    density: Density = ConstantDensity()
    share: Share = Keep()
    regrow: bool = True

    def __str__(self) -> str:
        return self.name

    @property
    def dynamic(self) -> bool:
        """Whether the topology can change."""
        return self.drop is not None

    @property
    def needs(self) -> frozenset[Need]:
        """What the scores and the share read."""
        scores = (self.drop, self.grow)
        return self.share.needs.union(*(score.needs for score in scores if score is not None))

    @property
    def gradient(self) -> Literal["never", "due", "always"]:
        """When the dense weight gradient is needed: never, at the steps of updates, or at every step."""
        wanted = {need.gradient for need in self.needs}
        return "always" if "always" in wanted else "due" if "due" in wanted else "never"

    def updates(self, steps: int) -> int:
        """Returns the number of topology updates in a run of that many optimizer steps."""
        return self.due.count(steps) if self.dynamic else 0
