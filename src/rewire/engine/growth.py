"""Growth without dense gradients that live on: one layer's gradient is reduced, inside its backward pass, to what the
coming update can need.

Of a due step's dense gradient an update reads the scores by which units grow. Only two kinds of unit can be grown: the
best inactive ones, no more than the update has room for, and those that this very update drops. So the scores of these
are kept, a few bytes for each active weight, and the gradient is freed before the next layer's is computed.

What follows from scoring in the backward pass: a grow score sees the weights *before* the step (masked mode shows those
after it), and gradients as the backward pass gives them, before the user
clips or unscales them.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rewire.core.groups import EqualGroups, group_budgets
from rewire.core.score import Layer, Score, of_units
from rewire.core.select import top
from rewire.core.share import Ranked, Terms
from rewire.storage import Due


def by_gradient(score: Score | None) -> bool:
    """Returns whether a score reads the dense gradient of a due step."""
    return score is not None and any(need.gradient == "due" for need in score.needs)


def reads_inactive(score: Score, layer: Layer) -> bool:
    """Returns whether what a score says of active units depends on the gradient of inactive ones.

    That is gone when an update drops. It is tried out on a layer with every other unit active.
    """
    if not by_gradient(score):
        return False
    active = torch.arange(layer.active.numel()).reshape(layer.active.shape) % 2 == 0
    gradient = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0))
    weight, visits = layer.weight * active.unsqueeze(-1), active.to(layer.visits.dtype)
    example = dataclasses.replace(layer, weight=weight, active=active, visits=visits, step=max(layer.step, 2))
    whole, alone = (
        of_units(score, dataclasses.replace(example, grad=seen))[active]
        for seen in (gradient, gradient * active.unsqueeze(-1))
    )
    return not torch.equal(whole, alone)


def follows_scale(score: Score, layer: Layer, factor: float) -> bool:
    """Returns whether a gradient `factor` times as large makes a score as much larger, so that it ranks alike."""
    active, gradient = layer.active, layer.dense_grad()
    scaled = of_units(score, dataclasses.replace(layer, grad=gradient * factor))[active]
    return torch.allclose(scaled, of_units(score, layer)[active] * factor, rtol=1e-3, atol=0.0)


def room(due: Due, layer: Layer) -> Int[Tensor, "groups"]:
    """Returns, for each group, the most inactive units that the update can grow."""
    groups, units = layer.active.shape
    share, active = due.method.share, int(layer.active.sum())
    end = active if due.end is None else due.end
    if not share.between_layers and groups == 1:
        terms = Terms({"": end}, due.fraction, due.method.drop, due.method.regrow, {})
        quota = share({"": layer}, terms)[""]
        return torch.tensor([quota.end - quota.keep])
    if not share.between_layers and due.method.groups == EqualGroups():
        return group_budgets(end, groups)
    if isinstance(share, Ranked):  # a layer ends with what it has, at most
        return torch.tensor([math.ceil(due.fraction * active)])
    return torch.full((groups,), units)


class Growth:
    """The dense gradient of one layer at one due step: summed over its backward passes, then reduced.

    due: the step it is of, None before the first. finite: whether all of it was. passes: backward passes that ended.
    largest: place and value of the largest gradient of an active weight, as the backward passes gave it.
    """

    def __init__(self) -> None:
        self.restart_(None)

    def restart_(self, due: Due | None) -> None:
        """Forgets everything."""
        self.due, self.finite, self.passes = due, True, 0
        self.total: Tensor | None = None  # of the passes that have come to their end
        self.error: FloatingPointError | None = None
        self.largest: tuple[int, float] | None = None
        self._pass: Tensor | None = None  # of the one that is running
        self._task = -1
        self._places: Tensor | None = None
        self._scores: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that are kept at this moment."""
        kept = (self.total, self._pass, self._places, self._scores)
        return sum(tensor.nbytes for tensor in kept if tensor is not None)

    @property
    def running(self) -> bool:
        """Whether this very backward pass has shown a gradient already, as with a layer that is used twice."""
        return self._pass is not None and self._task == torch._C._current_graph_task_id()

    @property
    def decided(self) -> bool:
        """Whether a gradient was reduced, or could not be."""
        return self._places is not None or self.error is not None

    def see_(self, gradient: Float[Tensor, "active"]) -> None:
        """Takes in the gradient of the active weights after a pass."""
        place = int(gradient.abs().argmax())
        self.largest = place, float(gradient[place])

    def divided_by(self, gradient: Float[Tensor, "active"]) -> float:
        """Returns by which power of two above 1 the gradient of the active weights was divided since then, else 1.

        Clipping divides as well, but never by exactly such a number.
        """
        place, before = self.largest or (0, 0.0)
        now = float(gradient[place])
        ratio = before / now if now else 1.0
        return ratio if ratio > 1 and math.frexp(ratio)[0] == 0.5 else 1.0

    def abandon_(self) -> None:
        """Frees what a pass has shown that never reached `.grad`."""
        self._pass = None

    def add_(self, gradient: Tensor) -> None:
        """Takes in the gradient of one use of the layer."""
        if self.running:
            assert self._pass is not None
            self._pass += gradient
        else:  # one that never reached `.grad`, as in torch.autograd.grad(), leaves nothing
            self._pass, self._task = gradient, torch._C._current_graph_task_id()

    def end_pass_(self) -> bool:
        """Ends a pass, whose gradient has reached `.grad`; returns whether it showed one."""
        if self._pass is None:
            return False
        self.total = self._pass if self.total is None else self.total.add_(self._pass)
        self._pass = None
        self.passes += 1
        return True

    def reduce_(self, layer: Layer) -> None:
        """Scores the units of the layer, whose gradient is `total`, and keeps what the update can need of it."""
        self.total, due = None, self.due
        assert due is not None
        assert due.method.grow is not None
        assert layer.grad is not None
        self.finite = bool(layer.grad.isfinite().all())
        if not self.finite:
            return
        try:
            scores = of_units(due.method.grow, layer)
        except FloatingPointError as error:  # is raised by the update, as in masked mode
            self.error = error
            return
        kept = top(scores, ~layer.active, room(due, layer).to(scores.device))
        if due.method.regrow:
            kept |= layer.active
        self._places = kept.flatten().nonzero().squeeze(1).int()
        self._scores = scores.flatten()[self._places]

    def scores(self, groups: int, units: int) -> Float[Tensor, "groups units"]:
        """Returns the scores of all units, -inf for those that cannot be grown."""
        if self.error is not None:
            raise self.error
        assert self._places is not None, "nothing was reduced"
        assert self._scores is not None
        scores = torch.full((groups * units,), -torch.inf, dtype=self._scores.dtype)
        scores[self._places] = self._scores
        return scores.reshape(groups, units)
