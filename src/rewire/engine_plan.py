"""What the CPU engine will make of a recipe: which layers it runs, the time it measured, bytes between steps."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rewire.engine import blocked
from rewire.engine.modules import PackedModule
from rewire.engines import Choices, choices_of, engine_lines, runs_packed
from rewire.recipe import Recipe
from rewire.report.tables import size
from rewire.sparsifier import Sparsifier


@dataclass(frozen=True)
class EnginePlan:
    """Engines and choices by layer, and what one forward pass of a few random images has shown.

    entered: layers whose input came as an ordinary tensor. left: functions that had to leave the layout, with counts.
    kept, kept_dense: bytes between steps. watched: bytes of the dense gradients of the layers that the engine runs, if
    growth reads them. said: what a run says when it begins. threads: with which was measured.
    """

    packed: bool
    engines: Mapping[str, str]
    choices: Choices
    entered: tuple[str, ...]
    left: Mapping[str, int]
    kept: int
    kept_dense: int
    watched: tuple[int, ...]
    said: tuple[str, ...]
    threads: int

    @property
    def milliseconds(self) -> tuple[float, float] | None:
        """A training step of the measured layers: all masked, and as chosen, with the conversions."""
        measured = [choice for choice in self.choices.values() if "masked_ms" in choice]
        if not measured:
            return None
        chosen = (choice["engine_ms" if choice["engine"] == "cpu" else "masked_ms"] for choice in measured)
        paid = sum(choice["paid_ms"] for choice in measured)
        return sum(choice["masked_ms"] for choice in measured), sum(chosen) + paid

    @property
    def header(self) -> tuple[str, ...]:
        """The columns of `cells`."""
        return "engine", *(("masked ms", "cpu ms", "converting ms") if self.milliseconds else ())

    def cells(self, name: str) -> tuple[str, ...]:
        """Returns, for the row of that weight, what runs it, and the milliseconds where they were measured."""
        engine = self.engines.get(name, "").partition(":")[0]
        if not self.milliseconds:
            return (engine,)
        choice = self.choices.get(name, {})
        kinds = ("masked_ms", "engine_ms", "converting_ms")
        return engine, *(f"{choice[kind]:.2f}" if kind in choice else "" for kind in kinds)

    def lines(self) -> list[str]:
        """Returns what runs what, and where activations change their layout."""
        said = [*self.said]
        if self.packed:
            first = self.entered[0] if self.entered else "the first layer"
            again = f", and again at {', '.join(self.entered[1:])}" if self.entered[1:] else ""
            said.append(f"Activations take on the engine's layout at {first}{again}.")
            functions = ", ".join(f"{name} ({count})" for name, count in self.left.items())
            said.append(
                f"They leave it for an ordinary tensor, in one forward pass, at {functions}."
                if functions
                else "No function in between makes them leave it."
            )
        return [*said, ""]

    def words(self) -> tuple[list[str], list[str]]:
        """Returns what the engine saves beside size and FLOPs, and what not."""
        timed = self.milliseconds
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        time = "time: the engine multiplies active weights alone; how much that saves depends on sparsity, layer and "
        time += "batch, and --engine auto measures it;"
        if timed:
            time = (
                f"time: measured here on {threads}, the sparse layers and the conversions between them take "
                f"{_ms(timed[1])} of a training step instead of {_ms(timed[0])} masked; the rest of the step is not in "
                "these figures;"
            )
        memory = (
            f"memory between steps: {size(self.kept)} instead of {size(self.kept_dense)} for weights, gradients, "
            "optimizer state, indices and visits."
        )
        unsaved = [
            "time: small layers and small batches, where calls cost more than products, can be slower than dense ones; "
            "batch norm, pooling, the loss and loading images take their time as ever; the loaded model is an ordinary "
            "dense one, and as fast as that;",
            "memory within a step: activations keep their dense size" + (";" if self.watched else "."),
        ]
        if self.watched:
            unsaved.append(
                "memory on the steps of updates: the dense gradient of one layer at a time, at most "
                f"{size(max(self.watched))}; with several micro-batches to a step, sparsify(micro_batches=k), those of "
                f"all layers together, {size(sum(self.watched))}."
            )
        return _wrapped(time, memory), _wrapped(*unsaved)


def _wrapped(*items: str) -> list[str]:
    return [line for item in items for line in textwrap.wrap(item, 106, initial_indent="  ", subsequent_indent="  ")]


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"


def plan_engine(
    recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer, sparsifier: Sparsifier, example: Tensor
) -> EnginePlan:
    """Returns the plan of a model that was just made sparse; runs it once, without gradients."""
    entered: list[str] = []

    def seen(module: PackedModule, arguments: tuple[Tensor, ...]) -> None:
        if not isinstance(arguments[0], blocked.Blocked):
            entered.append(module.packed.name.removesuffix(".weight"))

    packed = [module for module in model.modules() if isinstance(module, PackedModule)]
    hooks = [module.register_forward_pre_hook(seen) for module in packed]
    left: Counter[str] = Counter()
    if packed:
        with blocked.conversions() as found, torch.no_grad():
            model(example)
        left = found
    for hook in hooks:
        hook.remove()
    states = 2 if recipe.optimizer == "adamw" else int(recipe.momentum > 0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    spared = sum(module.packed.numel - module.packed.count() for module in packed)
    reads = sparsifier.method.gradient == "due"
    choices = choices_of(recipe, sparsifier)
    return EnginePlan(
        packed=runs_packed(sparsifier),
        engines=sparsifier.engines,
        choices=choices,
        entered=tuple(entered),
        left=dict(left),
        kept=4 * (2 + states) * parameters + sparsifier.nbytes,
        kept_dense=4 * (2 + states) * (parameters + spared),
        watched=tuple(4 * module.packed.numel for module in packed) if reads else (),
        said=tuple(engine_lines(recipe, sparsifier, choices)),
        threads=torch.get_num_threads(),
    )
