"""Where training starts: the sparsity as the user says it, the counts of every layer, the first topologies."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rewire.accounts import Budget
from rewire.checks import check_falls
from rewire.core.budget import Distribution, match_overrides
from rewire.core.method import Method
from rewire.core.names import unwrap
from rewire.core.pruner import Batch, Loss, Pruner
from rewire.core.score import Score, of_units
from rewire.core.structure import Structure
from rewire.core.update import initial_topology
from rewire.masked import Masked
from rewire.sharding import distributed_processes


def begin(
    storages: Mapping[str, Masked],
    method: Method,
    structure: Structure,
    start: Score | Pruner | Mapping[str, Tensor],
    sparsity: float | Mapping[str, float] | None,
    distribution: Distribution,
    keys: Mapping[str, int],
    model: nn.Module | None = None,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
) -> tuple[Budget, dict[str, Bool[Tensor, "groups units"]]]:
    """Returns the budget of the run and the first topology of every layer.

    start: a score, a pruner, or a mapping from every sparse weight to a tensor of its shape: bool is a mask, and
    floating point is scores of the user's own. keys: seed the layers' randomness. model, batches, loss: what a pruner
    runs; nothing else reads them.
    """
    if isinstance(start, Mapping) and not (start and all(values.is_floating_point() for values in start.values())):
        if sparsity is not None:
            raise ValueError("start gives masks, which fix the sparsity, so sparsity= would be ignored. Leave one out.")
        topologies = topologies_by_mask(storages, start)
        active = sum(int(units.sum()) * storages[name].size for name, units in topologies.items())
        density = active / sum(storage.numel for storage in storages.values())
        return Budget(density, {}, distribution, method), topologies
    budget = resolve(sparsity, storages, structure, distribution, method)
    if isinstance(start, Mapping):
        _check_names(storages, start, "scores")
        return budget, best(budget, storages, {n: unit_scores(s, start[n], "start") for n, s in storages.items()})
    if isinstance(start, Pruner):
        assert model is not None, "a pruner runs the model"
        return budget, topologies_by_pruner(budget, storages, start, unwrap(model), batches, loss)
    return budget, topologies_by_score(budget, storages, start, keys)


def resolve(
    sparsity: float | Mapping[str, float] | None,
    storages: Mapping[str, Masked],
    structure: Structure,
    distribution: Distribution,
    method: Method,
) -> Budget:
    """Returns the budget that the user's `sparsity` means; ValueError where it contradicts itself."""
    fixed = structure.density()
    if method.name == "dense" and fixed is not None:
        raise ValueError(
            f"dense() keeps every weight, but {structure} fixes the sparsity at {1 - fixed:g}. Leave the structure "
            "out, or use static() for a fixed mask."
        )
    if method.name == "dense" and sparsity is None:
        sparsity = 0.0
    if fixed is not None:
        if sparsity is not None and not (isinstance(sparsity, float) and math.isclose(sparsity, 1 - fixed)):
            raise ValueError(
                f"sparsity={sparsity} contradicts {structure}, which fixes the sparsity at {1 - fixed:g}. "
                "Leave sparsity out, or choose another structure."
            )
        check_falls(method, fixed)
        return Budget(fixed, {}, "uniform", method)
    if sparsity is None:
        raise ValueError(
            "sparsity is missing, and nothing else says how many weights may stay. Add for example sparsity=0.95."
        )
    overall, overrides = match_overrides(list(storages), sparsity)
    if method.name == "dense" and (overall or any(overrides.values())):
        raise ValueError(
            f"dense() keeps every weight, but sparsity={sparsity}. Use sparsity=0, or static() for a fixed mask."
        )
    if distribution == "global" and overrides:
        raise ValueError(
            f'distribution="global" ranks all layers together, so sparsity={sparsity} cannot fix single layers. '
            'Use one number, or distribution="erk".'
        )
    for value in (overall, *overrides.values()):
        check_falls(method, 1 - value)
    return Budget(1 - overall, {name: 1 - value for name, value in overrides.items()}, distribution, method)


def topologies_by_score(
    budget: Budget, storages: Mapping[str, Masked], start: Score, keys: Mapping[str, int]
) -> dict[str, Bool[Tensor, "groups units"]]:
    """Returns the first topology of every layer: the units that `start` scores highest."""
    if start.needs:
        raise ValueError(
            f"start={start!r} needs {', '.join(sorted(need.name for need in start.needs))}, which does not exist "
            "before training. Use Random() or Magnitude(), or give masks."
        )
    scores = {name: of_units(start, storage.layer(1, keys[name])) for name, storage in storages.items()}
    return best(budget, storages, scores)


def topologies_by_pruner(
    budget: Budget,
    storages: Mapping[str, Masked],
    pruner: Pruner,
    model: nn.Module,
    batches: Iterable[Any] | None,
    loss: Loss | None,
) -> dict[str, Bool[Tensor, "groups units"]]:
    """Returns the first topology of every layer: what is left after the pruner's rounds of falling density.

    What a round has pruned scores below all else in the next. Raises ValueError where a layer's scores are all 0.
    """
    read = read_batches(pruner, batches, loss)
    active = {name: storage.active_units() for name, storage in storages.items()}
    for number in range(1, pruner.rounds + 1):
        weights = {name: _pruned(storage, active[name]) for name, storage in storages.items()}
        found = pruner.scores(model, weights, read, loss)
        if number == 1:
            _check_names(storages, found, "scores")
            _check_signal(pruner, found)
        scores = {
            name: unit_scores(storage, found[name], repr(pruner)).masked_fill(~active[name], -torch.inf)
            for name, storage in storages.items()
        }
        with warnings.catch_warnings():
            if number < pruner.rounds:  # floors are said once, of what training begins with
                warnings.simplefilter("ignore")
            active = best(budget, storages, scores, number / pruner.rounds)
    return active


def best(
    budget: Budget,
    storages: Mapping[str, Masked],
    scores: Mapping[str, Float[Tensor, "groups units"]],
    part: float = 1.0,
) -> dict[str, Bool[Tensor, "groups units"]]:
    """Returns the units of highest score, as many as the budget gives every layer; `part` as for `Budget.counts`."""
    counts = budget.counts(storages, 0, scores, part)
    return {name: initial_topology(scores[name], counts[name]) for name in storages}


def topologies_by_mask(
    storages: Mapping[str, Masked], masks: Mapping[str, Tensor]
) -> dict[str, Bool[Tensor, "groups units"]]:
    """Returns the first topology of every layer from masks in the weights' shapes; ValueError where one cannot be."""
    _check_names(storages, masks, "masks")
    topologies = {}
    for name, storage in storages.items():
        mask = masks[name]
        if mask.dtype != torch.bool or mask.shape != storage.parameter.shape:
            raise ValueError(
                f"The mask of {name} is {mask.dtype} {tuple(mask.shape)}, but must be torch.bool "
                f"{tuple(storage.parameter.shape)}, True where active. Use mask.bool(), of the weight's shape."
            )
        folded = storage.fold(mask.to(storage.parameter.device))
        active = folded[..., 0]
        fixed = storage.structure.density()
        per_group = int(active[0].sum()) if fixed is None else round(fixed * storage.units)
        if bool((folded != folded[..., :1]).any()) or bool((active.sum(1) != per_group).any()):
            raise ValueError(
                f"The mask of {name} does not hold {storage.structure}: its units or groups are not whole. "
                "Use structure=Unstructured(), or masks made with the same structure."
            )
        if not bool(active.any()):
            raise ValueError(f"The mask of {name} has no active weight, so nothing passes. Keep at least one.")
        topologies[name] = active
    return topologies


def unit_scores(storage: Masked, values: Tensor, source: str) -> Float[Tensor, "groups units"]:
    """Returns the score of every unit, the mean over its weights; ValueError where it is not a number for each."""
    if values.shape != storage.stored:
        raise ValueError(
            f"{source} gives {storage.name} scores of shape {tuple(values.shape)}, but its weights are "
            f"{tuple(storage.stored)}. Give one number per weight."
        )
    if not bool(values.isfinite().all()):
        raise FloatingPointError(
            f"{source} gives {storage.name} scores that are NaN or infinite, which have no place in an order. Look for "
            f'an overflow in the model or the loss, or leave the layer dense with exclude=["{storage.name}"].'
        )
    return storage.fold(values.detach().to(storage.parameter.device)).mean(-1)


def read_batches(pruner: Pruner, batches: Iterable[Any] | None, loss: Loss | None) -> list[Batch]:
    """Returns the batches that a pruner reads; ValueError or TypeError where it cannot have them, or their loss."""
    if pruner.labelled and distributed_processes() > 1:
        raise ValueError(
            f"start={pruner!r} scores by the batches of one process, so that each would get a topology of its own. "
            "Make the masks in one process, and give all of them start=masks."
        )
    if batches is None or (pruner.labelled and loss is None):
        raise ValueError(
            f"start={pruner!r} runs the model before training, which needs batches{' and loss' * pruner.labelled}. "
            f"Give for example batches=loader{', loss=torch.nn.functional.cross_entropy' * pruner.labelled}."
        )
    example = "Give pairs (input, target), such as batches=loader or batches=[(x, y)]."
    if not isinstance(batches, Iterable):
        raise TypeError(f"batches is a {type(batches).__name__}, which cannot be iterated over. {example}")
    read = list(islice(batches, pruner.batches))
    for number, batch in enumerate(read, start=1):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"Batch {number} is a {type(batch).__name__} and not a pair. {example}")
    if len(read) < pruner.batches:
        raise ValueError(
            f"start={pruner!r} reads {pruner.batches} of batches, which ended after {len(read)}. Give more, or a "
            "pruner that reads fewer."
        )
    return [(inputs, target) for inputs, target in read]


def _pruned(storage: Masked, active: Bool[Tensor, "groups units"]) -> Tensor:
    """The weight in its stored shape, 0 outside of the active units."""
    kept = torch.where(active.unsqueeze(-1), storage.fold(storage.parameter.detach()), 0)
    return storage.weight.as_stored(storage.structure.unfold(kept, storage.shape))


def _check_names(storages: Mapping[str, Masked], given: Mapping[str, Tensor], what: str) -> None:
    for kind, names in (("lacks", storages.keys() - given.keys()), ("has", given.keys() - storages.keys())):
        if names:
            raise ValueError(
                f"start {kind} {', '.join(sorted(names))}: {what} must name exactly the sparse layers. "
                f"These are {', '.join(storages)}."
            )


def _check_signal(pruner: Pruner, scores: Mapping[str, Tensor]) -> None:
    silent = [name for name, values in scores.items() if not bool(values.any())]
    if silent:
        raise ValueError(
            f"{pruner!r} scores every weight of {', '.join(silent[:4])}{', ...' if len(silent) > 4 else ''} 0, so "
            "nothing says which to keep: no gradient reaches them, because loss or output does not depend on them, or "
            f'they are 0 themselves. Initialise them, or leave them dense with exclude=["{silent[0]}"].'
        )
