"""Signs that a topology has gone wrong: units without a connection, and layers that carry (almost) no signal.

Masks are by weight name, True where a weight is active. The rows of a weight are its outputs, as in Linear and Conv;
give the model as well, so that transposed and grouped convolutions are read as what they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from rewire.core.names import plain_name, unwrap


def dead_units(masks: Mapping[str, Tensor], model: nn.Module | None = None) -> dict[str, int]:
    """Returns, by weight name, how many outputs (neurons, channels) have no active incoming weight.

    Such an output is equal to its bias, whatever the input.

    >>> import torch
    >>> dead_units({"fc.weight": torch.tensor([[True, False], [False, False]])})
    {'fc.weight': 1}
    """
    return {name: int((~grid.any(2)).sum()) for name, grid in connections(masks, model).items()}


def dead_inputs(masks: Mapping[str, Tensor], model: nn.Module | None = None) -> dict[str, int]:
    """Returns, by weight name, how many inputs have no active outgoing weight: the layer does not read them.

    >>> import torch
    >>> dead_inputs({"fc.weight": torch.tensor([[True, False], [False, False]])})
    {'fc.weight': 1}
    """
    return {name: int((~grid.any(1)).sum()) for name, grid in connections(masks, model).items()}


def collapsed_layers(masks: Mapping[str, Tensor], density: float = 0.001) -> dict[str, int]:
    """Returns the layers of which less than the share `density` is active, with their numbers of active weights.

    A layer without an active weight passes no signal; one with less than a thousandth of its weights hardly any.

    >>> import torch
    >>> collapsed_layers({"a.weight": torch.zeros(4, 4).bool(), "b.weight": torch.eye(4).bool()})
    {'a.weight': 0}
    """
    active = {name: int(mask.sum()) for name, mask in masks.items()}
    return {name: count for name, count in active.items() if count == 0 or count < density * masks[name].numel()}


def health_warnings(
    masks: Mapping[str, Tensor], model: nn.Module | None = None, share: float = 0.25, *, outputs: bool = True
) -> list[str]:
    """Returns one line for each layer that has collapsed, or has more than `share` of its outputs or inputs dead.

    outputs: False where dead outputs are what was asked for, as with whole neurons.
    An empty list means that nothing of the kind was found, not that the network is a good one.

    >>> import torch
    >>> (warning,) = health_warnings({"fc.weight": torch.tensor([[True, True], [False, False]])})
    >>> warning.split(", ")[0]
    'fc.weight: 1 of 2 outputs have no active weight'
    """
    collapsed = collapsed_layers(masks)
    warnings = []
    for name, grid in connections(masks, model).items():
        layer = name.removesuffix(".weight")
        lower = f'Lower the sparsity of this layer with sparsity={{"*": ..., "{layer}": ...}}'
        if name in collapsed:
            warnings.append(
                f"{name}: {collapsed[name]} of {masks[name].numel()} weights are active, so "
                f"{'hardly any' if collapsed[name] else 'no'} signal passes this layer. "
                f'{lower}, or leave it dense with exclude=["{layer}"].'
            )
            continue
        dead_out, inputs = ~grid.any(2), ~grid.any(1)
        if outputs and (dead := int(dead_out.sum())) > share * dead_out.numel():
            warnings.append(
                f"{name}: {dead} of {dead_out.numel()} outputs have no active weight, so they are constant. "
                f"{lower}, or give every output as many inputs with structure=FanIn()."
            )
        if (dead := int(inputs.sum())) > share * inputs.numel():
            warnings.append(
                f"{name}: {dead} of {inputs.numel()} inputs have no active weight, so what comes before works for "
                f"them in vain. {lower}, or expect no harm where they are pixels that are always the same."
            )
    return warnings


def connections(
    masks: Mapping[str, Tensor], model: nn.Module | None = None
) -> dict[str, Int[Tensor, "groups outputs inputs"]]:
    """Returns, by weight name, how many active weights lead from each input to each output; groups share none.

    A convolution's kernel can hold several; the inputs and outputs are its channels.
    """
    owners = _owners(model) if model is not None else {}
    grids = {}
    for name, mask in masks.items():
        owner = owners.get(name)
        groups = owner.groups if isinstance(owner, _ConvNd) else 1
        matrix = mask.reshape(*mask.shape[:2], -1).sum(-1) if mask.ndim > 1 else mask.long().unsqueeze(1)
        grid = matrix.unflatten(0, (groups, -1))
        grids[name] = grid.mT if isinstance(owner, _ConvTransposeNd) else grid
    return grids


def _owners(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the module that holds each parameter, by the parameter's name."""
    return {
        plain_name(f"{prefix}.{name}" if prefix else name): module
        for prefix, module in unwrap(model).named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }
