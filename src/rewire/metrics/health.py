"""Signs that a topology has gone wrong: units without a connection, and layers that carry (almost) no signal.

Masks are by weight name, True where a weight is active. The rows of a weight are its outputs, as in Linear and Conv;
give the model as well, so that transposed and grouped convolutions are read as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def dead_outputs(masks: Mapping[str, Tensor], model: nn.Module | None = None) -> dict[str, int]:
    """Returns, by weight name, how many outputs (neurons, channels) have no active incoming weight.

    Such an output is its bias, whatever the input.

    >>> dead_outputs({"fc.weight": torch.tensor([[True, False], [False, False]])})
    {'fc.weight': 1}
    """
    connections = _connections(masks, model)
    return {name: int((~grid.any(2)).sum()) for name, grid in connections.items()}


def dead_inputs(masks: Mapping[str, Tensor], model: nn.Module | None = None) -> dict[str, int]:
    """Returns, by weight name, how many inputs have no active outgoing weight: the layer does not read them.

    >>> dead_inputs({"fc.weight": torch.tensor([[True, False], [False, False]])})
    {'fc.weight': 1}
    """
    connections = _connections(masks, model)
    return {name: int((~grid.any(1)).sum()) for name, grid in connections.items()}


def collapsed_layers(masks: Mapping[str, Tensor], density: float = 0.001) -> dict[str, int]:
    """Returns the layers of which no more than the share `density` is active, with their number of active weights.

    A layer with no active weight passes no signal; one with a thousandth of its weights hardly any.

    >>> collapsed_layers({"a.weight": torch.zeros(4, 4, dtype=torch.bool), "b.weight": torch.eye(4).bool()})
    {'a.weight': 0}
    """
    active = {name: int(mask.sum()) for name, mask in masks.items()}
    return {name: count for name, count in active.items() if count <= density * masks[name].numel()}


def health_warnings(
    masks: Mapping[str, Tensor], model: nn.Module | None = None, share: float = 0.1
) -> list[str]:
    """Returns one sentence for each layer that has collapsed, or of which more than `share` of the units is dead.

    A dead input is worth a word only where another layer works for it in vain; pixels at an image's border are not.
    An empty list means that nothing was found.

    >>> health_warnings({"fc.weight": torch.tensor([[True, False], [False, False]])})[0]
    'fc.weight: 1 of 2 outputs have no active weight and are constant. Give ...'
    """
    collapsed = collapsed_layers(masks)
    warnings = []
    for name, grid in _connections(masks, model).items():
        layer = name.removesuffix(".weight")
        remedy = f'Give the layer a lower sparsity, sparsity={{"*": ..., "{layer}": ...}}, or leave it dense'
        if name in collapsed:
            signal = "hardly any signal" if collapsed[name] else "no signal"
            warnings.append(
                f"{name}: the layer has collapsed; {collapsed[name]} of {masks[name].numel()} weights are active and "
                f'{signal} passes. {remedy} with exclude=["{layer}"].'
            )
            continue
        ...
    return warnings


def _connections(
    masks: Mapping[str, Tensor], model: nn.Module | None
) -> dict[str, Bool[Tensor, "groups outputs inputs"]]:
    """Returns for every layer which output is connected to which input, by groups that share no connection."""
