"""What a run costs: the results of a record that a report sets beside how good the model is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

_COUNT: Final = {"": 1.0, "thousand": 1e3, "million": 1e6}
_BYTES: Final = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}
_TIME: Final = {"s": 1.0, "hours": 3600.0}
_ENERGY: Final = {"mWh": 1e-6, "Wh": 1e-3, "kWh": 1.0}


@final
@dataclass(frozen=True)
class Cost:
    """One thing that a run costs.

    Args:
        name: of the result in a record.
        words: what people call it.
        units: in rising order, by name, each in the record's own unit.
        remark: what a reader has to know to compare it, in whole sentences.
    """

    name: str
    words: str
    units: Mapping[str, float]
    remark: str

    def unit(self, values: Sequence[float]) -> str:
        """Returns the unit that suits these values: the largest that is not above their middle on a log scale.

        >>> COSTS[2].unit([2e3, 800e3]), COSTS[2].unit([2e3, 900e6])
        ('kB', 'MB')
        """
        middle = math.sqrt(min(values) * max(values))
        return [name for name, size in self.units.items() if size <= middle or size == min(self.units.values())][-1]


COSTS: Final = (
    Cost(
        "parameters",
        "parameters",
        _COUNT,
        "All that the model has, dense layers and embeddings included, without inactive weights.",
    ),
    Cost("active_weights", "active weights", _COUNT, "Counted in the sparse layers."),
    Cost("bytes_on_disk", "size of the model file", _BYTES, "It holds the active weights and a bit for every place."),
    Cost(
        "inference_flops_ratio",
        "inference FLOPs",
        {"% of the dense network's": 0.01},
        "On paper: what a runtime needs that skips zeros.",
    ),
    Cost(
        "training_flops_ratio",
        "training FLOPs",
        {"% of dense training's": 0.01},
        "On paper: what the method needs. Masked training executes the dense network's.",
    ),
    Cost("seconds", "time of training", _TIME, "Only comparable on one machine, and a quiet one."),
    Cost(
        "peak_memory",
        "peak memory",
        _BYTES,
        "On a CPU that of the whole process, Python and torch included; on a GPU that of its tensors.",
    ),
    Cost(
        "cpu_energy_kwh",
        "energy of the processor",
        _ENERGY,
        "By its own counters, without memory. They do not tell programs apart: only comparable on one quiet machine.",
    ),
    Cost(
        "gpu_energy_kwh",
        "energy of the GPU",
        _ENERGY,
        "By its own counter, which does not tell programs apart: only comparable on one quiet machine.",
    ),
)
