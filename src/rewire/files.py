"""Model files: a sparse model on disk is as small as its sparsity says.

The format is safetensors. A sparse weight of shape (out, in, ...) takes two tensors, `<name>.values` with its active
values in row-major order and `<name>.mask` with one bit per weight (`rewire.core.bits` says in which order); every
other parameter and buffer is there as it is, a tied one once. The header's "rewire" entry is JSON: the format number,
the shapes of the sparse weights, and the other names of tied tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rewire.atomic import atomic_write
from rewire.core.bits import pack_bits, unpack_bits
from rewire.core.names import plain_name, unwrap

FORMAT = 1
_KEY = "rewire"

Model = TypeVar("Model", bound=nn.Module)


def save(
    model: nn.Module,
    path: str | Path,
    masks: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes the model to one safetensors file in which only active weights take room, whole or not at all.

    masks: True where a weight is active, by parameter name: `sparsifier.masks`. Weights without a mask are dense.
    dtype: of the active values of the sparse weights, by default their own; torch.bfloat16 halves those of float32
        and rounds. Everything else keeps its own dtype.
    metadata: words of your own for the file's header.

    The file takes active * 4 + total / 8 bytes in float32 (active * 2 in bfloat16), plus the dense tensors and a
    header of about a hundred bytes a tensor. Storage is all that it saves: `load` gives a dense model back.

    >>> import tempfile
    >>> layer = nn.Linear(1000, 100, bias=False)
    >>> mask = torch.rand(100, 1000) < 0.05
    >>> _ = layer.weight.data.mul_(mask)
    >>> path = Path(tempfile.mkdtemp()) / "layer.safetensors"
    >>> save(layer, path, {"weight": mask})
    >>> path.stat().st_size < 0.1 * layer.weight.nbytes
    True
    >>> torch.equal(load(path, nn.Linear(1000, 100, bias=False)).weight, layer.weight)
    True
    """
    safetensors = _safetensors()
    path = Path(path)
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(
            f"dtype={dtype} cannot hold weights, because it has no fractions. Use torch.float32 or torch.bfloat16."
        )
    if metadata and _KEY in metadata:
        raise ValueError(
            f'metadata["{_KEY}"] is taken, because the format keeps its own entry under that name. Use another name.'
        )
    state, tied = _state(model, masks)
    _check_masks(state, masks)
    stored = {}
    for name, tensor in state.items():
        mask = masks.get(name)
        if mask is None:
            stored[name] = tensor.cpu().clone(memory_format=torch.contiguous_format)
        else:
            stored[f"{name}.values"] = tensor[mask.to(tensor.device)].to("cpu", dtype or tensor.dtype)
            stored[f"{name}.mask"] = pack_bits(mask).cpu()
    shapes = {name: list(state[name].shape) for name in masks}
    header = json.dumps({"format": FORMAT, "shapes": shapes, "tied": tied}, separators=(",", ":"))
    content = safetensors.save(stored, metadata={**(metadata or {}), _KEY: header})
    atomic_write(path, lambda file: file.write(content))


def load(path: str | Path, model: Model) -> Model:
    """Returns the model with its weights from a file of `save`: an ordinary dense model, zeros where inactive.

    Every tensor is equal to the saved one bit for bit; where `save` was given a dtype, the sparse weights are equal
    to the saved ones rounded to it. The names and shapes must be those of the model; before all is checked, nothing
    changes.
    """
    path = Path(path)
    header, stored = _read(path)
    state = _dense_state(path, header, stored)
    _check_fit(path, state, model)
    inner = unwrap(model)
    inner.load_state_dict({name: state[plain_name(name)] for name in inner.state_dict()})
    return model


def _safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            "Model files need safetensors, which is not installed, because it is no part of rewire's core. "
            'Type pip install "rewire[cli]".'
        ) from error
    return safetensors.torch


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns the state of the unwrapped model; a tied tensor is the same object under each of its names."""
    return {plain_name(name): tensor for name, tensor in unwrap(model).state_dict(keep_vars=True).items()}


def _names_of_one(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Returns the names, those of a tied tensor together."""
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    return list(names.values())


def _state(model: nn.Module, masks: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns each tensor once, under the name that the masks use for it, and the other names of the tied ones."""
    tensors = _tensors(model)
    state, tied = {}, {}
    for names in _names_of_one(tensors):
        kept = next((name for name in names if name in masks), names[0])
        if not isinstance(tensors[kept], Tensor):
            raise ValueError(
                f"{kept} is a {type(tensors[kept]).__name__} and cannot be saved, because a model file holds "
                "tensors only. Keep it in a buffer, or out of the state_dict."
            )
        state[kept] = tensors[kept].detach()
        tied.update({name: kept for name in names if name != kept})
    return state, tied


def _check_masks(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        if name not in state:
            raise ValueError(
                f"{name} has a mask but cannot be saved, because the model has no tensor of that name. "
                f"Use the names of the model's parameters: {_some(state)}."
            )
        if mask.dtype != torch.bool or mask.shape != state[name].shape:
            raise ValueError(
                f"The mask of {name} is {mask.dtype} of shape {tuple(mask.shape)}, which does not fit, because the "
                f"weight has shape {tuple(state[name].shape)}. Give a bool tensor of that shape."
            )
        astray = int((state[name][~mask.to(state[name].device)] != 0).sum())
        if astray:
            raise ValueError(
                f"{name} cannot be saved, because {astray} of its weights are not 0 where its mask is False and "
                "would be lost. Save the masks of this very moment: sparsifier.masks. An average over steps (EMA) "
                "still holds weights that were dropped: zero them first, with weight.data.mul_(mask)."
            )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns our entry of the header, and the tensors as they are stored."""
    _safetensors()
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(
            f"{path} cannot be loaded, because there is no such file. Give the path that rewire.save wrote to."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        with open(path, "rb") as file:
            begins_well = file.read(9)[8:] == b"{"
        if begins_well:
            raise ValueError(
                f"{path} cannot be loaded, because it is truncated or damaged after {path.stat().st_size} bytes "
                f"({error}). Copy it again from where it is whole."
            ) from error
        raise ValueError(
            f"{path} cannot be loaded, because it is not a safetensors file ({error}). Give a file of rewire.save."
        ) from error
    if _KEY not in metadata:
        raise ValueError(
            f"{path} is a safetensors file but not one of rewire.save, because its header has no "
            f'"{_KEY}" entry. If it holds a dense model, use safetensors.torch.load_model(model, "{path}").'
        )
    header = json.loads(metadata[_KEY])
    if header["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {header['format']} and cannot be loaded, because this version of rewire reads "
            f"format {FORMAT}. Type pip install --upgrade rewire."
        )
    return header, stored


def _dense_state(path: Path, header: Mapping[str, Any], stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the state_dict of the dense model, every name of a tied tensor included."""
    state = dict(stored)
    for name, shape in header["shapes"].items():
        try:
            values, mask = state.pop(f"{name}.values"), unpack_bits(state.pop(f"{name}.mask"), shape)
            weight = torch.zeros(shape, dtype=values.dtype)
            weight[mask] = values
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            raise ValueError(
                f"{path} cannot be loaded, because its values and its mask of {name} do not belong together "
                f"({error}). Save the model again."
            ) from error
        state[name] = weight
    state.update({name: state[kept] for name, kept in header["tied"].items()})
    return state


def _check_fit(path: Path, state: Mapping[str, Tensor], model: nn.Module) -> None:
    wanted = _tensors(model)
    differences = []
    if missing := [name for name in wanted if name not in state]:
        differences.append(f"the file lacks {_some(missing)}")
    if extra := [name for name in state if name not in wanted]:
        differences.append(f"the model has no {_some(extra)}")
    if reshaped := [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and isinstance(tensor, Tensor) and state[name].shape != tensor.shape
    ]:
        differences.append(f"the file holds {_some(reshaped)}")
    for names in _names_of_one(wanted):
        present = [name for name in names if name in state]
        if any(not torch.equal(state[name], state[present[0]]) for name in present[1:]):
            differences.append(f"the model ties {_some(names)}, which differ in the file")
    if differences:
        raise ValueError(
            f"{path} does not fit this {type(unwrap(model)).__name__}, because {'; '.join(differences)}. "
            "Build the model as it was when the file was saved; this one is unchanged."
        )


def _some(names: Mapping[str, Any] | list[str], most: int = 8) -> str:
    """Returns the names in one line, cut where they are many."""
    shown = list(names)[:most]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")
