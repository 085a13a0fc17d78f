"""The table that `rewire train` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rewire.record import Record, measures_of
from rewire.report.derived import noted
from rewire.report.tables import NOTHING, Table, markdown, percent, size


def train_table(records: Sequence[Record]) -> str:
    """Returns one row a run, with a column for each measure, and below them the notes of the runs."""
    rows, measures = [], measures_of(records)
    engines = any("layer_engine" in entry.curves for entry in records)
    for entry in records:
        result = entry.result
        rows.append(
            (
                entry.recipe["method"] + (" walks=all" if entry.recipe.get("walks") == "all" else ""),
                *([_engine(entry)] if engines else []),
                percent(result["sparsity"]),
                *(NOTHING if (value := result.get(each.test)) is None else each.show(value) for each in measures),
                f"{result['active_weights']:,}",
                size(result["bytes_on_disk"]),
                f"{result['training_flops']:.2e} ({result['training_flops_ratio']:.1%})",
                f"{result['seconds']:.1f}",
            )
        )
    columns = (
        "sparsity",
        *(f"test {each.words}" for each in measures),
        "active weights",
        "size on disk",
        "training FLOPs",
        "seconds",
    )
    header = ("method", *(["engine"] if engines else []), *columns)
    return "\n\n".join(filter(None, (markdown(Table("", header, tuple(rows))), noted(records))))


def _engine(entry: Record) -> str:
    """In how many of the sparse layers the engine ran."""
    layers = entry.curves.get("layer_engine", {})
    packed = sum(words == "cpu" for words in layers.values())
    return f"cpu in {packed} of {len(layers)}" if packed else "dense" if entry.recipe["method"] == "dense" else "masked"
