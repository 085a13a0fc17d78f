"""What c does to the exploration degree, to exploitation and to the headline: a table and a plot of one sweep."""

from collections.abc import Callable
from typing import Any, Final
from xml.sax.saxutils import escape

from rewire.report.drawing import canvas, looks_of, svg
from rewire.report.figures import Figure
from rewire.report.sections import FLAGSHIP, Group, Section, show
from rewire.report.settings import Setting, corrected, probability, spread, usual, validation
from rewire.report.statistics import LEVEL, Summary, paired, summary
from rewire.report.tables import NOTHING, Table, percent

EARLY: Final = ("active", 0.25)
HELD: Final = {
    "active: 25 %": EARLY,
    "active: 50 %": ("active", 0.5),
    "largest: 10 %": ("largest", 0.1),
    "largest: 25 %": ("largest", 0.25),
}
"""By column: which important weights (`rewire.diagnosis`), and after which part of the steps."""

_SCALES: Final = {(): FLAGSHIP, ("scale=layer",): f"{FLAGSHIP} scale=layer"}  # the options of a sweep, and their label
_PAPER: Final = (  # inside an image nothing else says on what it is shown
    "<style>:root{--paper:#ffffff}@media (prefers-color-scheme:dark){:root{--paper:#0d1117}}</style>"
    '<rect width="100%" height="100%" style="fill:var(--paper)"/>'
)


def sweep(section: Section, sparsity: float) -> Table | None:
    """Returns one row for each c, without and with scale="layer", or None where there is no run."""
    found, headline = _sweep(section, sparsity), section.headline
    if not found:
        return None
    base = next((each.group for each in found if each.c == 0 and not each.options), None)
    differences = {
        each.name: difference
        for each in found
        if base and each.group is not base
        if (difference := paired(each.group.by_seed(headline.test), base.by_seed(headline.test)))
    }
    p = corrected(differences)

    def row(each: Setting) -> tuple[str, ...]:
        difference = differences.get(each.name)
        measured = [each.group.summary(name) for name in (validation(headline), headline.test)]
        return (
            show(each.c),
            "layer" if each.options else "none",
            _mean(each.group.summary("exploration"), "{:.3f}"),
            _mean(_new(each.group), "{:.1%}"),
            *(_mean(_held(each.group, *what), "{:.1%}") for what in HELD.values()),
            *(NOTHING if one is None else f"{spread(one, headline)} ({one.n})" for one in measured),
            spread(difference, headline, sign="+") if difference else NOTHING,
            probability(p.get(each.name)),
        )

    words = headline.words
    return Table(
        f"{FLAGSHIP} at {percent(sparsity)} sparsity; {words}: mean ± standard deviation over seeds (their number). "
        "Explored: exploration degree at the end. New: of the weights that updates grew, the share that no topology "
        "had held before; at 100 % the same updates cannot explore more. Active, largest: of the weights that are "
        "active at the end, and of the largest tenth of these in each layer, the share that was active already after "
        "so much of the steps, because an update had grown them or the first topology held them; runs with a "
        f"diagnosis only. Minus c = 0, which is RigL-ITOP: test {words}{headline.remark}, run by run on the same "
        f"seeds; paired t-test, two-sided, p corrected by Holm for the {len(p)} tests of this table. A difference "
        f"counts as shown where it is below {LEVEL:g}.",
        ("c", "scale", "explored", "new", *HELD, f"validation {words}", f"test {words}", "minus c = 0", "p after Holm"),
        tuple(map(row, found)),
        words=2,
    )


def against_c(section: Section, sparsity: float) -> Figure | None:
    """Returns exploration degree, exploitation and headline over c, or None where there are not two values of c."""
    found, headline = _sweep(section, sparsity), section.headline
    places = _places(found)
    if len(places) < 2:
        return None

    def scaled(group: Group) -> Summary | None:
        values = [headline.scale * value for value in group.by_seed(headline.test).values()]
        return summary(values) if values else None

    share = "of the weights active at the end, the share that was active after a quarter of the steps"
    panels: dict[str, tuple[str, Callable[[Group], Summary | None]]] = {  # by the words beside the axis
        "explored": ("exploration degree at the end", lambda group: group.summary("exploration")),
        "held early": (share, lambda group: _held(group, *EARLY)),
        f"test {headline.axis}": (f"test {headline.words}{headline.remark}", scaled),
    }
    drawn = {name: panel for name, panel in panels.items() if any(panel[1](each.group) for each in found)}
    figure, canvases = canvas(rows=len(drawn))
    looks = looks_of([*_SCALES.values()])
    for axes, (name, (_, read)) in zip(canvases, drawn.items(), strict=True):
        for options, label in _SCALES.items():
            points = [(places[each.c], one) for each in found if each.options == options if (one := read(each.group))]
            _line(axes, points, looks[label] | {"label": label})
        axes.set_ylabel(name)
    canvases[-1].set_xscale("log")
    canvases[-1].set_xticks([*places.values()], [_tick(c) for c in places])
    canvases[-1].set_xticks([], minor=True)
    canvases[-1].set_xlabel("c")
    figures = {
        each.name: [f"{name} {one.mean:.3g}" for name, (_, read) in drawn.items() if (one := read(each.group))]
        for each in found
    }
    return Figure(
        svg(figure, f"against-c-{sparsity:g}"),
        f"Exploration degree, exploitation and test {headline.words} against c at {percent(sparsity)} sparsity: "
        + "; ".join(", ".join([name, *those]) for name, those in figures.items())
        + ".",
        f"{section.task}, {section.model} at {percent(sparsity)} sparsity. From above: "
        + "; ".join(words for words, _ in drawn.values())
        + ". Means and standard deviations over seeds. 0 is off the logarithmic scale.",
    )


def image(figure: Figure) -> str:
    """Returns the figure as a file of its own, with the paper it lies on and its words inside."""
    head, style, rest = figure.svg.partition("</style>")
    return f"{head}{style}<desc>{escape(figure.alt)}</desc>{_PAPER}{rest}"


def _sweep(section: Section, sparsity: float) -> list[Setting]:
    """Returns the settings of the printed formula, and then those of scale="layer" alone, by c."""
    found = [each for each in usual(section, sparsity) if not each.structure]
    return [each for options in _SCALES for each in found if each.options == options]


def _new(group: Group) -> Summary | None:
    """Returns which share of the weights that updates grew had never been active before.

    Updates leave the number of active weights as it is, so they grew what churn says that they dropped.
    """
    found = []
    for record in group.records:
        active, total = record.result["active_weights"], record.result["total_weights"]
        if grown := active * sum(record.curves.get("churn", [])):
            found.append((total * record.result["exploration"] - active) / grown)
    return summary(found) if found else None


def _held(group: Group, kind: str, part: float) -> Summary | None:
    """Returns which share of the important weights was active after that part of the steps, of runs that say it."""
    found = []
    for record in group.records:
        counts = record.curves.get("exploitation", {}).get(kind)
        updates = sum(step <= part * record.result["steps"] for step in record.curves.get("update_step", []))
        if counts and updates:
            grown, kept, missed = (counts[name][updates - 1] for name in ("grown", "kept", "missed"))
            found.append((grown + kept) / (grown + kept + missed))
    return summary(found) if found else None


def _places(found: list[Setting]) -> dict[float | None, float]:
    """Returns where each c stands on a logarithmic axis, from the smallest up; 0 a decade before the next."""
    values = sorted({each.c for each in found if each.c is not None})
    least = min((c for c in values if c), default=1.0)
    return {c: c or least / 10 for c in values}


def _line(axes: Any, points: list[tuple[float, Summary]], look: dict[str, Any]) -> None:
    bars = [one.std or 0.0 for _, one in points]
    if points:
        axes.errorbar([x for x, _ in points], [one.mean for _, one in points], bars, elinewidth=1, capsize=2, **look)


def _tick(c: float | None) -> str:
    return f"{c:.0e}".replace("e-0", "e-") if c and c < 1e-3 else f"{c:g}"


def _mean(found: Summary | None, form: str) -> str:
    return NOTHING if found is None else form.format(found.mean)
