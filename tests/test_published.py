"""The published tables as grids of runs."""

from collections import Counter
from pathlib import Path

import pytest

from rewire import record
from rewire.cli import main
from rewire.methods import METHODS
from rewire.recipes.published import PUBLISHED
from rewire.record import key
from rewire.report.published import FIGURES


@pytest.mark.parametrize("table", PUBLISHED)
def test_no_run_of_a_table_comes_twice_and_seeds_differ(table: str) -> None:
    runs = [key(point.identity()) for seed in (0, 1) for point in PUBLISHED[table](seed)]
    assert len(set(runs)) == len(runs) > 10


def test_the_cifar_table_begins_with_its_hardest_cells() -> None:
    points = PUBLISHED["paper/cifar"](0)
    assert [(p.task, p.model, p.method, p.sparsity) for p in points[:4]] == [
        ("cifar100", "vgg19", "dense", 0.98),
        ("cifar100", "vgg19", "rigl_itop", 0.98),
        ("cifar100", "vgg19", "rigl_itop", 0.95),
        ("cifar100", "vgg19", "rigl_itop", 0.9),
    ]
    assert {(p.batch_size, p.lr, p.weight_decay, p.every) for p in points} == {(128, 0.1, 5e-4, 1000)}
    assert {(p.method, p.epochs) for p in points if p.epochs != 160} == {("dst_ee", 250)}
    assert {p.method for p in points} == set(METHODS)
    cells = Counter((p.task, p.model, p.epochs) for p in points)
    assert set(cells.values()) == {1 + (len(METHODS) - 1) * 3, 3}


def test_the_imagenet_table_is_80_and_90_percent_of_every_method_that_has_a_published_figure() -> None:
    points = PUBLISHED["paper/imagenet"](1)
    assert {(p.task, p.model, p.epochs, p.seed) for p in points} == {("imagenet", "resnet50_imagenet", 100, 1)}
    cells = {method: [p.sparsity for p in points if p.method == method] for method in {p.method for p in points}}
    assert cells.pop("dense") == [0.8]
    assert set(map(tuple, cells.values())) == {(0.8, 0.9)}
    published = set(FIGURES["imagenet", "resnet50_imagenet"]) - {"chase"}  # which is no method here
    assert set(cells) == (published - {"dense"}) | {"set_itop"}
    assert points[0].method == "dense"


def test_the_link_prediction_table_has_50_and_60_epochs_and_admm() -> None:
    points = PUBLISHED["paper/linkpred"](3)
    assert {(p.method, p.epochs) for p in points} >= {("dst_ee", 50), ("dst_ee", 60), ("admm", 60), ("dense", 60)}
    assert {p.seed for p in points} == {3}


@pytest.mark.slow  # 18 runs on a real graph
def test_a_table_runs_end_to_end_and_nothing_twice(
    graphs_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "paper/linkpred", "--data", str(graphs_folder), "--seeds", "1", "--epochs", "2"]
    words += ["--out", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"^0$"):
        main(words)
    made = record.read(tmp_path / "records.jsonl")
    assert {entry.recipe["method"] for entry in made} == {"dense", "admm", "dst_ee", "set_itop", "rigl_itop"}
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^0$"):
        main(words)
    assert f"{len(made)} of {len(made)} runs have a record already and are not repeated." in capsys.readouterr().out
