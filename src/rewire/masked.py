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
from rewire.core.score import VISITS, Layer, Need
from rewire.core.structure import Structure
from rewire.layers import SparseWeight


class Masked:
    """Mask, visits and the buffers that scores need, of one weight.

    active: bool, in the weight's shape and memory format. visits: (groups, units); uint8 counts where a score reads
    them, else bool for "ever active". buffers: by the name of the need, in the weight's shape.
    """

    def __init__(self, weight: SparseWeight, structure: Structure, needs: Iterable[Need]) -> None:
        self.weight = weight
        self.name = weight.name
        self.parameter = weight.parameter
        self.structure = structure
        self.needs = sorted(needs, key=lambda need: need.name)
        self.shape = weight.out_first(weight.parameter.detach()).shape
        self.groups, self.units, self.size = self.fold(weight.parameter.detach()).shape
        self.active = torch.ones_like(weight.parameter, dtype=torch.bool)
        counted = VISITS in self.needs
        self.visits = torch.zeros(
            (self.groups, self.units),
            dtype=torch.uint8 if counted else torch.bool,
            device=weight.parameter.device,
        )
        started = {need.name: need.start(weight.parameter.detach()) for need in self.needs}
        self.buffers = {name: buffer for name, buffer in started.items() if buffer is not None}

    @property
    def nbytes(self) -> int:
        """Bytes kept between steps."""
        return sum(tensor.nbytes for tensor in (self.active, self.visits, *self.buffers.values()))

    def fold(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "groups units size"]:
        """Returns a tensor of the weight's shape, folded by the structure."""
        return self.structure.fold(self.weight.out_first(tensor))

    def zeros(self) -> int:
        """Returns how many active weights are 0."""
        return int((self.active & (self.parameter.detach() == 0)).sum())

    def active_units(self) -> Bool[Tensor, "groups units"]:
        """Returns which units are active."""
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
        )

    def rewire_(self, active: Bool[Tensor, "groups units"]) -> None:
        """Switches to another topology and counts the visit. The caller zeroes what became inactive."""
        units = active.unsqueeze(-1).expand(self.groups, self.units, self.size)
        # A copy, because `active` may be a view of `self.active`.
        self.active.copy_(self.weight.as_stored(self.structure.unfold(units, self.shape)).clone())
        if self.visits.dtype == torch.bool:
            self.visits |= active
        else:  # saturates instead of wrapping to 0
            self.visits += active & (self.visits < 255)

    @torch.no_grad()
    def mask_gradient_(self) -> None:
        """Zeroes the gradient at inactive places; a NaN there does not survive."""
        gradient = self.parameter.grad
        if gradient is None:
            return
        if gradient.requires_grad:  # made with create_graph=True
            with torch.enable_grad():
                self.parameter.grad = torch.where(self.active, gradient, 0)
        else:
            _keep_(gradient, self.active)

    @torch.no_grad()
    def zero_inactive_(self, state: Mapping[str, Any]) -> None:
        """Zeroes the weight and every optimizer state of the weight's shape at inactive places."""
        self.follow_()
        _keep_(self.parameter.detach(), self.active)
        for value in state.values():
            if isinstance(value, Tensor) and value.shape == self.parameter.shape:
                _keep_(value, self.active)

    @torch.no_grad()
    def observe_(self, skipped: Tensor | None) -> None:
        """Shows the dense gradient of this step to the needs that follow it; a step that AMP skipped is not shown."""
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
        """Follows a weight that the user moved to another device or type after sparsify()."""
        device = self.parameter.device
        if self.active.device != device:
            self.active, self.visits = self.active.to(device), self.visits.to(device)
        self.buffers = {name: buffer.to(self.parameter) for name, buffer in self.buffers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Returns plain containers and CPU tensors: shape, packed mask, visits (packed where they are one bit)."""
        counted = self.visits.dtype == torch.uint8
        return {
            "shape": list(self.parameter.shape),
            "active": pack_bits(self.active.cpu()),
            "visits": self.visits.cpu().clone() if counted else pack_bits(self.visits.cpu()),
            "counted": counted,
            "zeros": self.zeros(),
            "buffers": {name: buffer.cpu().clone() for name, buffer in self.buffers.items()},
        }

    def read(self, state: Mapping[str, Any]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Returns mask, visits and buffers of a saved state, for `take_`; ValueError where it is not whole."""
        try:
            active = unpack_bits(state["active"], self.active.shape)
            visits = state["visits"] if state["counted"] else unpack_bits(state["visits"], self.visits.shape)
            buffers = {name: state["buffers"][name].reshape(self.parameter.shape) for name in self.buffers}
            return active, visits.reshape(self.visits.shape), buffers
        except (KeyError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"The saved state of {self.name} is not whole ({error}); nothing was changed. Load another checkpoint."
            ) from error

    def take_(self, active: Tensor, visits: Tensor, buffers: Mapping[str, Tensor]) -> None:
        """Takes over what `read` returned."""
        self.active.copy_(active)
        self.visits.copy_(visits)
        for name, buffer in self.buffers.items():
            buffer.copy_(buffers[name])


def gradient_hook(storage: Masked, stays_dense: Callable[[], bool]) -> Callable[[Tensor], None]:
    """Returns the hook that masks a weight's gradient once it has been accumulated, unless an update needs it.

    It holds the storage weakly: a weight whose hook held the weight itself would never be freed.
    """
    reference = weakref.ref(storage)

    def mask(_: Tensor) -> None:
        alive = reference()
        if alive is not None:
            alive.follow_()
            if not stays_dense():
                alive.mask_gradient_()

    return mask


def _keep_(values: Tensor, active: Bool[Tensor, "..."]) -> None:
    """Zeroes in place where not active. `where` and not a product: NaN * 0 is NaN."""
    torch.where(active, values, values.new_zeros(()), out=values)
