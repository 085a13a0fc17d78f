"""One update of one layer's topology: drop, then grow."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rewire.core.method import Method, Quota
from rewire.core.score import Layer, of_units
from rewire.core.select import top


def group_budgets(total: int, groups: int) -> Int[Tensor, "groups"]:
    """Returns how many units each group ends with: equal parts, the first groups one more where it does not divide.

    >>> group_budgets(7, 3)
    tensor([3, 2, 2])
    """
    return torch.full((groups,), total // groups) + (torch.arange(groups) < total % groups)


def initial_topology(score: Float[Tensor, "groups units"], count: int) -> Bool[Tensor, "groups units"]:
    """Returns the `count` highest-scored units, with an equal share for every group."""
    budgets = group_budgets(count, score.shape[0]).to(score.device)
    return top(score, torch.ones_like(score, dtype=torch.bool), budgets)


def next_topology(
    method: Method, layer: Layer, quota: Quota, grow: Float[Tensor, "groups units"] | None = None
) -> Bool[Tensor, "groups units"]:
    """Returns the active units after one update of the layer: exactly `quota.end` of them.

    grow: the scores by which units grow, where they were taken earlier; by default `method.grow` of the layer.

    The *layer* decides which units go, so that a small group can lose all or none; each *group* then regrows what it
    lost. (A drop fraction per group would move nothing in 2:4, where 30 % of 2 is 0.)
    """
    groups = layer.active.shape[0]
    budgets = group_budgets(quota.end, groups).to(layer.active.device)
    kept = _drop(method, layer, quota.keep, budgets)
    missing = budgets - kept.sum(1)
    if method.grow is None or not bool(missing.any()):
        return kept
    candidates = ~kept if method.regrow else ~(kept | layer.active)
    grown = top(of_units(method.grow, layer) if grow is None else grow, candidates, missing)
    return kept | grown


def _drop(method: Method, layer: Layer, keep: int, budgets: Int[Tensor, "groups"]) -> Bool[Tensor, "groups units"]:
    """The `keep` active units of highest drop score, but in no group more than its budget."""
    active = layer.active
    if method.drop is None or (keep >= int(active.sum()) and not bool((active.sum(1) > budgets).any())):
        return active
    score = of_units(method.drop, layer)
    groups, units = active.shape
    if method.grow is None:  # nothing comes back, so every group drops to its own budget
        return top(score, active, budgets)
    if groups == 1:
        return top(score, active, budgets.clamp(max=keep))
    if not method.regrow:  # a group must not lose more than it can grow elsewhere
        least = (active.sum(1) + budgets - units).clamp(min=0)
        score = score.masked_fill(top(score, active, least), torch.inf)
        keep = max(keep, int(least.sum()))
    count = torch.tensor([keep], device=active.device)
    kept = top(score.reshape(1, -1), active.reshape(1, -1), count).reshape(active.shape)
    return top(score, kept, torch.minimum(kept.sum(1), budgets))
