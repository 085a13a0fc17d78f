"""Tables of the CPU engine's benchmarks, made from the CSV files that they append their rows to.

The newest row counts of each setting: network, batch, sparsity, budget, threads, processor and instruction set. Without
rows there is no table, and the page says so.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rewire.report.tables import NOTHING, Table, percent

MODELS = {"vgg19": "VGG-19", "vgg19-drop-in": "VGG-19, drop-in layers", "resnet50": "ResNet-50", "mlp": "MLP"}
BUDGETS = ("uniform", "erk")
CONTENDERS = {"dense": "dense", "packed": "oneDNN", "engine": "rewire", "csr": "torch CSR", "sparselab": "SparseLab"}
NAME = re.compile(r"(.+)-torch([\d.]+)\.csv")  # of a file, after the name of the benchmark

Row = dict[str, str]


def networks(model: str, budget: str, folder: Path) -> Table | None:
    """Returns the training steps of a network, one row for each sparsity and number of threads; None without rows.

    "all" networks or budgets give a shorter table, with a column for each sparsity.
    """
    _check("network", model, (*MODELS, "all"))
    _check("budget", budget, (*BUDGETS, "all"))
    keys = ("model", "batch", "sparsity", "budget", "threads")
    found = [row for row in _newest("engine", keys, folder) if _is(row, "model", model) and _is(row, "budget", budget)]
    order = list(MODELS), list(BUDGETS)
    found.sort(key=lambda row: (row["processor"], order[0].index(row["model"]), order[1].index(row["budget"])))
    if "all" in (model, budget):
        return _short(found)
    found.sort(key=lambda row: (row["processor"], int(row["threads"]), float(row["sparsity"])))
    columns: dict[str, Callable[[Row], str]] = {
        "sparsity": _sparsity,
        "threads": lambda row: row["threads"],
        "batch": lambda row: row["batch"],
        "dense, ms": lambda row: f"{_dense(row):.4g}",
        "engine, ms": lambda row: f"{float(row['engine_ms']):.4g}",
        "times faster": _ratio,
        "FLOPs": lambda row: _share(row["flops"]),
        "of the peak": lambda row: percent(round(float(row["peak"]), 2)),
        "update, dense steps": lambda row: f"{float(row['update_steps']):.2f}",
        "kept memory": lambda row: _share(row["kept"]),
        "peak memory, MB": lambda row: f"{row['engine_peak_mb']} of {row['dense_peak_mb']}",
        "processor": lambda row: row["processor"],
    }
    return _table(
        columns,
        found,
        "Times faster: dense over engine, medians of whole training steps"
        + (", against the faster of F.linear and oneDNN's packed linear" if model == "mlp" else "")
        + ". FLOPs: share of the dense network's. Of the peak: multiply-adds per second, of those that the processor "
        "can do. Update: what a step with a mask update takes on top. Kept memory: between steps, as a share of dense "
        "training's. Peak memory: the most during steps, engine of dense.",
    )


def linear(size: str, part: str, folder: Path) -> Table | None:
    """Returns milliseconds of one Linear layer, "layer" alone or "step" with SGD; None without rows."""
    _check("part", part, ("layer", "step"))
    ending = "_step_ms" if part == "step" else "_ms"
    rows = [
        row for row in _newest("engine-linear", ("size", "batch", "sparsity", "threads"), folder) if row["size"] == size
    ]
    rows.sort(key=lambda row: (row["processor"], int(row["threads"]), float(row["sparsity"])))

    def faster(row: Row) -> str:
        return f"{min(float(row[name + ending]) for name in ('dense', 'packed')) / float(row['engine' + ending]):.2f}x"

    columns: dict[str, Callable[[Row], str]] = {
        "sparsity": _sparsity,
        "threads": lambda row: row["threads"],
        **{
            title: lambda row, name=name: f"{float(row[name + ending]):.3g}" if row[name + ending] else NOTHING  # type: ignore[misc]
            for name, title in CONTENDERS.items()
        },
        "times faster": faster,
        "processor": lambda row: row["processor"],
    }
    return _table(columns, rows, "Milliseconds, medians. Times faster: the faster of the two dense ones over rewire.")


def _short(rows: Sequence[Row]) -> Table | None:
    """Returns one row for each network, budget, number of threads and processor, and one for what a network keeps."""
    if not rows:
        return None
    sparsities = sorted({row["sparsity"] for row in rows}, key=float)
    speed: dict[tuple[str, str, str], dict[str, str]] = {}
    kept: dict[str, dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: int(row["threads"])):  # what is kept depends on the network, hardly on more
        what = f"{MODELS[row['model']]}, batch {row['batch']}, {row['budget']}"
        place = what, row["threads"], row["processor"]
        speed.setdefault(place, {})[row["sparsity"]] = f"{_ratio(row)} ({_share(row['flops'])})"
        kept.setdefault(MODELS[row["model"]], {}).setdefault(row["sparsity"], _share(row["kept"]))

    def cells(found: dict[str, str]) -> tuple[str, ...]:
        return tuple(found.get(sparsity, NOTHING) for sparsity in sparsities)

    caption = (
        "Times faster, and in brackets the share of the dense network's FLOPs that the active weights need: dense over "
        "engine, medians of whole training steps; of the MLP against the faster of F.linear and oneDNN's packed "
        "linear. Kept: bytes between steps (values, gradients, optimizer state, indices) over dense training's."
    )
    lines = [(what, threads, *cells(found), processor) for (what, threads, processor), found in speed.items()]
    lines += [(f"{model}, kept memory", NOTHING, *cells(found), NOTHING) for model, found in kept.items()]
    return Table(
        caption,
        ("training step of", "threads", *(percent(float(sparsity)) for sparsity in sparsities), "processor"),
        tuple(lines),
    )


def _table(columns: dict[str, Callable[[Row], str]], rows: Sequence[Row], caption: str) -> Table | None:
    lines = tuple(tuple(cell(row) for cell in columns.values()) for row in rows)
    return Table(caption, tuple(columns), lines) if lines else None


def _newest(name: str, keys: Sequence[str], folder: Path) -> list[Row]:
    """Returns the last row of each setting in the benchmark's files, with the processor that a file is named after."""
    found: dict[tuple[str, ...], Row] = {}
    files = [
        (match, path) for path in folder.glob(f"{name}-*.csv") if (match := NAME.fullmatch(path.name[len(name) + 1 :]))
    ]
    for match, path in sorted(files, key=lambda file: [int(part) for part in file[0][2].split(".")]):
        if name == "engine" and match[1].startswith("linear-"):  # the other benchmark's
            continue
        for row in csv.DictReader(path.read_text().splitlines()):
            row["processor"] = f"{match[1]}, {row['isa']}"
            found[(row["processor"], *(row[key] for key in keys))] = row
    return list(found.values())


def _check(what: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise ValueError(f'The page wants the {what} "{word}" of the engine. Use one of {", ".join(known)}.')


def _is(row: Row, key: str, word: str) -> bool:
    return word in ("all", row[key])


def _sparsity(row: Row) -> str:
    return percent(float(row["sparsity"]))


def _share(fraction: str) -> str:
    return f"{100 * float(fraction):.1f} %"


def _dense(row: Row) -> float:
    """Returns the time of the faster dense side."""
    return min(float(row[name]) for name in ("dense_ms", "packed_linear_ms") if row.get(name))


def _ratio(row: Row) -> str:
    return f"{min(float(row[name]) for name in ('ratio', 'packed_linear_ratio') if row.get(name)):.2f}x"
