"""What the Sparsifier asks of the storage of one layer, whichever it is.

There are two: `rewire.masked.Masked` keeps an ordinary dense weight with zeros, `rewire.engine.packed.Packed` the
active values alone. Everything that comes in or goes out is in terms of the dense weight, so that a run, its
checkpoints and its masks look the same with both.
"""

from __future__ import annotations

import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rewire.core.method import Method
from rewire.core.pull import Pull
from rewire.core.score import Layer
from rewire.core.structure import Structure


@dataclass(frozen=True)
class Due:
    """A coming step after which the topology may move by the dense gradient.

    step: its number, from 1. key: seed of the layer's randomness at it. end: active units planned for the layer, None
    for as many as there are. fraction: of the active units that move. micro_batches: backward passes to this one step.
    """

    method: Method
    step: int
    key: int
    end: int | None
    fraction: float
    micro_batches: int = 1


class Storage(ABC):
    """The active weights of one layer: where they are, what they are, and what is kept of each.

    name: of the weight. parameter: what the optimizer holds now. stored: shape of the dense weight in the model.
    shape: the same with output channels first. groups, units, size: of the dense weight, folded by the structure.
    """

    def __init__(
        self, name: str, parameter: nn.Parameter, structure: Structure, stored: torch.Size, shape: torch.Size
    ) -> None:
        self.name, self.parameter, self.structure = name, parameter, structure
        self.stored, self.shape = stored, shape
        self.groups, self.units, self.size = structure.fold(torch.empty(shape, device="meta")).shape

    @property
    def numel(self) -> int:
        """Weights of the layer, active or not."""
        return math.prod(self.shape)

    # ---- what is there

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes kept between steps, beside the parameter, its gradient and the optimizer's state."""

    @abstractmethod
    def count(self) -> int:
        """Returns the number of active weights."""

    @abstractmethod
    def explored(self) -> int:
        """Returns the number of units that have been active at least once."""

    @abstractmethod
    def zeros(self) -> int:
        """Returns how many active weights are 0."""

    @abstractmethod
    def mask(self) -> Bool[Tensor, "..."]:
        """Returns where weights are active, in the shape of the dense weight; a copy."""

    def trained_mask(self) -> Bool[Tensor, "..."]:
        """Returns which weights the optimizer trains, as `mask`."""
        return self.mask()

    @abstractmethod
    def active_units(self) -> Bool[Tensor, "groups units"]:
        """Returns which units are active."""

    @abstractmethod
    def layer(self, step: int, key: int) -> Layer:
        """Returns what scores may look at after a step; the gradient at the active places at least."""

    @abstractmethod
    def grow_scores(self, method: Method, step: int) -> Float[Tensor, "groups units"] | None:
        """Returns the scores by which units grow where they were taken in the backward pass, else None."""

    @abstractmethod
    def ranked(self, gradient: bool) -> dict[str, Tensor]:
        """Returns, by name, the numbers that scores rank and that must therefore be finite."""

    # ---- around a step

    @abstractmethod
    def watch_(self, due: Due | None) -> None:
        """Says whether the coming backward passes must give the dense gradient, and what for."""

    @abstractmethod
    def after_gradient_(self, stays_dense: bool) -> None:
        """Is called when a gradient of the parameter has been accumulated."""

    @abstractmethod
    def gradient_mask(self) -> Bool[Tensor, "..."] | None:
        """Returns the places of the parameter's gradient that belong to active weights; None where all do."""

    @abstractmethod
    def observe_(self, skipped: Tensor | None) -> None:
        """Shows the dense gradient of this step to the needs that follow it; a step that AMP skipped is not shown."""

    @abstractmethod
    def follow_(self) -> None:
        """Follows a weight that the user moved to another device or type after sparsify()."""

    @abstractmethod
    def zero_inactive_(self, state: Mapping[str, Any]) -> None:
        """Makes the weight and every optimizer state of its shape 0 at inactive places."""

    @abstractmethod
    def has_zeros(self, state: Mapping[str, Any]) -> bool:
        """Returns whether weight, gradient and state are known to be 0 at inactive places, without looking at them.

        By torch's version counters, which miss what is written through `.data` and by foreach and fused operations.
        """

    @abstractmethod
    def note_zeros_(self, state: Mapping[str, Any]) -> None:
        """Hears that weight and state are 0 at inactive places."""

    # ---- changes

    @abstractmethod
    def rewire_(
        self,
        active: Bool[Tensor, "groups units"],
        state: dict[str, Any],
        trained: Bool[Tensor, "groups units"] | None = None,
        key: int | None = None,
    ) -> None:
        """Switches to another topology and counts the visit; `zero_inactive_` follows.

        state: of the optimizer. trained: the units that it trains, where they are more than the active ones. key: seed
        of the layer's randomness at this update; None for the first topology.
        """

    @abstractmethod
    def energy(self, active: Bool[Tensor, "groups units"]) -> tuple[float, float]:
        """Returns the sum of the squared weights that would go if these units became the active ones, and of all."""

    @abstractmethod
    def pull_(self, pull: Pull, rate: float, budget: int, step: int, key: int) -> None:
        """Moves the trained weights as a pull says, after a step of learning rate `rate`.

        budget: units that are planned for the layer at the end of training.
        """

    @abstractmethod
    def fit_(self, state: dict[str, Any]) -> None:
        """Brings optimizer state that was just loaded from a run with the other storage into this one's shape."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns plain containers and CPU tensors: shape, packed mask, visits (packed where they are one bit)."""

    @abstractmethod
    def read(self, state: Mapping[str, Any]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Returns mask, visits and buffers of a saved state, for `take_`; ValueError where it is not whole."""

    @abstractmethod
    def take_(self, active: Tensor, visits: Tensor, buffers: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Takes over what `read` returned. `state`: of the optimizer, empty where it is loaded and fits already."""


def gradient_hook(storage: Storage, stays_dense: Callable[[], bool]) -> Callable[[Tensor], None]:
    """Returns the hook that tells a storage of a gradient that has been accumulated, and whether it stays dense.

    It holds the storage weakly: a weight whose hook held the weight itself would never be freed.
    """
    reference = weakref.ref(storage)

    def tell(_: Tensor) -> None:
        alive = reference()
        if alive is not None:
            alive.follow_()
            alive.after_gradient_(stays_dense())

    return tell


def add_visit_(visits: Tensor, active: Bool[Tensor, "groups units"]) -> None:
    """Counts one more topology of the units, in place; flags are set instead of counted."""
    if visits.dtype == torch.bool:
        visits |= active
    else:  # saturates instead of wrapping to 0
        visits += active & (visits < 255)


def whole(
    name: str, read: Callable[[], tuple[Tensor, Tensor, dict[str, Tensor]]]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Returns what `read` reads of a saved layer; ValueError where it cannot."""
    try:
        return read()
    except (KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"The saved state of {name} is not whole ({error}); nothing was changed. Load another checkpoint."
        ) from error


def check_fit(name: str, state: Mapping[str, Any], shape: torch.Size, active: int) -> None:
    """Raises ValueError where loaded optimizer state is of active weights alone, but of another number of them."""
    sizes = {key: value.numel() for key, value in state.items() if isinstance(value, Tensor) and value.ndim == 1}
    astray = {key: size for key, size in sizes.items() if size > 1 and size != active}
    if astray and not any(isinstance(value, Tensor) and value.shape == shape for value in state.values()):
        key, size = next(iter(astray.items()))
        raise ValueError(
            f"The loaded optimizer state {key} of {name} is of {size} active weights, but {active} are active, so it "
            "belongs to another topology. Load the sparsifier's state of the same checkpoint as well: "
            "sparsifier.load_state_dict()."
        )
