"""What a report works out of records before it shows them: parameters, FLOPs beside one dense run, notes, machines."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from rewire.record import Record

OF_MACHINE: Final = frozenset({"seconds", "peak_memory", "cpu_energy_kwh", "gpu_energy_kwh"})
"""Results that say as much of the machine as of the run."""

_COUNTS: Final = ("model_weights", "total_weights", "active_weights")
_RATIOS: Final = ("training_flops_ratio", "training_flops_ratio_published")


def derived(record: Record, reference: int | None) -> Record:
    """Returns the record with `parameters` among its results, where it has what they follow from:

        parameters = model_weights - total_weights + active_weights

    all that the model has, dense layers, biases and embeddings included, without the inactive weights.

    reference: epochs of the dense run that training FLOPs are a share of; records have them as shares of one of the
    run's own length. None leaves them so.
    """
    result = dict(record.result)
    model, total, active = (result.get(name) for name in _COUNTS)
    if model is not None and total is not None and active is not None:
        result["parameters"] = model - total + active
    epochs = record.recipe.get("epochs")
    if reference is not None and epochs is not None:
        result |= {name: result[name] * epochs / reference for name in _RATIOS if result.get(name) is not None}
    return replace(record, result=result)


def reference_epochs(recipes: Iterable[Mapping[str, Any]]) -> int | None:
    """Returns the epochs that most of the recipes have, of equals those of dense training; None where all agree.

    >>> reference_epochs([{"method": "rigl", "epochs": 60}, {"method": "dense", "epochs": 50}])
    50
    """
    ordered = sorted(recipes, key=lambda recipe: recipe["method"] != "dense")
    found = Counter(recipe["epochs"] for recipe in ordered if recipe.get("epochs") is not None)
    return found.most_common(1)[0][0] if len(found) > 1 else None


def noted(records: Iterable[Record]) -> str:
    """Returns the notes of the runs as one sentence, each once, or "" where there is none.

    A note is of several remarks with "; " between them; one that not every run has is marked as such.
    """
    notes = [str(record.result.get("note") or "").split("; ") for record in records]
    found = Counter(part for parts in notes for part in dict.fromkeys(parts) if part)
    words = [part if count == len(notes) else f"{part} (some runs)" for part, count in found.items()]
    return f"Notes: {'; '.join(words)}." if words else ""


def one_machine(records: Sequence[Record]) -> bool:
    """Whether processor, accelerator and threads of all the runs are the same."""
    names = ("processor", "accelerator", "threads")
    return len({tuple(record.hardware.get(name) for name in names) for record in records}) < 2
