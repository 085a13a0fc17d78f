"""The table that `rewire train` prints; every figure is invented."""

from rewire.cli.table import train_table
from rewire.record import Record


def run(method: str, note: str, **settings: str) -> Record:
    recipe = {"task": "linkpred-made_up", "model": "mlp", "method": method, "sparsity": 0.9, "seed": 0} | settings
    figures = {"sparsity": 0.9, "active_weights": 1000, "bytes_on_disk": 4500, "seconds": 61.26, "test_accuracy": 0.5}
    return Record(recipe, "", {}, {}, {}, figures | {"training_flops": 1, "training_flops_ratio": 1.0, "note": note})


def test_notes_stand_below_the_table_once() -> None:
    *table, empty, notes = train_table([run("rigl", "invented; a leak"), run("dense", "invented")]).splitlines()
    assert len(table) == 4
    assert (empty, notes) == ("", "Notes: invented; a leak (some runs).")
    assert "Notes" not in train_table([run("rigl", "")])


def test_walks_over_the_test_edges_are_always_named() -> None:
    *_, row = train_table([run("rigl", "", walks="all")]).splitlines()
    assert row.startswith("| rigl walks=all ")
