"""Records into one HTML page that needs no other file: no script, no font, no picture from elsewhere."""

import base64
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from rewire.atomic import atomic_write
from rewire.record import Record
from rewire.report import dynamics, figures
from rewire.report.sections import Section, sections, show
from rewire.report.tables import Table, differences, engines, percent, results


def page(records: Iterable[Record], path: str | os.PathLike[str], title: str = "Sparse training, measured") -> Path:
    """Writes the report of `records` to `path`, whole or not at all, and returns the path.

    Equal records give equal bytes: nothing in the page depends on when or where it was made.
    """
    records = list(records)
    if not records:
        raise ValueError(
            "There are no records, so there is nothing to report. Run `rewire train digits` first, or name files "
            "that hold records."
        )
    text = html(records, title)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: file.write(text.encode()) and None)
    return path


def html(records: Sequence[Record], title: str) -> str:
    """Returns the page as text."""
    found = sections(records)
    style = resources.files("rewire.report").joinpath("page.css").read_text()
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<header>\n<h1>{escape(title)}</h1>",
            f'<p class="quiet">{_scope(records, found)}</p>',
            _contents(found),
            "</header>",
            *(_section(section, place) for place, section in enumerate(found)),
            _masked(found),
            _origins(records),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


_MASKED = """<section>
<h2 id="masked">What masked training does not save</h2>
<aside>
<p>{which} trained in masked mode: an inactive weight is stored as a zero and multiplied like any other.</p>
<p><strong>Not saved: time and memory.</strong> A step does all that a dense step does, and masking on top, which
weighs most on small networks: compare the column <em>seconds</em>. Weights, gradients and optimizer state take as much
memory as a dense network's, and the masks come on top.</p>
<p><strong>Saved: size on disk</strong>, because the model file holds the active weights and one bit for every place.
</p>
<p><strong>Saved on paper: FLOPs.</strong> The columns count the multiplications that active weights need. They become
time only in a runtime that skips zeros.</p>
</aside>
</section>"""


def _masked(found: Sequence[Section]) -> str:
    """Returns what masked training does not save, and which rows it is not about; nothing where none was masked."""
    sparse = [(section, group) for section in found for group in section.groups if group.method != "dense"]
    engine = [(section, group) for section, group in sparse if group.on_engine]
    if len(engine) == len(sparse):
        return ""
    rows: dict[str, list[str]] = {}
    for section, group in engine:
        rows.setdefault(f"{group.label} ({_heading(section)})", []).append(percent(group.sparsity))
    names = "; ".join(f"{row} at {', '.join(sparsities)}" for row, sparsities in rows.items())
    which = f"These rows trained on the engine, with the active weights alone in the layers that it took: {names}. All"
    return _MASKED.format(which=f"{escape(which)} other sparse networks were" if rows else "These networks were")


def _scope(records: Sequence[Record], found: Sequence[Section]) -> str:
    places = ", ".join(f"{section.model} on {section.task}" for section in found)
    return f"{len(records)} {'run' if len(records) == 1 else 'runs'} of rewire: {escape(places)}."


def _contents(found: Sequence[Section]) -> str:
    """Returns links to the sections, where there is more than one."""
    if len(found) < 2:
        return ""
    links = [
        f'<li><a href="#{_anchor(place)}">{escape(_heading(section))}</a></li>' for place, section in enumerate(found)
    ]
    return "\n".join(["<nav>", "<ul>", *links, "</ul>", "</nav>"])


def _section(section: Section, place: int) -> str:
    compared = differences(section)
    parts = [
        f'<section>\n<h2 id="{_anchor(place)}">{escape(_heading(section))}</h2>',
        _table(results(section), f"Results: {_heading(section)}"),
    ]
    if compared:
        parts += ["<h3>Paired differences</h3>", _table(compared, f"Paired differences: {_heading(section)}")]
    on_engine = engines(section)
    if on_engine:
        parts += ["<h3>Masked and on the engine</h3>", _table(on_engine, f"On the engine: {_heading(section)}")]
    parts += ["<h3>Figures</h3>", '<div class="figures">', *map(_figure, _figures(section)), "</div>"]
    costs = figures.headline_against_costs(section)
    if costs:
        parts += ["<h3>Costs</h3>", '<div class="figures costs">', *map(_figure, costs), "</div>"]
    parts += [_recipe(section), "</section>"]
    return "\n".join(parts)


_DYNAMICS = (
    partial(dynamics.exploitation_over_time, kind="active"),
    partial(dynamics.exploitation_over_time, kind="largest"),
    dynamics.exploitation_by_layer,
    dynamics.energy_over_time,
    dynamics.gradient_decay,
    dynamics.connectivity_over_time,
    dynamics.degrees_by_layer,
)


def _figures(section: Section) -> list[figures.Figure]:
    drawn = [
        figures.headline_against_sparsity(section),
        *(figures.topology_over_time(section, sparsity) for sparsity in section.sparsities),
        figures.headline_against_exploration(section),
        figures.sparsity_per_layer(section),
        *(draw(section, sparsity) for sparsity in section.sparsities for draw in _DYNAMICS),
    ]
    return [figure for figure in drawn if figure is not None]


def _figure(figure: figures.Figure) -> str:
    data = base64.b64encode(figure.svg.encode()).decode()
    return (
        f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{escape(figure.alt)}">'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _table(table: Table, name: str) -> str:
    """Returns the table in a box that scrolls by itself where the window is narrow.

    A stronger line stands where the second column, sparsity, changes.
    """
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    rows = []
    for row, before in zip(table.rows, (table.rows[0], *table.rows), strict=False):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        opening = "<tr>" if row[1] == before[1] else '<tr class="start">'
        rows.append(f'{opening}<th scope="row">{escape(row[0])}</th>{cells}</tr>')
    return "\n".join(
        [
            f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0">',
            f"<table>\n<thead><tr>{head}</tr></thead>",
            "<tbody>",
            *rows,
            "</tbody>\n</table>\n</div>",
            f'<p class="quiet">{escape(table.caption)}</p>',
        ]
    )


def _recipe(section: Section) -> str:
    """Returns what differs between the runs of the section, and what is equal."""
    differs = {name: "; ".join(map(show, values)) for name, values in section.differing.items()}
    equal = {name: show(value) for name, value in section.equal.items()}
    return "\n".join(
        [
            "<h3>Recipe</h3>",
            *(["<h4>What differs between the runs</h4>", _settings(differs)] if differs else []),
            "<h4>What is equal in all that read it</h4>",
            _settings(equal),
        ]
    )


def _settings(values: Mapping[str, str]) -> str:
    entries = [
        f"<div><dt><code>{escape(name)}</code></dt><dd>{escape(value)}</dd></div>" for name, value in values.items()
    ]
    return "\n".join(["<dl>", *entries, "</dl>"])


def _origins(records: Sequence[Record]) -> str:
    """Returns where the runs come from: each combination of hardware, versions and commit once."""
    origins = Counter(
        (_pairs(record.hardware), _pairs(record.versions), record.commit or "unknown (not run from a git checkout)")
        for record in records
    )
    rows = [
        f'<tr><td>{count}</td><td class="words">{escape(hardware)}</td><td class="words">{escape(versions)}</td>'
        f'<td class="words"><code>{escape(commit)}</code></td></tr>'
        for (hardware, versions, commit), count in origins.items()
    ]
    several = "<p>Seconds are comparable only within one row.</p>" if len({found[0] for found in origins}) > 1 else ""
    head = "".join(f'<th scope="col" class="words">{name}</th>' for name in ("runs", "hardware", "versions", "commit"))
    return "\n".join(
        [
            '<section>\n<h2 id="origins">Where the runs come from</h2>',
            several,
            '<div class="scroll" role="region" aria-label="Hardware, versions and commits" tabindex="0">',
            f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>",
            *rows,
            "</tbody>\n</table>\n</div>\n</section>",
        ]
    )


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {show(value)}" for name, value in values.items())


def _heading(section: Section) -> str:
    return f"{section.task}, {section.model}"


def _anchor(place: int) -> str:
    return f"section-{place + 1}"
