"""What cannot work is refused here, at the boundary, before anything has changed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from rewire.core.method import Keep, Method
from rewire.core.score import Score
from rewire.core.structure import Structure
from rewire.layers import SparseWeight
from rewire.masked import Masked
from rewire.sharding import distributed_processes, is_sharded
from rewire.storage import Storage


def check_optimizer(optimizer: torch.optim.Optimizer, weights: list[SparseWeight]) -> None:
    """Raises TypeError or ValueError where training these weights with this optimizer cannot stay sparse."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}, not a torch.optim.Optimizer, so there is no step to hook. "
            "Pass the optimizer that updates the weights."
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError(
            "LBFGS evaluates its closure several times in one step and mixes all weights in its history, so masks "
            "cannot hold. Use SGD, Adam, AdamW or any optimizer that works weight by weight."
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [weight.name for weight in weights if id(weight.parameter) not in held]
    if missing:
        raise ValueError(
            f"The optimizer does not hold {', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''}, so "
            f"{'its' if len(missing) == 1 else 'their'} masks would never move. Build it from model.parameters() "
            f'(after moving the model), or leave them out with exclude=["{missing[0]}"].'
        )
    for weight in weights:
        if is_sharded(weight.parameter):
            raise TypeError(
                f"{weight.name} is a DTensor (FSDP2 or tensor parallelism), which is not supported yet. Use DDP."
            )
        if hasattr(weight.parameter, "_in_backward_optimizers"):
            raise TypeError(
                f"{weight.name} is updated inside backward, where there is no step to hook. Use an ordinary "
                "optimizer.step()."
            )


def check_values(method: Method, structure: Structure, start: Score | Mapping[str, torch.Tensor]) -> None:
    """Raises TypeError where a function, a class or a name was given instead of the value it makes."""
    for what, value, kinds, example in (
        ("method", method, (Method,), "rewire.dst_ee(steps=30_000)"),
        ("structure", structure, (Structure,), "rewire.NM(2, 4)"),
        ("start", start, (Score, Mapping), "rewire.Magnitude()"),
    ):
        if not isinstance(value, kinds):
            raise TypeError(
                f"{what}={getattr(value, '__name__', repr(value))} is not a {kinds[0].__name__}, because it was not "
                f"called or is only a name. Give a value, such as {what}={example}."
            )


def check_engine(
    engine: str,
    micro_batches: int,
    method: Method,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    storages: Iterable[Masked],
) -> None:
    """Raises ValueError or TypeError where the engine, or the way in which it is asked for, cannot work."""
    if engine not in ("masked", "cpu"):
        raise ValueError(f'engine={engine!r} is unknown. Use "masked" on any device, or "cpu" for speed on the CPU.')
    if not isinstance(micro_batches, int) or micro_batches < 1:
        raise ValueError(
            f"micro_batches={micro_batches!r} is not the number of backward passes to one optimizer step. Use 1, or as "
            "many as your loop makes."
        )
    if engine == "masked":
        return
    if distributed_processes() > 1 or isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError(
            'engine="cpu" trains in one process, because each would grow by the gradient of its own batch. Use '
            'engine="masked" under torch.distributed.'
        )
    if method.gradient == "always" or any(storage.buffers for storage in storages):
        raise ValueError(
            f'{method.name} follows the dense gradient at every step, which engine="cpu" never has, except at updates. '
            'Use engine="masked", or a method that reads the gradient only then, such as dst_ee(steps=...).'
        )
    for storage in storages:
        state = optimizer.state.get(storage.parameter, {})
        if state and float(state.get("step", 1)) > 0:
            raise ValueError(
                f"The optimizer has taken steps already and keeps {', '.join(state)} of {storage.name}, but "
                'engine="cpu" puts the active weights in the place of the dense ones before the first step. Call '
                "sparsify() with a new optimizer, and load a checkpoint's state after that."
            )


def check_structure(structure: Structure, method: Method, weights: Iterable[SparseWeight]) -> None:
    """Raises ValueError where a weight cannot hold the structure, or the method moves what the structure fixes."""
    keeps = isinstance(method.share, Keep)
    if structure.density() is not None and not keeps:
        raise ValueError(
            f"{method.name} moves weights between layers ({method.share!r}), but {structure} fixes the density of "
            "every layer. Use share=Keep(), or another structure."
        )
    for weight in weights:
        out_first = weight.out_first(weight.parameter.detach())
        structure.check(weight.name, out_first.shape)
        groups = structure.fold(out_first).shape[0]
        if groups > 1 and not keeps:
            raise ValueError(
                f"{method.name} moves single weights between layers ({method.share!r}), but {structure} gives each of "
                f"the {groups} groups of {weight.name} the same number. Use share=Keep(), or another structure."
            )


def check_finite(storages: Iterable[Storage], step: int, gradient: bool) -> None:
    """Raises FloatingPointError, before any topology has changed, where weights or gradients cannot be ranked."""
    for storage in storages:
        for what, values in storage.ranked(gradient).items():
            if not bool(values.isfinite().all()):
                raise FloatingPointError(
                    f"The {what.replace('_', ' ')} of {storage.name} has NaN or inf at step {step}, so its weights "
                    "cannot be ranked; no mask was changed. Lower the learning rate, clip with "
                    "sparsifier.clip_grad_norm_(1.0), or use torch.amp.GradScaler under float16."
                )


def check_state(
    state: Mapping[str, Any], format_: int, made_of: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ValueError that says precisely what differs, where a state is not one of this sparsifier.

    made_of: method and structure, as they print. shapes: of the sparse weights, by name.
    """
    if state.get("format") != format_:
        raise ValueError(
            f"This is not a sparsifier state of format {format_} (it says {state.get('format')!r}), so it cannot "
            "be read. Pass what sparsifier.state_dict() returned."
        )
    missing = [
        key
        for key in ("method", "structure", "budget", "seed", "step", "updates", "moved", "layers")
        if key not in state
    ]
    if missing:
        raise ValueError(
            f"The saved state is not whole (it lacks {', '.join(missing)}); nothing was changed. Load another "
            "checkpoint."
        )
    differences = [f"{what}: saved {state[what]}, here {here}" for what, here in made_of.items() if state[what] != here]
    saved = {name: tuple(layer.get("shape", ())) for name, layer in state["layers"].items()}
    differences += [
        f"{name}: saved {saved.get(name, 'nothing')}, here {shapes.get(name, 'nothing')}"
        for name in sorted(saved.keys() | shapes.keys())
        if saved.get(name) != shapes.get(name)
    ]
    if differences:
        raise ValueError(
            "The saved state does not belong to this sparsifier; nothing was changed. "
            + "; ".join(differences)
            + ". Call sparsify() with the model, method and structure of the saved run."
        )


def warn_of_foreign_state(optimizer: torch.optim.Optimizer, storages: Iterable[Storage]) -> None:
    """Warns where the optimizer keeps state that cannot be reset weight by weight, as Adafactor or 8-bit Adam do."""
    for storage in storages:
        for key, value in optimizer.state.get(storage.parameter, {}).items():
            if isinstance(value, torch.Tensor) and value.numel() > 1 and value.shape != storage.parameter.shape:
                warnings.warn(
                    f"{type(optimizer).__name__} keeps {key} of {storage.name} as {tuple(value.shape)}, not weight by "
                    "weight, so newly grown weights start with the state of their neighbours. SGD, Adam and AdamW "
                    "start them afresh.",
                    stacklevel=2,
                )
                return
