"""What a recipe makes of every layer, told before training: weights, FLOPs, bytes, and what is not saved."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from rewire import assembly
from rewire.engine_plan import EnginePlan, plan_engine
from rewire.outcome import LayerFigures, layer_figures, outcome
from rewire.recipe import Recipe
from rewire.report.tables import Table, markdown, size


@dataclass(frozen=True)
class Plan:
    """The figures of a recipe before training; layers as they are to be at its end.

    rest_flops: forward FLOPs of what is never sparse. kept_bytes: beside the model and the optimizer, in masked mode.
    note: of the task.
    """

    recipe: Recipe
    layers: tuple[LayerFigures, ...]
    rest_flops: int
    model_weights: int
    steps: int
    updates: int
    inference_flops_ratio: float
    training_flops_ratio: float
    kept_bytes: int
    engine: EnginePlan | None = None
    note: str = ""

    @property
    def active(self) -> int:
        return sum(layer.active for layer in self.layers)

    @property
    def total(self) -> int:
        return sum(layer.total for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes of the model file in fp32, without its header of a few kB."""
        return sum(layer_bytes(layer) for layer in self.layers) + 4 * (self.model_weights - self.total)


def layer_bytes(layer: LayerFigures) -> int:
    """Returns the bytes of a layer's weights on disk in fp32: values and one bit a weight; a full layer has no bits."""
    return 4 * layer.active + (0 if layer.active == layer.total else -(-layer.total // 8))


def plan(recipe: Recipe, data: Path | None = None) -> Plan:
    """Returns the plan of a recipe. The first masks are drawn as training would draw them."""
    task = assembly.build_task(recipe, data, outline=True)
    steps = recipe.epochs * task.steps
    method = recipe.build_method(steps)
    model = task.model()
    optimizer = assembly.build_optimizer(recipe, model)
    sparsifier = assembly.build_sparsifier(
        recipe,
        model,
        optimizer,
        method,
        task=task,
        batches=lambda: itertools.repeat(task.example(recipe.batch_size)),
    )
    active = sparsifier.budget if sparsifier else {}
    mean_density = sparsifier.planned_density(steps) if sparsifier else {}
    kept = sparsifier.nbytes if sparsifier else 0
    if sparsifier and method.phase is not None:
        sparsifier.remove()  # which gives the weights their names back
    engine = None
    if sparsifier and recipe.engine != "masked":
        engine = plan_engine(recipe, model, optimizer, sparsifier, task.example(min(16, recipe.batch_size))[0])
        model = sparsifier.to_dense()
    layers, rest = layer_figures(model, task, active)
    figures = outcome(recipe, model, task, active, method, steps, mean_density)
    return Plan(
        recipe,
        tuple(layers),
        rest,
        int(figures["model_weights"]),
        steps,
        method.updates(steps),
        figures["inference_flops_ratio"],
        figures["training_flops_ratio"],
        kept,
        engine,
        task.note,
    )


def text(plan: Plan) -> str:
    """Returns the plan as a table and as plain words."""
    recipe, dense_bytes = plan.recipe, 4 * plan.model_weights
    cost = {layer.name: layer.flops * layer.density for layer in plan.layers}
    everything = plan.rest_flops + sum(cost.values())

    def row(name: str, shape: str, active: int, total: int, flops: float, count: int) -> tuple[str, ...]:
        share = f"{flops / everything:.1%}" if everything else "-"
        return name, shape, f"{active:,} of {total:,}", f"{1 - active / total:.2%}", share, size(count)

    rows = [
        row(
            layer.name,
            "x".join(map(str, layer.shape)),
            layer.active,
            layer.total,
            cost[layer.name],
            layer_bytes(layer),
        )
        for layer in plan.layers
    ]
    rest = plan.model_weights - plan.total
    sparse_bytes = sum(map(layer_bytes, plan.layers))
    rows.append(row("sparse layers", "", plan.active, plan.total, sum(cost.values()), sparse_bytes))
    rows.append(row("whole model", "", plan.active + rest, plan.model_weights, everything, plan.bytes))
    header: tuple[str, ...] = ("layer", "shape", "active of total", "sparsity", "FLOPs share", "bytes")
    if plan.engine:
        header, rows = (*header, *plan.engine.header), [(*row, *plan.engine.cells(row[0])) for row in rows]
    table = markdown(Table("", header, tuple(rows))) + (f"\n\nNote: {plan.note}." if plan.note else "")
    if recipe.method == "dense":
        return "\n".join([table, "", "A dense run saves nothing; it is the baseline."])
    saved, unsaved = plan.engine.words() if plan.engine and plan.engine.packed else (_NOTHING, _masked(plan.kept_bytes))
    return "\n".join(
        [
            f"{recipe.method} on {recipe.task} with {recipe.model}: {plan.steps:,} steps, {plan.updates} topology "
            "updates",
            "",
            table,
            "",
            *(plan.engine.lines() if plan.engine else ()),
            "What it will save:",
            f"  size on disk: {size(plan.bytes)} instead of {size(dense_bytes)} "
            f"({plan.bytes / dense_bytes:.1%}), fp32, plus a header of a few kB;",
            f"  FLOPs on paper: {plan.inference_flops_ratio:.1%} of the dense network's at inference, "
            f"{plan.training_flops_ratio:.1%} in training{';' if saved else '.'}",
            *saved,
            "What it will not save:",
            *unsaved,
        ]
    )


_NOTHING: tuple[str, ...] = ()


def _masked(kept: int) -> tuple[str, ...]:
    """What masked mode does not save."""
    return (
        "  time: inactive weights are stored zeros and dense kernels multiply them, so a training step takes a",
        "  little longer than a dense one, and the loaded model is as fast as a dense one;",
        f"  memory: weights, gradients and optimizer state keep their dense size, plus {size(kept)} for masks, visits",
        "  and what the method keeps of each weight.",
    )
