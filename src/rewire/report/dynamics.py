"""Figures of what happened at the updates of a run: `rewire.diagnosis` says what the curves are.

Each function returns a `Figure`, or None where the records hold nothing to draw.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from statistics import fmean
from typing import Any

from rewire.report.drawing import INK, canvas, looks_of, svg
from rewire.report.figures import Figure, curve, decades, named
from rewire.report.sections import FLAGSHIP, Group, Section
from rewire.report.tables import percent

IMPORTANT = {
    "active": "the weights active at the end",
    "largest": "the largest tenth, by layer, of the weights active at the end",
}
PARTS = {"a quarter": 0.25, "half": 0.5, "three quarters": 0.75}

Curve = dict[float, float]  # value by optimizer step
Read = Callable[[Mapping[str, Any]], Iterable[float | None]]  # a record's curves to one entry an update


def exploitation_over_time(section: Section, sparsity: float, kind: str) -> Figure | None:
    """Returns the shares of the important weights that each update has grown, kept and missed, a line a label.

    kind: "active" or "largest", as in `IMPORTANT`.
    """
    found = {name: _curves(section, sparsity, _share(kind, name)) for name in ("grown", "kept", "missed")}
    if not found["missed"]:
        return None
    figure, panels = canvas(rows=3)
    for axes, (name, curves) in zip(panels, found.items(), strict=True):
        _lines(axes, section, curves)
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
    panels[-1].set_xlabel("optimizer step")
    return Figure(
        svg(figure, f"exploitation-{kind}-{sparsity:g}"),
        f"Shares of {IMPORTANT[kind]} that updates have grown, kept and missed, over optimizer steps at "
        f"{percent(sparsity)} sparsity. Missed: {_ends(found['missed'])}.",
        f"At {percent(sparsity)} sparsity, of {IMPORTANT[kind]}: the shares that each update has grown (inactive "
        "before, active after), kept, and missed (inactive after). Means over seeds.",
    )


def exploitation_by_layer(section: Section, sparsity: float) -> Figure | None:
    """Returns, for each layer, which share of the weights active at the end was active after a part of the updates."""
    groups = sorted(section.at(sparsity), key=lambda group: group.method != FLAGSHIP)
    group, layers = next(((group, found) for group in groups if (found := _layers(group))), (None, {}))
    if group is None:
        return None
    figure, (axes,) = canvas(height=1.1 + 0.19 * len(layers))
    looks = looks_of([*PARTS])
    for words, part in PARTS.items():
        values = [100 * _after(active, part) for active in layers.values()]
        axes.plot(values, range(len(layers)), **looks[words] | {"linestyle": ""}, label=f"after {words}")
    names = [name.removesuffix(".weight") for name in layers]
    axes.set_yticks(range(len(layers)), names, fontsize=8)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.set_xlabel("active already, % of those active at the end")
    return Figure(
        svg(figure, f"exploitation-by-layer-{sparsity:g}"),
        f"Of {IMPORTANT['active']}, active already after half of the updates at {percent(sparsity)} sparsity: "
        + ", ".join(f"{name} {_after(active, 0.5):.0%}" for name, active in zip(names, layers.values(), strict=True))
        + ".",
        f"{group.label} at {percent(sparsity)} sparsity: which share of {IMPORTANT['active']} was active after a "
        "quarter, half and three quarters of the updates. Means over seeds.",
    )


def energy_over_time(section: Section, sparsity: float) -> Figure | None:
    """Returns the share of the squared weights that each update dropped, a line a label."""
    energies = _curves(section, sparsity, named("energy"))
    if not energies:
        return None
    figure, (axes,) = canvas()
    _lines(axes, section, energies)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("energy dropped")
    return Figure(
        svg(figure, f"energy-{sparsity:g}"),
        f"Energy dropped at each update over optimizer steps at {percent(sparsity)} sparsity: {_ends(energies)}.",
        f"At {percent(sparsity)} sparsity: ||W - W*M||^2 / ||W||^2 at each update, W the weights before it and M the "
        "mask after it. The theorem of DST-EE assumes a bound on it, tau^2. Means over seeds.",
    )


def gradient_decay(section: Section, sparsity: float) -> Figure | None:
    """Returns the mean squared gradient over the updates so far, beside 1/sqrt(steps), on logarithmic axes."""
    all_weights = _running_means(_curves(section, sparsity, named("squared_gradient")))
    active = _running_means(_curves(section, sparsity, named("gradient_flow")))
    if not all_weights:
        return None
    figure, panels = canvas(rows=2)
    rate = {"color": INK, "linestyle": (0, (1, 2)), "linewidth": 1}
    for axes, means, name in zip(panels, (all_weights, active), ("all weights", "active"), strict=True):
        _lines(axes, section, means)
        for mean in means.values():
            first = next(iter(mean))
            axes.plot(list(mean), [mean[first] * (first / step) ** 0.5 for step in mean], **rate)
        axes.plot([], [], **rate, label="1/sqrt(step)")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylabel(name)
        _round_ticks(axes.yaxis, axes.get_ylim())
    _round_ticks(panels[-1].xaxis, panels[-1].get_xlim())
    panels[-1].set_xlabel("optimizer step")
    return Figure(
        svg(figure, f"gradient-decay-{sparsity:g}"),
        f"Mean squared norm of the gradient over optimizer steps at {percent(sparsity)} sparsity. All weights: "
        f"{_ends(all_weights)}. Active ones: {_ends(active)}.",
        f"At {percent(sparsity)} sparsity: ||grad F(W*M)||^2 on a fixed sample, the mean over the updates so far, of "
        "all weights of the sparse layers and of the active ones. Dotted, from the first point of each line: the rate "
        "1/sqrt(step) of the theorem of DST-EE, whose constants are unknown. Means over seeds.",
    )


def connectivity_over_time(section: Section, sparsity: float) -> Figure | None:
    """Returns effective density, dead and ablated units over the steps, a line a label."""
    names = {"effective_density": "effective density", "dead_units": "dead units", "ablated_units": "ablated units"}
    found = {words: _curves(section, sparsity, named(name)) for name, words in names.items()}
    if not found["effective density"]:
        return None
    figure, panels = canvas(rows=3)
    for axes, (words, curves) in zip(panels, found.items(), strict=True):
        _lines(axes, section, curves)
        axes.set_ylabel(words)
    panels[-1].set_xlabel("optimizer step")
    return Figure(
        svg(figure, f"connectivity-{sparsity:g}"),
        f"Connectivity over optimizer steps at {percent(sparsity)} sparsity. "
        + ". ".join(f"{words.capitalize()}: {_ends(curves)}" for words, curves in found.items())
        + ".",
        f"At {percent(sparsity)} sparsity: the weights on a path from input to output, as a share of all weights; the "
        "units that no such path leads through; and those of them without an active incoming weight. Means over seeds.",
    )


def degrees_by_layer(section: Section, sparsity: float) -> Figure | None:
    """Returns, for each layer, the active weights into its outputs and out of its inputs, at the end of the run."""
    groups = sorted(section.at(sparsity), key=lambda group: group.method != FLAGSHIP)
    group, layers = next(((group, found) for group in groups if (found := _degrees(group))), (None, {}))
    if group is None:
        return None
    names = [name.removesuffix(".weight") for name in layers]
    figure, panels = canvas(rows=2, height=0.38 * len(layers))
    most = max(sides[side]["largest"] for sides in layers.values() for side in sides)
    ticks = [0, *(10**power for power in range(math.ceil(math.log10(max(most, 1))) + 1))]
    look = looks_of([group.label])[group.label] | {"linestyle": ""}
    for axes, side in zip(panels, ("incoming", "outgoing"), strict=True):
        for place, layer in enumerate(layers.values()):
            units = layer[side]
            axes.plot([units["smallest"], units["largest"]], [place, place], color=INK, linewidth=1)
            axes.plot(units["mean"], place, **look, label=group.label if place == 0 else None)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlim(-0.1, ticks[-1])
        axes.set_yticks(range(len(layers)), names, fontsize=8)
        axes.set_ylim(len(layers) - 0.5, -0.5)
        axes.set_ylabel(side)
    panels[-1].set_xlabel("active weights of a unit")
    words = (
        f"{name} {sides['incoming']['mean']:.3g} and {sides['outgoing']['mean']:.3g}"
        for name, sides in zip(names, layers.values(), strict=True)
    )
    return Figure(
        svg(figure, f"degrees-by-layer-{sparsity:g}"),
        f"Mean in-degree and out-degree by layer at {percent(sparsity)} sparsity: {', '.join(words)}.",
        f"{group.label} at {percent(sparsity)} sparsity, after the last update: active weights into each output of a "
        "layer, and out of each input. The mean over its units, and a line from the fewest to the most; a unit of a "
        "convolution is a channel. Means over seeds.",
    )


def _curves(section: Section, sparsity: float, values: Read) -> dict[str, Curve]:
    """Returns the curve of each label that has one."""
    curves = {group.label: curve(group, values) for group in section.at(sparsity)}
    return {label: found for label, found in curves.items() if found}


def _share(kind: str, name: str) -> Read:
    """Returns what reads the important weights that updates have grown, kept or missed, as a share of them."""
    return lambda curves: _shares(curves.get("exploitation", {}).get(kind, {}), name)


def _shares(counts: Mapping[str, list[int]], name: str) -> list[float]:
    totals = map(sum, zip(*counts.values(), strict=True))
    return [count / total for count, total in zip(counts.get(name, []), totals, strict=True) if total]


def _layers(group: Group) -> dict[str, list[float]]:
    """Returns, by layer, the share of the weights active at the end that each update has left active."""

    def missed(layer: str) -> Read:
        return lambda curves: _shares(curves.get("layer_exploitation", {}).get(layer, {}).get("active", {}), "missed")

    names = group.records[0].curves.get("layer_exploitation", {})
    curves = {name: curve(group, missed(name)) for name in names}
    return {name: [1 - share for share in found.values()] for name, found in curves.items() if found}


def _degrees(group: Group) -> dict[str, dict[str, dict[str, float]]]:
    """Returns mean, smallest and largest degree by layer and side, as means over runs; {} unless all have them."""
    found = [record.curves.get("layer_degrees", {}) for record in group.records]
    names = [name for name in found[0] if all(name in layers for layers in found)]
    return {
        name: {
            side: {
                what: fmean(layers[name][side][what] for layers in found) for what in ("mean", "smallest", "largest")
            }
            for side in ("incoming", "outgoing")
        }
        for name in names
    }


def _after(values: list[float], part: float) -> float:
    """Returns the value after that part of the updates, the first at least."""
    return values[max(0, round(part * len(values)) - 1)]


def _lines(axes: Any, section: Section, curves: Mapping[str, Curve]) -> None:
    looks = looks_of(section.labels)
    for label, found in curves.items():
        axes.plot(list(found), list(found.values()), **looks[label] | {"marker": ""}, label=label)


def _running_means(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """Returns the mean of all values up to each step."""
    return {
        label: {step: total / count for count, (step, total) in enumerate(zip(found, sums, strict=True), start=1)}
        for label, found in curves.items()
        for sums in [accumulate(found.values())]
    }


def _round_ticks(axis: Any, limits: tuple[float, float]) -> None:
    """Writes 1, 2 and 5 of each power of ten, or powers alone where that would be too many."""
    ticks = decades(limits)
    ticks = ticks if len(ticks) < 7 else ticks[[f"{tick:e}"[0] for tick in ticks].index("1") :: 3]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def _ends(curves: Mapping[str, Curve]) -> str:
    """Returns the first and the last value of each line in words."""
    values = {label: list(found.values()) for label, found in curves.items()}
    return "; ".join(f"{label} {found[0]:.3g} to {found[-1]:.3g}" for label, found in values.items())
