"""Tables of a section as plain cells, and as Markdown for a terminal, the README and docs/."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, final

from rewire.measures import Measure
from rewire.report.costs import COSTS
from rewire.report.derived import one_machine
from rewire.report.sections import Comparison, Group, Section, compare, engine_pairs, show
from rewire.report.statistics import LEVEL, Difference, Summary, interval

NOTHING: Final = "-"
"""Stands in a cell for which the runs recorded nothing."""

_LENGTHS: Final = " Pairs of two lengths set fewer epochs beside more of a method that begins dense."


@final
@dataclass(frozen=True)
class Table:
    """Cells of text under their headings; the first columns, `words` of them, are words, the others are figures."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


def results(section: Section) -> Table:
    """Returns one row a group: its measures as mean ± std (n) over seeds, the other figures as means.

    What records of earlier versions lack, memory and energy, has a column where a run recorded it.
    """
    forms = {"peak_memory": size, "cpu_energy_kwh": energy, "gpu_energy_kwh": energy}
    costs = [cost for cost in COSTS if cost.name in forms and any(group.by_seed(cost.name) for group in section.groups)]
    columns: dict[str, Callable[[Group], str]] = {
        "method": lambda group: group.label,
        "sparsity": lambda group: percent(group.sparsity),
        **{f"test {measure.words}": partial(cell, measure=measure) for measure in section.measures},
        "active weights": lambda group: _mean(group, "active_weights", "{:,.0f}".format),
        "parameters": lambda group: _mean(group, "parameters", "{:,.0f}".format),
        "size on disk": lambda group: _mean(group, "bytes_on_disk", size),
        "training FLOPs": lambda group: _mean(group, "training_flops_ratio", _one_decimal),
        "training FLOPs as published": lambda group: _mean(group, "training_flops_ratio_published", _one_decimal),
        "inference FLOPs": lambda group: _mean(group, "inference_flops_ratio", _one_decimal),
        "seconds": lambda group: _mean(group, "seconds", "{:,.1f}".format),
        **{cost.words: partial(_mean, name=cost.name, form=forms[cost.name]) for cost in costs},
        "updates": lambda group: _mean(group, "updates", "{:,.0f}".format),
        "explored": lambda group: _mean(group, "exploration", "{:.3f}".format),
    }
    unsaid = (
        f" Where it names no other, {method} has "
        + ", ".join(f"{name}={show(value)}" for name, value in settings.items())
        + "."
        for method, settings in section.unsaid.items()
    )
    return Table(
        _over_seeds(section.measures)
        + " Active weights: of the sparse layers; parameters: of the whole model, without "
        "the inactive ones. FLOPs: share of the dense network's, on paper; as published: by the papers' formula, where "
        "an update takes the place of a step."
        + (f" Training FLOPs: share of one dense run of {section.reference} epochs." if section.reference else "")
        + " Explored: share of the sparse layers' weights that were active at least once."
        + "".join(f" {cost.words.capitalize()}: {cost.remark[0].lower()}{cost.remark[1:]}" for cost in costs)
        + _several_machines(section.groups)
        + "".join(unsaid)
        + _and(section.notes),
        tuple(columns),
        tuple(tuple(column(group) for column in columns.values()) for group in section.groups),
    )


def headlines(section: Section) -> Table:
    """Returns the headline measure alone: one row a label, one column a sparsity, dense training first."""
    columns = sorted({group.sparsity for group in section.groups})
    found = {(group.label, group.sparsity): cell(group, section.headline) for group in section.groups}
    dense = [label for label in section.labels if label == "dense"]
    return Table(
        _over_seeds([section.headline]) + _and(section.notes),
        ("method", *("dense" if column == 0 else percent(column) for column in columns)),
        tuple(
            (label, *(found.get((label, column), NOTHING) for column in columns))
            for label in dict.fromkeys(dense + section.labels)
        ),
    )


def differences(section: Section) -> Table | None:
    """Returns one row for each fair comparison with the flagship, or None where there is none."""
    comparisons = compare(section)
    if not comparisons:
        return None
    headline = section.headline
    tested = sum(comparison.p is not None for comparison in comparisons)
    lengths = [{pair.recipe.get("epochs") for pair in (each.flagship, each.other)} for each in comparisons]
    return Table(
        f"Differences in test {headline.words}{headline.remark}, run by run on the same seeds{_in(headline.points)}: "
        "mean ± standard deviation. Paired t-test, two-sided; p after Holm is corrected for the number of tests in "
        f"this table, {tested}. A difference counts as shown where it is below {LEVEL:g}."
        + (_LENGTHS if any(len(found) > 1 for found in lengths) else ""),
        ("comparison", "sparsity", "difference", "seeds", "p", "p after Holm", "reading"),
        tuple(
            (
                f"{comparison.flagship.label} minus {comparison.other.label}",
                percent(comparison.other.sparsity),
                _mean_and_spread(comparison.difference, headline, sign="+"),
                str(comparison.difference.n),
                _p(comparison.difference.p),
                _p(comparison.p),
                reading(comparison, headline),
            )
            for comparison in comparisons
        ),
    )


def engines(section: Section) -> Table | None:
    """Returns one row for each group that was trained masked and on an engine too, or None where there is none."""
    headline = section.headline
    columns: dict[str, Callable[[Group, Group, Difference], str]] = {
        "runs": lambda masked, other, found: other.label,
        "sparsity": lambda masked, other, found: percent(other.sparsity),
        "masked": lambda masked, other, found: cell(masked, headline),
        "engine": lambda masked, other, found: cell(other, headline),
        "difference": lambda masked, other, found: headline.number(found.mean, sign="+"),
        "90 % interval": lambda masked, other, found: _interval(found, headline, level=0.9),
        "seconds, masked": lambda masked, other, found: _seconds(masked, beside=other),
        "seconds, engine": lambda masked, other, found: _seconds(other, beside=masked),
    }
    pairs = engine_pairs(section)
    if not pairs:
        return None
    return Table(
        f"Test {headline.quantity} of masked training and of the same on the engine: mean ± standard deviation over "
        f"seeds (their number); difference: engine minus masked on the same seeds{_in(headline.points)}, with the "
        "interval of its mean by Student's t. Seconds: of a whole run, validation included."
        + ("" if all(_together(masked, other) for masked, other, _ in pairs) else _SEVERAL_MACHINES),
        tuple(columns),
        tuple(tuple(column(*pair) for column in columns.values()) for pair in pairs),
    )


def markdown(table: Table) -> str:
    """Returns the table in Markdown, padded so that it also reads well in a terminal.

    >>> print(markdown(Table("", ("method", "n"), (("static", "3"), ("dst_ee", "10")))))
    | method |  n |
    |:-------|---:|
    | static |  3 |
    | dst_ee | 10 |
    """
    lines = [table.header, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]

    def text(line: tuple[str, ...]) -> str:
        cells = [cell.ljust(width) for cell, width in zip(line[: table.words], widths, strict=False)]
        cells += [cell.rjust(width) for cell, width in zip(line[table.words :], widths[table.words :], strict=True)]
        return "| " + " | ".join(cells) + " |"

    rule = [":" + "-" * (width + 1) for width in widths[: table.words]]
    rule += ["-" * (width + 1) + ":" for width in widths[table.words :]]
    return "\n".join([text(table.header), "|" + "|".join(rule) + "|", *map(text, table.rows)])


def reading(comparison: Comparison, measure: Measure) -> str:
    """Returns in words what a comparison shows: the flagship is ahead, behind, equal, or nothing is shown."""
    found = comparison.difference
    if comparison.p is None:
        if found.n < 2:
            return "not shown (one seed)"
        return "not shown (no spread)" if found.mean else "equal in every run"
    if comparison.p >= LEVEL:
        return "not shown"
    return f"{comparison.flagship.method} {'ahead' if measure.improves(found.mean) else 'behind'}"


def percent(fraction: float) -> str:
    """Returns a fraction in percent, with the decimals it needs.

    >>> percent(0.95), percent(0.985), percent(0.07)
    ('95 %', '98.5 %', '7 %')
    """
    return f"{round(100 * fraction, 2):g} %"


def size(count: float) -> str:
    """Returns a number of bytes in the unit that suits it, in powers of 1000.

    >>> size(999), size(1_234), size(24_500_000)
    ('999 B', '1.2 kB', '24.5 MB')
    """
    return _in_unit(count, ("B", "kB", "MB", "GB"))


def energy(kwh: float) -> str:
    """Returns an energy in the unit that suits it.

    >>> energy(2e-6), energy(0.0425), energy(1_200)
    ('2.0 mWh', '42.5 Wh', '1,200.0 kWh')
    """
    return _in_unit(1e6 * kwh, ("mWh", "Wh", "kWh"))


def cell(group: Group, measure: Measure) -> str:
    """Returns a measure on the test set as mean ± standard deviation (number of seeds)."""
    found = group.summary(measure.test)
    return NOTHING if found is None else f"{_mean_and_spread(found, measure)} ({found.n})"


def _mean(group: Group, name: str, form: Callable[[float], str]) -> str:
    found = group.summary(name)
    return NOTHING if found is None else form(found.mean)


def _in_unit(number: float, units: Sequence[str]) -> str:
    """Returns a number of the first unit in the one that suits it, each a thousand times the one before."""
    for unit in units:
        if number < 999.5 or unit == units[-1]:
            break
        number /= 1000
    return f"{number:,.{0 if unit == 'B' else 1}f} {unit}"


def _one_decimal(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _mean_and_spread(found: Summary | Difference, measure: Measure, sign: str = "") -> str:
    spread = "" if found.std is None else f" ± {measure.number(found.std)}"
    return f"{measure.number(found.mean, sign)}{spread}"


def _over_seeds(measures: Sequence[Measure]) -> str:
    """Returns the caption of columns that hold these measures."""
    words = ", ".join(f"test {measure.quantity}" for measure in measures)
    return f"T{words[1:]}: mean ± standard deviation over seeds (their number)."


_SEVERAL_MACHINES = f" Time, memory and energy: {NOTHING} where the runs of a row come from several machines."


def _together(group: Group, other: Group) -> bool:
    """Whether all runs of both come from one machine, so that their seconds may stand in one row."""
    return one_machine((*group.records, *other.records))


def _seconds(group: Group, *, beside: Group) -> str:
    return _mean(group, "seconds", "{:,.1f}".format) if _together(group, beside) else NOTHING


def _several_machines(groups: Sequence[Group]) -> str:
    """Returns why cells of time, memory and energy are empty, where runs of one group come from several machines."""
    return "" if all(group.one_machine for group in groups) else _SEVERAL_MACHINES


def _and(sentence: str) -> str:
    return f" {sentence}" if sentence else ""


def _in(unit: str) -> str:
    return f", in {unit}" if unit else ""


def _interval(found: Difference, measure: Measure, level: float) -> str:
    ends = interval(found, level)
    if ends is None:
        return "equal in every run" if found.std == 0 == found.mean else NOTHING
    return f"{measure.number(ends[0], sign='+')} to {measure.number(ends[1], sign='+')}"


def _p(value: float | None) -> str:
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
