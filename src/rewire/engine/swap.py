"""Packed modules in the place of dense ones, in the model and in its optimizer, and back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rewire.core.names import plain_name, unwrap
from rewire.engine import library
from rewire.engine.modules import KINDS, PackedModule, geometry, plain_output
from rewire.engine.packed import Packed
from rewire.engine.stream import Geometry
from rewire.layers import SparseWeight
from rewire.masked import Masked

PAYS = 0.5  # sparsity; from where the engine wins depends on the layer and the machine


def engines(
    engine: str | Mapping[str, str], model: nn.Module, weights: list[SparseWeight]
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Returns the modules to pack, by the name of their weight, and in words what runs every weight.

    engine: "masked", else whatever the engine can run is to be packed, but what a mapping names "masked".
    """
    chosen = {} if isinstance(engine, str) else {name for name, word in engine.items() if word == "masked"}
    if engine == "masked" or len(chosen) == len(weights):
        return {}, {weight.name: "masked" for weight in weights}
    modules, reasons = _placed(model, [weight for weight in weights if weight.name not in chosen])
    reasons |= dict.fromkeys(chosen, "chosen")
    if not modules:
        name, reason = next(iter(reasons.items()))
        warnings.warn(
            f'engine="cpu" can run none of the sparse layers ({name}: {reason}, ...), so all run masked, as slow as '
            "dense ones. It runs Linear and Conv2d with groups=1, dilation=1 and stride 1 or 2, in float32 on the CPU.",
            stacklevel=3,
        )
    elif library.load() is None:  # which says so
        modules, reasons = {}, dict.fromkeys(modules, "no kernels") | reasons
    return modules, {w.name: "cpu" if w.name in modules else f"masked: {reasons[w.name]}" for w in weights}


def _placed(model: nn.Module, weights: list[SparseWeight]) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Returns the modules whose weights the engine can hold, by weight name, and for every other weight why not."""
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    parents: dict[int, nn.Module] = {}
    for name, module in unwrap(model).named_modules():
        parents.update((id(child), module) for child in module.children())
        for short, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((plain_name(f"{name}.{short}".lstrip(".")), module))
    modules, reasons = {}, {}
    for weight in weights:
        uses = owners[id(weight.parameter)]
        module = uses[0][1]
        if reason := _why_not(weight.parameter, uses, parents.get(id(module))):
            reasons[weight.name] = reason
        else:
            modules[weight.name] = module
    return modules, reasons


def _why_not(parameter: nn.Parameter, uses: list[tuple[str, nn.Module]], parent: nn.Module | None) -> str | None:
    name, module = uses[0]
    if isinstance(found := geometry(module), str):
        return found
    if len(uses) > 1:
        return f"shared with {uses[1][0]}"
    if name.rpartition(".")[2] != "weight":
        return "not the layer's weight"
    if parameter.dtype != torch.float32:
        return str(parameter.dtype)
    if parameter.device.type != "cpu":
        return f"on {parameter.device}"
    if type(parameter) is not nn.Parameter:
        return f"its weight is a {type(parameter).__name__}"
    if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
        return "its weight has hooks"
    if isinstance(parent, nn.TransformerEncoderLayer):
        return "nn.TransformerEncoderLayer reads the weight itself"
    return None


def pack_(module: nn.Module, masked: Masked, optimizer: torch.optim.Optimizer) -> Packed:
    """Returns the storage that takes the place of a masked one: of its topology, in the module and the optimizer."""
    known = geometry(module)
    assert isinstance(known, Geometry), "asked for a layer that the engine cannot run"
    packed = Packed(masked, known)
    module.__class__ = KINDS[type(module)]
    module.packed = packed  # type: ignore[assignment]
    module.weight = packed.parameter
    replace_(optimizer, masked.parameter, packed.parameter, packed.pick)
    return packed


def warn_of_low_sparsity(packed: Collection[Packed]) -> None:
    """Warns of layers that are so dense, taken together, that the engine makes them slower."""
    active, weights = sum(storage.count() for storage in packed), sum(storage.numel for storage in packed)
    if active > (1 - PAYS) * weights:
        warnings.warn(
            f'The layers of engine="cpu" have sparsity {1 - active / weights:.2f} together, which does not pay: below '
            f'about {PAYS} dense layers are as fast or faster. Raise the sparsity, or say engine="auto", which '
            "measures each layer and takes what is faster.",
            stacklevel=3,
        )


def unpack_(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Makes every packed module of the model the ordinary dense one again, in the optimizer too."""
    for module in list(model.modules()):
        if isinstance(module, PackedModule):
            packed, old = module.packed, module.packed.parameter
            dense = nn.Parameter(packed.dense(), requires_grad=old.requires_grad)
            dense.grad = None if old.grad is None else packed.scatter(old.grad.detach())
            attributes = module.dense_dict(dense)
            module.__class__ = module.dense_type  # type: ignore[assignment]
            module.__dict__.clear()
            module.__dict__.update(attributes)
            packed.watch_(None)
            replace_(optimizer, old, dense, packed.scatter)


def replace_(
    optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter, moved: Callable[[Tensor], Tensor]
) -> None:
    """Puts one parameter in the place of another, with `moved` states where they have its shape."""
    for group in optimizer.param_groups:
        group["params"][:] = [new if parameter is old else parameter for parameter in group["params"]]
    if old in optimizer.state:
        state: dict[str, Any] = optimizer.state.pop(old)
        optimizer.state[new] = {
            key: moved(value) if isinstance(value, Tensor) and value.shape == old.shape else value
            for key, value in state.items()
        }


def hook_output(model: nn.Module) -> Any:
    """Returns the handle of the hook by which the model gives ordinary tensors."""
    return unwrap(model).register_forward_hook(plain_output, prepend=True)


def unhooked(model: nn.Module) -> nn.Module:
    """Returns a copy of a model without that hook, which came along and has nothing left to do."""
    for key in [key for key, hook in model._forward_hooks.items() if hook is plain_output]:
        del model._forward_hooks[key]
    return model


def is_packed(model: nn.Module) -> bool:
    """Returns whether a module of the model is packed."""
    return any(isinstance(module, PackedModule) for module in model.modules())
