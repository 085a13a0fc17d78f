"""The tables of docs/methods.md: what the methods are, and what was measured of each."""

import inspect
from collections.abc import Sequence
from typing import Any

from rewire.measures import ACCURACY
from rewire.methods import METHODS, list_methods
from rewire.report.sections import Group, Section, show
from rewire.report.tables import NOTHING, Table, cell, percent

_NEVER_SAID = ("task", "model", "method", "seed", "options")  # options are, in their own words


def overview() -> Table:
    """Returns one row for each method of this package, not of others: a link to its card, what it keeps and costs."""
    ours = [card for card in list_methods() if card.make.__module__.partition(".")[0] == "rewire"]
    rows = tuple((f"[{card.name}](#{card.name})", card.keeps, card.costs) for card in ours)
    return Table("", ("method", "what it keeps", "what it costs beyond a fixed mask"), rows, words=3)


def measured(name: str, sections: Sequence[Section]) -> Table | None:
    """Returns what one method reached on test sets beside dense training, or None where there is no record of it.

    One row for each task and model, and further ones for other structures, engines, options and lengths of runs. A row
    names what it holds where that is not accuracy: the section's headline. Where
    one of the method's own settings was varied, the runs nearest to its defaults stand for all, and the caption names
    it. Raises ValueError where there is no such method.
    """
    if name not in METHODS:
        raise ValueError(f'The page wants a table of "{name}", which is no method. Use one of {", ".join(METHODS)}.')
    rows: dict[str, dict[str, str]] = {}
    varied: dict[str, None] = {}
    sparsities = set()
    for section in sections:
        nearest: dict[tuple[str, ...], dict[str, Any]] = {}
        found = [(group, *_settings(group, section)) for group in section.groups if group.method == name]
        for group, own, others in sorted(found, key=lambda entry: (len(entry[2]), len(entry[1]))):
            chosen = nearest.setdefault(others, own)
            if own != chosen:
                varied |= {key: None for key in own | chosen if own.get(key) != chosen.get(key)}
                continue
            measured_by = [] if section.headline == ACCURACY else [f"test {section.headline.quantity}"]
            words = ", ".join([*measured_by, *others, *(f"{key}={show(value)}" for key, value in own.items())])
            cells = rows.setdefault(f"{section.task}, {section.model}" + (f": {words}" if words else ""), {})
            cells["dense"] = _dense(group, section)
            if name != "dense":
                cells[percent(group.sparsity)] = cell(group, section.headline)
                sparsities.add(group.sparsity)
    columns = ("dense", *map(percent, sorted(sparsities)))
    if not rows:
        return None
    return Table(
        f"Left out are runs with other values of {', '.join(varied)}." if varied else "",
        ("task, model", *columns),
        tuple((row, *(cells.get(column, NOTHING) for column in columns)) for row, cells in rows.items()),
    )


def _settings(group: Group, section: Section) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the method's own settings that are off their defaults, and in words all else that marks a group."""
    card, recipe = METHODS.card(group.method), group.recipe
    own = {name: found.default for name, found in inspect.signature(card.make).parameters.items() if name != "every"}
    unsaid = section.equal | {"engine": "masked", "exclude": []}
    unsaid |= {"structure": card.structure, "distribution": card.distribution, "walks": "train"}
    off: dict[str, Any] = {}
    others = list(recipe.get("options", []))
    for name, value in recipe.items():
        if value is None or name in _NEVER_SAID or (name == "sparsity" and not isinstance(value, str)):
            continue
        if name in own:
            off |= {name: value} if value != own[name] else {}
        elif value != unsaid.get(name):
            others.append(f"{name}={show(value)}")
    return off, tuple(others)


def _dense(group: Group, section: Section) -> str:
    """Returns the headline of dense training on the same task, by the same recipe as far as dense training reads it."""
    for other in section.groups:
        read = {name: value for name, value in other.recipe.items() if value is not None}
        same = all(group.recipe.get(name) == read[name] for name in read.keys() - {"method", "sparsity", "seed"})
        if other.method == "dense" and same:
            return cell(other, section.headline)
    return NOTHING
