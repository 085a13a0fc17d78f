"""The Masked storage of one layer: an ordinary dense Parameter that is exactly 0 where inactive.

It runs on any device and saves neither time nor memory; it is what every result is checked against.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from rewire.core.bits import pack_bits, unpack_bits
from rewire.core.method import Method
from rewire.core.pull import Pull
from rewire.core.reservoir import RESERVOIR, TRAINED
from rewire.core.score import VISITS, Layer, Need
from rewire.core.structure import Structure
from rewire.layers import SparseWeight
from rewire.storage import Due, Storage, add_visit_, check_fit, whole


class Masked(Storage):
    """Mask, visits and the buffers that scores need, of one weight.

    active: bool, in the weight's shape and memory format. visits: (groups, units); uint8 counts where a score reads
    them, else bool for "ever active". buffers: by the name of the need, in the weight's shape.
    """

    def __init__(self, weight: SparseWeight, structure: Structure, needs: Iterable[Need]) -> None:
        stored = weight.parameter.detach()
        super().__init__(weight.name, weight.parameter, structure, stored.shape, weight.out_first(stored).shape)
        self.weight = weight
        self.needs = sorted(needs, key=lambda need: need.name)
        self.active = torch.ones_like(weight.parameter, dtype=torch.bool)
        counted = VISITS in self.needs
        self.visits = torch.zeros(
            (self.groups, self.units),
            dtype=torch.uint8 if counted else torch.bool,
            device=weight.parameter.device,
        )
        started = {need.name: need.start(weight.parameter.detach()) for need in self.needs}
        self.buffers = {name: buffer for name, buffer in started.items() if buffer is not None}
        self._place = stored.device, stored.dtype
        self._zeros: dict[torch.dtype, Tensor] = {}  # kept, for on a GPU to make one is a kernel of its own
        self._zeroed: list[tuple[Callable[[], Tensor | None], int]] = []  # what is 0 where inactive, in which version

    @property
    def nbytes(self) -> int:
        """Mask, visits and buffers."""
        return sum(tensor.nbytes for tensor in (self.active, self.visits, *self.buffers.values()))

    def count(self) -> int:
        return int(self.active.sum())

    def explored(self) -> int:
        return int((self.visits > 0).sum())

    def mask(self) -> Bool[Tensor, "..."]:
        return self.active.clone()

    def trained_mask(self) -> Bool[Tensor, "..."]:
        return self.trained.clone()

    def fold(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "groups units size"]:
        """Returns a tensor of the weight's shape, folded by the structure."""
        return self.structure.fold(self.weight.out_first(tensor))

    def zeros(self) -> int:
        return int((self.active & (self.parameter.detach() == 0)).sum())

    def active_units(self) -> Bool[Tensor, "groups units"]:
        return self.fold(self.active)[..., 0]

    def layer(self, step: int, key: int) -> Layer:
        """Returns what scores may look at. Views of the weight and gradient where the layout allows it."""
        gradient = self.parameter.grad
        return Layer(
            shape=self.shape,
            weight=self.fold(self.parameter.detach()),
            grad=None if gradient is None else self.fold(gradient.detach()),
            active=self.active_units(),
            visits=self.visits,
            extra={name: self.fold(buffer) for name, buffer in self.buffers.items()},
            step=step,
            key=key,
            structure=self.structure,
        )

    def grow_scores(self, method: Method, step: int) -> None:
        """None: the dense gradient is there at the update."""

    def ranked(self, gradient: bool) -> dict[str, Tensor]:
        weight, dense = self.parameter.detach(), self.parameter.grad
        return {"weight": weight, **({} if dense is None or not gradient else {"gradient": dense}), **self.buffers}

    def watch_(self, due: Due | None) -> None:
        """Nothing to prepare: `after_gradient_` is told each time."""

    def gradient_mask(self) -> Bool[Tensor, "..."]:
        return self.trained

    @property
    def trained(self) -> Bool[Tensor, "..."]:
        """The weights that the optimizer trains: the active ones, or with Top-KAST more."""
        return self.buffers.get(TRAINED.name, self.active)

    def rewire_(
        self,
        active: Bool[Tensor, "groups units"],
        state: dict[str, Any],
        trained: Bool[Tensor, "groups units"] | None = None,
        key: int | None = None,
    ) -> None:
        after = self._spread(active).clone()  # because `active` may be a view of `self.active`
        if key is not None:
            born = after & ~self.active
            for need in self.needs:
                if need.name in self.buffers:
                    need.born_(self.buffers[need.name], born, key)
                    need.restart_(self.buffers[need.name])
        if RESERVOIR.name in self.buffers and trained is not None:
            reservoir, weight = self.buffers[RESERVOIR.name], self.parameter.detach()
            weight.add_(reservoir)
            reservoir.copy_(torch.where(after, 0, weight))
            self.buffers[TRAINED.name].copy_(self._spread(trained))
            self._keep_(weight, after)
        self.active.copy_(after)
        add_visit_(self.visits, active)

    def _spread(self, units: Bool[Tensor, "groups units"]) -> Bool[Tensor, "..."]:
        """Returns units as weights, in the stored shape."""
        return self._unfold(units.unsqueeze(-1).expand(self.groups, self.units, self.size))

    @torch.no_grad()
    def energy(self, active: Bool[Tensor, "groups units"]) -> tuple[float, float]:
        squares = self.parameter.detach().float().square()
        return float(torch.where(self._spread(active), 0, squares).sum()), float(squares.sum())

    @torch.no_grad()
    def pull_(self, pull: Pull, rate: float, budget: int, step: int, key: int) -> None:
        change = self._unfold(pull(self.layer(step, key), rate))
        self.parameter.add_(torch.where(self.trained, change, 0).to(self.parameter.dtype))
        for name, folded in pull.remember(self.layer(step, key), budget).items():
            self.buffers[name].copy_(self._unfold(folded))

    def _unfold(self, folded: Shaped[Tensor, "groups units size"]) -> Shaped[Tensor, "..."]:
        return self.weight.as_stored(self.structure.unfold(folded, self.shape))

    def after_gradient_(self, stays_dense: bool) -> None:
        """Zeroes the gradient at inactive places unless an update needs it; a NaN there does not survive."""
        gradient = self.parameter.grad
        if stays_dense or gradient is None:
            return
        if gradient.requires_grad:  # made with create_graph=True
            with torch.enable_grad():
                self.parameter.grad = torch.where(self.trained, gradient, 0)
        else:
            self._keep_(gradient, self.trained)
            self._zeroed.append((weakref.ref(gradient), gradient._version))

    def zero_inactive_(self, state: Mapping[str, Any]) -> None:
        self.follow_()
        if RESERVOIR.name in self.buffers:  # what the step made of weights that the forward pass saw as 0
            self.buffers[RESERVOIR.name].add_(torch.where(self.trained & ~self.active, self.parameter.detach(), 0))
        self._keep_(self.parameter.detach(), self.active)
        for value in self._alike(state):
            self._keep_(value, self.trained)
        self.note_zeros_(state)

    def _alike(self, state: Mapping[str, Any]) -> list[Tensor]:
        """Returns what the optimizer keeps of each weight."""
        return [value for value in state.values() if isinstance(value, Tensor) and value.shape == self.stored]

    def note_zeros_(self, state: Mapping[str, Any]) -> None:
        self._zeroed = [(weakref.ref(value), value._version) for value in (self.parameter, *self._alike(state))]

    def has_zeros(self, state: Mapping[str, Any]) -> bool:
        if RESERVOIR.name in self.buffers:
            return False
        zeroed = {id(value): version for known, version in self._zeroed if (value := known()) is not None}
        gradient = self.parameter.grad
        values = [self.parameter, *self._alike(state), *([] if gradient is None else [gradient])]
        return all(zeroed.get(id(value)) == value._version for value in values)

    @torch.no_grad()
    def observe_(self, skipped: Tensor | None) -> None:
        gradient = self.parameter.grad
        for need in self.needs:
            buffer = self.buffers.get(need.name)
            if buffer is not None and gradient is not None:
                if skipped is None:
                    need.observe_(buffer, gradient)
                else:  # decided on the device, without waiting for it
                    before = buffer.clone()
                    need.observe_(buffer, gradient)
                    buffer.copy_(torch.where(skipped.bool(), before, buffer))

    def follow_(self) -> None:
        device = self.parameter.device
        if self._place == (device, self.parameter.dtype):
            return
        self._place, self._zeros = (device, self.parameter.dtype), {}
        self.active, self.visits = self.active.to(device), self.visits.to(device)
        self.buffers = {
            name: buffer.to(self.parameter if buffer.is_floating_point() else device)
            for name, buffer in self.buffers.items()
        }

    def state_dict(self) -> dict[str, Any]:
        counted = self.visits.dtype == torch.uint8
        return {
            "shape": list(self.parameter.shape),
            "active": pack_bits(self.active.cpu()),
            "visits": self.visits.cpu().clone() if counted else pack_bits(self.visits.cpu()),
            "counted": counted,
            "zeros": self.zeros(),
            "buffers": {name: buffer.cpu().clone() for name, buffer in self.buffers.items()},
        }

    @torch.no_grad()
    def fit_(self, state: dict[str, Any]) -> None:
        check_fit(self.name, state, self.stored, active := self.count())
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == (active,) != self.stored:
                state[key] = torch.zeros_like(self.parameter, dtype=value.dtype)
                state[key][self.active] = value

    def read(self, state: Mapping[str, Any]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        def parts() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            active = unpack_bits(state["active"], self.active.shape)
            visits = state["visits"] if state["counted"] else unpack_bits(state["visits"], self.visits.shape)
            buffers = {name: state["buffers"][name].reshape(self.stored) for name in self.buffers}
            return active, visits.reshape(self.visits.shape), buffers

        return whole(self.name, parts)

    def take_(self, active: Tensor, visits: Tensor, buffers: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        self.active.copy_(active)
        self.visits.copy_(visits)
        self._keep_(self.parameter.detach(), self.active)  # whatever is there, it is not of this run
        for name, buffer in self.buffers.items():
            buffer.copy_(buffers[name])

    def _keep_(self, values: Tensor, active: Bool[Tensor, "..."]) -> None:
        """Zeroes in place where not active. `where` and not a product: NaN * 0 is NaN."""
        if values.dtype not in self._zeros:
            self._zeros[values.dtype] = values.new_zeros(())
        torch.where(active, values, self._zeros[values.dtype], out=values)
