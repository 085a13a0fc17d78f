"""Figures of a section. Each function returns a `Figure`, or None where the records hold nothing to draw."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from rewire.measures import Measure
from rewire.report.costs import COSTS, Cost
from rewire.report.drawing import INK, by_what_is_missing, canvas, legend, looks_of, svg
from rewire.report.sections import FLAGSHIP, Group, Section
from rewire.report.statistics import Summary, summary
from rewire.report.tables import percent


@final
@dataclass(frozen=True)
class Figure:
    """A drawing, the words that stand for it where it cannot be seen, and its caption."""

    svg: str
    alt: str
    caption: str


def headline_against_sparsity(section: Section) -> Figure | None:
    """Returns the headline over sparsity, a line a label, with the standard deviation over seeds as error bars."""
    measured = _measured(section)
    if all(group.method == "dense" for group in measured):
        return None
    headline = section.headline
    figure, (axes,) = canvas()
    looks = looks_of(section.labels)
    dodge = 0.02 * (len(section.labels) > 1)
    for place, label in enumerate(section.labels):
        groups = [group for group in measured if group.label == label]
        points = [(group.sparsity, _read(group, headline)) for group in groups]
        if groups and groups[0].method == "dense":
            axes.axhline(points[0][1].mean, color=INK, linestyle=(0, (4, 3)), linewidth=1.2, label=label)
            continue
        shift = 1 + dodge * (place - len(looks) / 2)
        _points(axes, [((1 - sparsity) * shift, found) for sparsity, found in points], looks[label], label)
    if len(section.sparsities) == 1:  # first, because one place alone has no limits on a logarithmic axis
        axes.set_xlim(2 * (1 - section.sparsities[0]), 0.5 * (1 - section.sparsities[0]))
    axes.set_xscale("log")
    if len(section.sparsities) > 1:
        axes.invert_xaxis()
    _only_these_ticks(axes.xaxis, [1 - sparsity for sparsity in section.sparsities], map(percent, section.sparsities))
    axes.set_xlabel("sparsity")
    axes.set_ylabel(f"test {headline.axis}")
    return Figure(
        svg(figure, "accuracy-against-sparsity"),
        f"Test {headline.words} against sparsity. "
        + "; ".join(f"{_name(group)}: {_brief(group, headline)}" for group in measured)
        + ".",
        f"Test {headline.words}{headline.remark} against sparsity. Bars: one standard deviation over seeds.",
    )


def headline_against_costs(section: Section) -> list[Figure]:
    """Returns the headline over each cost in which groups differ, a line a label, after a legend for all of them."""
    drawn = [_headline_against(cost, section) for cost in COSTS]
    panels = [figure for figure in drawn if figure is not None]
    if not panels:
        return []
    headline, labels = section.headline, dict.fromkeys(group.label for group in _measured(section))
    looks = {label: look for label, look in looks_of(section.labels).items() if label in labels}
    spacing = " The upright axis is spaced by the logarithm of what is missing to 100 %." if _crowded(headline) else ""
    marks = Figure(
        legend(looks, "legend-of-costs"),
        f"The marks of the figures that follow, one for each of {', '.join(looks)}.",
        f"Means over seeds; bars: one standard deviation. Lines join the sparsities of a method.{spacing}",
    )
    return [marks, *panels]


def _headline_against(cost: Cost, section: Section) -> Figure | None:
    """Returns the headline over one cost, without a legend; None where all groups that recorded it paid the same."""
    groups = [group for group in _measured(section) if group.summary(cost.name)]
    paid = [_value(group, cost.name) for group in groups]
    if len(set(paid)) < 2:
        return None
    headline, unit = section.headline, cost.unit(paid)
    relative = cost.name == "training_flops_ratio" and section.reference
    length = f" Dense training is one run of {section.reference} epochs." if relative else ""
    paid = [value / cost.units[unit] for value in paid]
    figure, (axes,) = canvas()
    looks = looks_of(section.labels)
    for label in section.labels:
        found = [(value, group) for value, group in zip(paid, groups, strict=True) if group.label == label]
        _points(axes, [(value, _read(group, headline)) for value, group in found], looks[label], label)
    if max(paid) >= 10 * min(paid) > 0:
        axes.set_xscale("log")
        ticks = decades(axes.get_xlim())
        ticks = ticks if len(ticks) < 8 else [tick for tick in ticks if math.log10(tick).is_integer()]
        _only_these_ticks(axes.xaxis, ticks, [f"{tick:g}" for tick in ticks])
    else:
        axes.locator_params(axis="x", nbins=6)
        axes.ticklabel_format(axis="x", useOffset=False)
    if _crowded(headline):
        by_what_is_missing(axes)
    axes.set_xlabel(f"{cost.words}, {unit}".removesuffix(", "))
    axes.set_ylabel(f"test {headline.axis}")
    return Figure(
        svg(figure, f"accuracy-against-{cost.name}", with_legend=False),
        f"Test {headline.words} against {cost.words}. "
        + "; ".join(
            f"{_name(group)}: " + f"{value:.3g} {unit}".rstrip() + f", {_brief(group, headline)}"
            for value, group in zip(paid, groups, strict=True)
        )
        + ".",
        f"Test {headline.words}{headline.remark} against {cost.words}. {cost.remark}{length}",
    )


def headline_against_exploration(section: Section) -> Figure | None:
    """Returns the headline over the exploration degree at the end of the run, a mark a group."""
    groups = [group for group in _measured(section) if group.summary("exploration") and group.method != "dense"]
    if len(groups) < 3:
        return None
    headline = section.headline
    figure, (axes,) = canvas()
    looks = looks_of(section.labels)
    for label in section.labels:
        found = [group for group in groups if group.label == label]
        points = [(_value(group, "exploration"), _read(group, headline)) for group in found]
        _points(axes, points, looks[label], label)
    axes.set_xlabel("exploration degree: share of weights ever active")
    axes.set_ylabel(f"test {headline.axis}")
    return Figure(
        svg(figure, "accuracy-against-exploration"),
        f"Test {headline.words} against the exploration degree. "
        + "; ".join(
            f"{_name(group)}: {_value(group, 'exploration'):.2f} explored, {_brief(group, headline)}"
            for group in groups
        )
        + ".",
        f"Test {headline.words}{headline.remark} against the exploration degree at the end. Lines join the sparsities "
        "of a method.",
    )


def topology_over_time(section: Section, sparsity: float) -> Figure | None:
    """Returns exploration degree and churn over the steps of training at one sparsity, as means over seeds."""
    groups = [group for group in section.at(sparsity) if curve(group, named("exploration"))]
    if not groups:
        return None
    figure, (explored, moved) = canvas(rows=2)
    looks = looks_of(section.labels)
    for group in groups:
        for axes, name in ((explored, "exploration"), (moved, "churn")):
            found = curve(group, named(name))
            axes.plot(list(found), list(found.values()), **looks[group.label] | {"marker": ""}, label=group.label)
    explored.set_ylabel("exploration")
    moved.set_ylabel("churn")
    moved.set_xlabel("optimizer step")
    for axes in (explored, moved):
        axes.set_ylim(bottom=0)
    ends = {group.label: list(curve(group, named("exploration")).values())[-1] for group in groups}
    last = "; ".join(f"{label} ends at {end:.2f}" for label, end in ends.items())
    return Figure(
        svg(figure, f"topology-over-time-{sparsity:g}"),
        f"Exploration degree and churn over optimizer steps at {percent(sparsity)} sparsity. Exploration: {last}.",
        f"At {percent(sparsity)} sparsity: above, the share of weights that were ever active; below, the share of "
        "active weights that an update replaced. Means over seeds.",
    )


def sparsity_per_layer(section: Section) -> Figure | None:
    """Returns the sparsity of each layer at the end of training, a mark for each sparsity asked for."""
    chosen = {sparsity: _with_layers(section.at(sparsity)) for sparsity in section.sparsities}
    found = {sparsity: group for sparsity, group in chosen.items() if group is not None}
    if not found:
        return None
    layers = list(dict.fromkeys(name for group in found.values() for name in _layers(group)))
    figure, (axes,) = canvas(height=1.1 + 0.19 * len(layers))
    looks = looks_of([percent(sparsity) for sparsity in found])
    for sparsity, group in found.items():
        values = [100 * _layers(group)[name] if name in _layers(group) else float("nan") for name in layers]
        axes.plot(values, range(len(layers)), **looks[percent(sparsity)] | {"linestyle": ""}, label=percent(sparsity))
    axes.set_yticks(range(len(layers)), [name.removesuffix(".weight") for name in layers], fontsize=8)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.set_xlabel("sparsity of the layer, %")
    methods = " and ".join(dict.fromkeys(group.label for group in found.values()))
    return Figure(
        svg(figure, "sparsity-per-layer"),
        "Sparsity of each layer. "
        + " ".join(
            f"At {percent(sparsity)}: "
            + ", ".join(f"{name.removesuffix('.weight')} {percent(value)}" for name, value in _layers(group).items())
            + "."
            for sparsity, group in found.items()
        ),
        f"Sparsity of each layer at the end of training ({methods}), for each sparsity of the whole.",
    )


def _points(axes: Any, points: Sequence[tuple[float, Summary]], look: dict[str, Any], label: str) -> None:
    """Draws means, joined, with one standard deviation to both sides where there is one."""
    if points:
        where = [place for place, _ in points]
        spread = [found.std or 0.0 for _, found in points]
        bars = {"yerr": spread, "elinewidth": 1, "capsize": 0} if any(spread) else {}
        axes.errorbar(where, [found.mean for _, found in points], **bars, **look, label=label)


def _crowded(measure: Measure) -> bool:
    """Whether the best values of a measure crowd below 100 %, so that equal steps would not tell them apart."""
    return measure.share and measure.higher


def _only_these_ticks(axis: Any, places: Sequence[float], words: Iterable[str]) -> None:
    axis.set_ticks(places, list(words))
    axis.set_ticks([], minor=True)


def decades(limits: tuple[float, float]) -> list[float]:
    """Returns round numbers, 1, 2 and 5 of each power of ten, between two limits."""
    powers = [10.0**power for power in range(-12, 13)]
    return [step * power for power in powers for step in (1, 2, 5) if limits[0] <= step * power <= limits[1]]


def curve(group: Group, values: Callable[[Mapping[str, Any]], Iterable[float | None]]) -> dict[float, float]:
    """Returns the mean over seeds of what `values` reads of a run's curves, one entry an update, by step.

    At the steps that every run of the group reached, so empty where one of them has no such curve.
    """
    runs = [
        {
            step: value
            for step, value in zip(record.curves.get("update_step", []), values(record.curves), strict=False)
            if value is not None
        }
        for record in group.records
    ]
    shared = sorted(set.intersection(*(set(run) for run in runs)))
    return {step: summary([run[step] for run in runs]).mean for step in shared}


def named(name: str) -> Callable[[Mapping[str, Any]], Iterable[float | None]]:
    """Returns what reads the curve of that name, for `curve`."""
    return lambda curves: curves.get(name, [])


def _with_layers(groups: Sequence[Group]) -> Group | None:
    """Returns the group whose layers stand for all: the flagship's if it recorded them, else the first that did."""
    found = sorted((group for group in groups if _layers(group)), key=lambda group: group.method != FLAGSHIP)
    return found[0] if found else None


def _layers(group: Group) -> dict[str, float]:
    return dict(group.records[0].curves.get("layer_sparsity", {}))


def _value(group: Group, name: str) -> float:
    found = group.summary(name)
    return float("nan") if found is None else found.mean


def _measured(section: Section) -> list[Group]:
    """Returns the groups that have the headline."""
    return [group for group in section.groups if group.by_seed(section.headline.test)]


def _read(group: Group, measure: Measure) -> Summary:
    """Returns mean and spread of a measure as people read it, shares in percent."""
    return summary([measure.scale * value for value in group.by_seed(measure.test).values()])


def _brief(group: Group, measure: Measure) -> str:
    return measure.brief(_read(group, measure).mean)


def _name(group: Group) -> str:
    return group.label if group.method == "dense" else f"{group.label} at {percent(group.sparsity)}"
