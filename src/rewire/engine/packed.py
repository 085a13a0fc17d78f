"""The Packed storage of one layer: its active values alone, as one 1-D Parameter.

The values are in the order of their flat positions in the dense weight (out, in, kernel_h, kernel_w), so the states of
the optimizer, which have the parameter's shape, are of active weights alone too. Nothing dense is kept between steps
but the visits, one byte a weight where a score counts them and one bit elsewhere. What scores look at is made dense for
the moment of an update, one layer at a time. Over 300 lines, because a storage answers all that a Sparsifier asks.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from rewire.core.bits import pack_bits, unpack_bits
from rewire.core.method import Method
from rewire.core.pull import Pull
from rewire.core.score import Layer, Score
from rewire.engine import ops
from rewire.engine.growth import Growth, by_gradient, follows_scale
from rewire.engine.places import Move, places, resize_
from rewire.engine.stream import Geometry
from rewire.engine.streams import Streams
from rewire.masked import Masked
from rewire.storage import Due, Storage, add_visit_, check_fit, whole

_handles = itertools.count(1)


class Packed(Storage):
    """Values, places and visits of the active weights of one Linear or Conv2d.

    index: places of the values in the dense weight, ascending. handle: the layer's name among the kernels.
    """

    def __init__(self, masked: Masked, geometry: Geometry) -> None:
        super().__init__(masked.name, masked.parameter, masked.structure, masked.stored, masked.shape)
        dense, self.index = masked.parameter, places(masked.active)
        self.parameter = nn.Parameter(self.pick(dense.detach()))
        self.parameter.grad = None if dense.grad is None else self.pick(dense.grad.detach())
        self.geometry, self.handle = geometry, next(_handles)
        self._counts = masked.visits.dtype == torch.uint8
        self._visits = masked.visits if self._counts else pack_bits(masked.visits)
        self.streams = Streams(geometry, self.index)
        self._loaded: Tensor | None = None  # dense weight of a model's state: a topology loaded after it picks its own
        self._due: Due | None = None
        self._growth = Growth()
        self._version = -1  # of the gradient, when a backward pass had last added to it
        weakref.finalize(self, ops.watchers.pop, self.handle, None)

    # ---- between dense and packed

    def pick(self, dense: Shaped[Tensor, "..."]) -> Shaped[Tensor, "active"]:
        """Returns the active values of a dense tensor."""
        return dense.reshape(-1)[self.index]

    def scatter(self, values: Shaped[Tensor, "active"]) -> Shaped[Tensor, "..."]:
        """Returns the dense tensor of the values, 0 at inactive places."""
        dense = values.new_zeros(self.numel)
        dense[self.index] = values
        return dense.reshape(self.shape)

    def dense(self) -> Float[Tensor, "..."]:
        """Returns the dense weight."""
        return self.scatter(self.parameter.detach())

    def load(self, dense: Float[Tensor, "..."]) -> Float[Tensor, "active"]:
        """Returns the values of a dense weight that is being loaded, and remembers it until training goes on."""
        self._loaded = dense.detach().clone()
        return self.pick(self._loaded)

    # ---- what is there

    @property
    def nbytes(self) -> int:
        """Places, visits, streams and what an update is to read."""
        return self.index.nbytes + self._visits.nbytes + self.streams.nbytes + self._growth.nbytes

    @property
    def visits(self) -> Shaped[Tensor, "groups units"]:
        """Of every unit: uint8 counts where a score reads them, else bool for "ever active"."""
        return self._visits if self._counts else unpack_bits(self._visits, (self.groups, self.units))

    def count(self) -> int:
        return self.index.numel()

    def explored(self) -> int:
        return int((self.visits > 0).sum())

    def zeros(self) -> int:
        return int((self.parameter.detach() == 0).sum())

    def mask(self) -> Bool[Tensor, "..."]:
        return self.scatter(torch.ones_like(self.index, dtype=torch.bool))

    def active_units(self) -> Bool[Tensor, "groups units"]:
        return self.structure.fold(self.mask())[..., 0]

    def gradient_mask(self) -> None:
        """None: all of them."""

    def layer(self, step: int, key: int) -> Layer:
        """Returns what scores may look at; gradients only at the active places, 0 elsewhere."""
        gradient = self.parameter.grad
        return self._layer(None if gradient is None else self.scatter(gradient.detach()), step, key)

    def _layer(self, gradient: Tensor | None, step: int, key: int) -> Layer:
        fold = self.structure.fold
        return Layer(
            shape=self.shape,
            weight=fold(self.dense()),
            grad=None if gradient is None else fold(gradient),
            active=self.active_units(),
            visits=self.visits,
            extra={},
            step=step,
            key=key,
            structure=self.structure,
        )

    # ---- growth

    def watch_(self, due: Due | None) -> None:
        self._due = due if due is not None and by_gradient(due.method.grow) else None
        self._growth.abandon_()
        if self._due is None:
            ops.watchers.pop(self.handle, None)
            return
        this = weakref.ref(self)  # the table of watchers must not keep a layer alive

        def see(x: Tensor, dy: Tensor) -> None:
            alive = this()
            if alive is not None:
                alive.see_(x, dy)

        ops.watchers[self.handle] = see

    @torch.no_grad()
    def see_(self, x: Tensor, dy: Tensor) -> None:
        """Takes in what the dense gradient is made of, inside the layer's backward pass."""
        if self._due is not None:
            if not self._growth.running and self._begins():
                self._growth.restart_(self._due)
            with torch.autocast("cpu", enabled=False):
                self._growth.add_(ops.dense_weight_gradient(x.detach(), dy.detach(), self.geometry))

    def _begins(self) -> bool:
        """Returns whether a backward pass is the first of its step: its gradient finds none, or zeros since then."""
        gradient = self.parameter.grad
        if gradient is None or self._growth.due != self._due:
            return True
        return gradient._version != self._version and not bool(gradient.any())

    @torch.no_grad()
    def after_gradient_(self, stays_dense: bool) -> None:
        """Reduces the dense gradient of the last micro-batch at once; autograd comes here before the next layer."""
        self._loaded = None  # training goes on, and a topology loaded from now on takes the values of that
        growth, gradient = self._growth, self.parameter.grad
        self._version = -1 if gradient is None else gradient._version
        if not growth.end_pass_() or self._due is None:
            return
        if gradient is not None:
            growth.see_(gradient.detach())
        expected = self._due.micro_batches
        if growth.passes > expected:
            raise RuntimeError(
                f"{self.name} got a gradient from backward pass {growth.passes} of step {self._due.step}, which moves "
                f"the topology, but {expected} {'was' if expected == 1 else 'were'} announced, so growth would be "
                "decided by a part of the gradient. Where several micro-batches make one step, say "
                f"sparsify(..., micro_batches={growth.passes}) or how many there are; where a pass is a step of its "
                "own, call optimizer.zero_grad() before it."
            )
        if growth.passes == expected:
            self._reduce_()

    def _reduce_(self) -> None:
        """Reduces what the backward passes have summed, which are fewer than announced where an update comes here."""
        growth = self._growth
        if growth.total is not None and growth.due is not None:
            growth.reduce_(self._layer(growth.total.reshape(self.shape), growth.due.step, growth.due.key))

    def ranked(self, gradient: bool) -> dict[str, Tensor]:
        self._reduce_()
        weight, seen = self.parameter.detach(), self.parameter.grad
        if seen is not None and not self._growth.finite:  # at a place that is not active
            seen = seen.new_full((1,), torch.nan)
        return {"weight": weight, **({} if seen is None or not gradient else {"gradient": seen})}

    def grow_scores(self, method: Method, step: int) -> Float[Tensor, "groups units"] | None:
        if not by_gradient(method.grow):
            return None
        self._reduce_()
        if self._growth.due is not None and self._growth.due.step == step and self._growth.decided:
            self._check_scale(method.grow, step)
            return self._growth.scores(self.groups, self.units)
        if self.parameter.grad is not None and bool(self.parameter.grad.any()):
            raise RuntimeError(
                f"{self.name} has a gradient at step {step}, whose update grows by the dense gradient, but no backward "
                "pass went through the layer since that was known: its .grad was set by hand, or its state loaded in "
                'between. Call loss.backward() after that, or say sparsify(..., engine="masked").'
            )
        return None  # no use of the layer had a gradient, so all are 0

    def _check_scale(self, score: Score | None, step: int) -> None:
        """Raises RuntimeError where growth was scored by gradients of another scale than that of the step."""
        gradient = self.parameter.grad
        if score is None or gradient is None:
            return
        factor = self._growth.divided_by(gradient.detach())
        if factor > 1 and not follows_scale(score, self.layer(step, key=0), factor):
            raise RuntimeError(
                f"The gradient of {self.name} was divided by {factor:g} between the backward pass and the update of "
                f'step {step}, as torch.amp.GradScaler does, but engine="cpu" scores growth in the backward pass, and '
                f"{score!r} ranks otherwise where the scale is another. Leave GradScaler out, for the engine computes "
                "in float32, or divide the loss instead; or use a score that follows the scale, as "
                'dst_ee(scale="layer").'
            )

    # ---- around a step

    def observe_(self, skipped: Tensor | None) -> None:
        """Nothing: a need that follows every step's dense gradient is refused."""

    def follow_(self) -> None:
        """Nothing: the layer refuses to run on another device or in another type."""

    def zero_inactive_(self, state: Mapping[str, Any]) -> None:
        """Nothing: inactive weights are not there."""

    def has_zeros(self, state: Mapping[str, Any]) -> bool:
        """True: inactive weights are not there."""
        return True

    def note_zeros_(self, state: Mapping[str, Any]) -> None:
        """Nothing: inactive weights are not there."""

    # ---- changes

    @torch.no_grad()
    def rewire_(
        self,
        active: Bool[Tensor, "groups units"],
        state: dict[str, Any],
        trained: Bool[Tensor, "groups units"] | None = None,
        key: int | None = None,
    ) -> None:
        units = active.unsqueeze(-1).expand(self.groups, self.units, self.size)
        self._move_(places(self.structure.unfold(units, self.shape)), state)
        if self._counts:
            add_visit_(self._visits, active)
        else:
            self._visits |= pack_bits(active)
        self._growth.restart_(None)

    def _move_(self, index: Int[Tensor, "active"], state: dict[str, Any]) -> None:
        """Takes values, gradient and optimizer state to another topology: kept weights keep theirs, grown start at 0.

        The same number of weights stays in the same memory, which compiled graphs and fused optimizers hold.
        """
        if torch.equal(index, self.index):
            return
        moved, same = Move(self.index, index), index.numel() == self.index.numel()
        values, gradient, before = self.parameter.detach(), self.parameter.grad, self.parameter.shape
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == before:
                state[key] = value.copy_(moved(value)) if same else moved(value)
        if same:
            values.copy_(moved(values))
            if gradient is not None:
                gradient.copy_(moved(gradient))
        else:
            self.parameter.grad = None
            resize_(self.parameter, moved(values))
            self.parameter.grad = None if gradient is None else moved(gradient)
        self.index = index
        self.streams.follow_(index)

    @torch.no_grad()
    def energy(self, active: Bool[Tensor, "groups units"]) -> tuple[float, float]:
        units = active.unsqueeze(-1).expand(self.groups, self.units, self.size)
        squares = self.parameter.detach().square()
        stays = self.pick(self.structure.unfold(units, self.shape))
        return float(torch.where(stays, 0, squares).sum()), float(squares.sum())

    def pull_(self, pull: Pull, rate: float, budget: int, step: int, key: int) -> None:
        raise AssertionError('a method with a pull is refused with engine="cpu", which keeps nothing for it')

    @torch.no_grad()
    def fit_(self, state: dict[str, Any]) -> None:
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == self.shape:
                state[key] = self.pick(value)
        check_fit(self.name, state, self.parameter.shape, self.count())

    def state_dict(self) -> dict[str, Any]:
        return {
            "shape": list(self.stored),
            "active": pack_bits(self.mask()),
            "visits": self._visits.clone(),
            "counted": self._counts,
            "zeros": self.zeros(),
            "buffers": {},
        }

    def read(self, state: Mapping[str, Any]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        def parts() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            visits = state["visits"] if state["counted"] else unpack_bits(state["visits"], (self.groups, self.units))
            return unpack_bits(state["active"], self.shape), visits.reshape(self.groups, self.units), {}

        return whole(self.name, parts)

    @torch.no_grad()
    def take_(self, active: Tensor, visits: Tensor, buffers: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        self._move_(places(active), state)
        if self._loaded is not None:
            self.parameter.copy_(self.pick(self._loaded))
        self._visits.copy_(visits if self._counts else pack_bits(visits.bool()))
        self._growth.restart_(None)
