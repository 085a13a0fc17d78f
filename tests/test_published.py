"""The published tables as grids of runs."""

from collections import Counter

import pytest

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
    assert {(p.epochs, p.batch_size, p.lr, p.weight_decay, p.every) for p in points} == {(160, 128, 0.1, 5e-4, 1000)}
    cells = Counter((p.task, p.model) for p in points)
    assert set(cells.values()) == {1 + 11 * 3}


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
