"""What cannot work is refused here, at the boundary, before anything has changed."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from rewire.core.budget import ConstantDensity
from rewire.core.groups import EqualGroups
from rewire.core.method import Method
from rewire.core.normed import reads_norms
from rewire.core.pruner import Pruner
from rewire.core.score import Score
from rewire.core.share import Keep, Proportional, Ranked, SignChange, Threshold
from rewire.core.structure import FanIn, Structure
from rewire.core.topological import SURVIVORS, check_links
from rewire.core.unfit import UnfitError
from rewire.engine.growth import reads_inactive
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
        if weight.parameter.is_meta:
            raise TypeError(
                f"{weight.name} is on the meta device, so it has no values that could be trained. Call "
                'model.to_empty(device="cpu"), initialise or load the model, and make the optimizer before sparsify().'
            )
        if is_sharded(weight.parameter):
            raise TypeError(
                f"{weight.name} is a DTensor (FSDP2 or tensor parallelism), which is not supported yet. Use DDP."
            )
        if hasattr(weight.parameter, "_in_backward_optimizers"):
            raise TypeError(
                f"{weight.name} is updated inside backward, where there is no step to hook. Use an ordinary "
                "optimizer.step()."
            )


def check_values(method: Method, structure: Structure, start: Score | Pruner | Mapping[str, torch.Tensor]) -> None:
    """Raises TypeError where a function, a class or a name was given instead of the value it makes."""
    for what, value, kinds, example in (
        ("method", method, (Method,), "rewire.dst_ee(steps=30_000)"),
        ("structure", structure, (Structure,), "rewire.NM(2, 4)"),
        ("start", start, (Score, Pruner, Mapping), "rewire.Magnitude()"),
    ):
        if not isinstance(value, kinds):
            raise TypeError(
                f"{what}={getattr(value, '__name__', repr(value))} is not a {kinds[0].__name__}, because it was not "
                f"called or is only a name. Give a value, such as {what}={example}."
            )


def check_engine(
    engine: str | Mapping[str, str],
    micro_batches: int,
    method: Method,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    storages: Collection[Masked],
) -> None:
    """Raises ValueError or TypeError where the engine, or the way in which it is asked for, cannot work."""
    words = {"": engine} if isinstance(engine, str) else engine
    known = ("masked", "cpu", "auto") if isinstance(engine, str) else ("masked", "cpu")
    for name, word in words.items():
        if word not in known:
            where = f"engine={{{name!r}: {word!r}}}" if name else f"engine={word!r}"
            raise ValueError(
                f'{where} is unknown. Use "masked" on any device, or "cpu" for speed on the CPU. "auto" measures '
                "each layer and takes the faster."
            )
    if unknown := [] if isinstance(engine, str) else sorted(words.keys() - {storage.name for storage in storages}):
        raise ValueError(
            f"engine names {', '.join(unknown)}, which is no sparse layer, so it would do nothing. The sparse layers "
            f"are {', '.join(storage.name for storage in storages)}."
        )
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
    if type(optimizer).__name__ in ("Muon", "Adafactor"):  # by name, for they come from other packages too
        raise TypeError(
            f'{type(optimizer).__name__} reads a weight by rows and columns, but engine="cpu" gives the optimizer its '
            "active values alone, as a list. Use SGD, Adam or another optimizer that works weight by weight, or "
            'engine="masked".'
        )
    if method.gradient == "always" or method.window > 1:
        how = "at every step" if method.gradient == "always" else "over steps"
        raise ValueError(
            f"{method.name} follows the dense gradient {how}, "
            'but engine="cpu" has it for a moment at an update only. Use engine="masked", or a method that reads the '
            "gradient only then, such as dst_ee(steps=...)."
        )
    if method.pull is not None or method.phase is not None or any(storage.buffers for storage in storages):
        raise ValueError(
            f'{method.name} keeps a number of its own for every weight, active or not, but engine="cpu" keeps active '
            'weights alone. Use engine="masked", or another method, such as dst_ee(steps=...).'
        )
    largest = max(storages, key=lambda storage: storage.groups * storage.units)
    share = method.share.score if isinstance(method.share, Proportional) else None
    for what, score in (("drops", method.drop), ("shares the budget", share)):
        if score is not None and reads_inactive(score, largest.layer(step=2, key=0)):
            raise ValueError(
                f"{method.name} {what} by {score!r}, which holds active weights against the gradient of inactive "
                'ones, but with engine="cpu" that is gone when an update drops. Use engine="masked", or a score that '
                "looks at active weights alone, such as Magnitude()."
            )
    for storage in storages:
        state = optimizer.state.get(storage.parameter, {})
        if state and float(state.get("step", 1)) > 0:
            raise ValueError(
                f"The optimizer has taken steps already and keeps {', '.join(state)} of {storage.name}, but "
                'engine="cpu" puts the active weights in the place of the dense ones before the first step. Call '
                "sparsify() with a new optimizer, and load a checkpoint's state after that."
            )


def check_phase(method: Method, model: nn.Module) -> None:
    """Raises ValueError where several processes train, which would not hear that a dense phase ends."""
    if method.phase is not None and (
        distributed_processes() > 1 or isinstance(model, nn.parallel.DistributedDataParallel)
    ):
        raise ValueError(
            f"{method.name} changes the model's parameters in the middle of training ({method.phase!r}), but under "
            "torch.distributed they must stay. Train it in one process, or use another method, such as gmp(steps=...)."
        )


def check_structure(structure: Structure, method: Method, weights: Iterable[SparseWeight]) -> None:
    """Raises ValueError where a weight cannot hold the structure, UnfitError where the method does not go with it."""
    if structure.density() is not None and not isinstance(method.share, Keep):
        does = "moves weights between layers" if method.share.between_layers else "exceeds the budget between updates"
        raise UnfitError(
            f"{method.name} {does} ({method.share!r}), but {structure} fixes the density of every layer. Use "
            "share=Keep(), or another structure."
        )
    if method.density != ConstantDensity() and isinstance(method.share, SignChange | Threshold):
        raise UnfitError(
            f"{method.name} grows as many weights as it drops ({method.share!r}), but its density changes "
            f"({method.density!r}). Use share=Keep() or Ranked(), or a constant density."
        )
    if method.groups != EqualGroups() and not isinstance(structure, FanIn):
        raise UnfitError(
            f"{method.name} ablates neurons ({method.groups!r}), each of which must be a group of its own, but the "
            f"structure is {structure}. Use structure=FanIn(), or leave structure out."
        )
    sizes: dict[str, int] = {}
    for weight in weights:
        out_first = weight.out_first(weight.parameter.detach())
        structure.check(weight.name, out_first.shape)
        groups, _, size = structure.fold(out_first).shape
        sizes[weight.name] = size
        if SURVIVORS in method.needs:
            check_links(weight.name, size)
        if groups > 1 and method.share.between_layers:
            raise UnfitError(
                f"{method.name} moves single weights between layers ({method.share!r}), but {structure} gives each of "
                f"the {groups} groups of {weight.name} the same number. Use structure=Unstructured(), or a method "
                "that keeps the count of every layer, such as rigl."
            )
        by_norms = method.grow is not None and reads_norms(method.grow)
        if size > 1 and by_norms and _switches_outputs(structure, out_first.shape):
            raise UnfitError(
                f"{method.name} grows by gradients times the norm of an output, which is 0 for outputs that are off, "
                f"and {structure} switches those of {weight.name} as a whole, so the gradient would not say which to "
                "grow. Use relative=False, or another structure."
            )
    if method.share.between_layers and len(set(sizes.values())) > 1:
        names = list(sizes)
        other = next(name for name in names if sizes[name] != sizes[names[0]])
        raise UnfitError(
            f"{method.name} moves units between layers ({method.share!r}), but {structure} makes units of "
            f"{sizes[names[0]]} weights in {names[0]} and of {sizes[other]} in {other}, so the total would not stay. "
            "Use another structure, or a method that keeps the count of every layer, such as rigl."
        )


def _switches_outputs(structure: Structure, shape: torch.Size) -> bool:
    """Whether no unit holds only a part of an output, so that an output is on or off as a whole."""
    folded = structure.fold(torch.empty(shape))
    unit = torch.arange(folded[..., 0].numel()).reshape(*folded.shape[:2], 1)
    rows = structure.unfold(unit.expand(folded.shape), shape).flatten(1)
    return torch.equal(rows, rows[:, :1].expand(rows.shape))


def check_falls(method: Method, target: float) -> None:
    """Raises ValueError where a density would have to rise and the method grows no more than it drops."""
    first = method.density(0, target)
    if first < target and (method.grow is None or isinstance(method.share, Ranked)):
        raise UnfitError(
            f"{method.name} begins at sparsity {1 - first:g} and should end at {1 - target:g}, so weights would have "
            f"to be added, but it only takes some away. Use an initial_sparsity of at most {1 - target:g}."
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
        for key in ("method", "structure", "budget", "seed", "step", "updates", "moved", "memory", "accounts", "layers")
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
