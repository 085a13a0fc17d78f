"""Selection of exactly k units, ties included."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def top(
    score: Float[Tensor, "groups units"],
    candidates: Bool[Tensor, "groups units"],
    counts: Int[Tensor, "groups"],
) -> Bool[Tensor, "groups units"]:
    """Returns the `counts[g]` highest-scored candidates of each group g.

    Exactly that many: of equal scores the lower index wins, so the choice is the same on every device and rank.
    A group with fewer candidates than its count gives all of them. Scores must not be NaN.

    >>> top(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), torch.tensor([[True, True, True, True]]), torch.tensor([1]))
    tensor([[False,  True, False, False]])
    """
    # A candidate stays above every non-candidate even where its own score is -inf.
    score = score.clamp(min=torch.finfo(score.dtype).min).masked_fill_(~candidates, -torch.inf)
    if score.shape[0] == 1:
        return _top_of_one(score[0], candidates[0], int(counts[0]))[None]
    order = score.argsort(dim=-1, descending=True, stable=True)
    wanted = torch.arange(score.shape[1], device=score.device) < counts[:, None]
    return torch.zeros_like(candidates).scatter_(1, order, wanted) & candidates


def _top_of_one(score: Float[Tensor, "units"], candidates: Bool[Tensor, "units"], count: int) -> Bool[Tensor, "units"]:
    """The same for a single group, by a threshold, which is much faster than sorting millions of scores."""
    units = score.numel()
    count = min(count, units)
    if count <= 0:
        return torch.zeros_like(candidates)
    threshold = nth_highest(score, count)
    above = score > threshold
    ties = (score == threshold) & candidates
    missing = count - above.sum(dtype=torch.int32)
    return above | (ties & (ties.cumsum(0, dtype=torch.int32) <= missing))


def nth_highest(score: Float[Tensor, "units"], count: int) -> Float[Tensor, ""]:
    """Returns the `count`-th highest score. On a GPU topk works with all of it, kthvalue with one block of threads."""
    if score.device.type == "cpu":
        return score.kthvalue(score.numel() - count + 1).values
    return score.topk(count, sorted=False).values.amin()
