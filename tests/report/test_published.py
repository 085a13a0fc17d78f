"""Published figures beside ours."""

from dataclasses import replace

import pytest

from rewire.record import Record
from rewire.report.published import FIGURES, SETTINGS, beside_published
from rewire.report.refresh import refresh
from rewire.report.sections import sections


def runs(epochs: int) -> list[Record]:
    """Two seeds of DST-EE at 95 % and a dense one: 0.90, 0.92 and 0.94."""
    recipe = {"task": "cifar10", "model": "vgg19", "epochs": epochs}
    made = Record(recipe, "", {}, {}, {}, {"sparsity": 0.95, "updates": 61})
    settings = [("dst_ee", 0.95, 0, 0.90), ("dst_ee", 0.95, 1, 0.92), ("dense", 0.0, 0, 0.94)]
    return [
        replace(
            made,
            recipe=recipe | {"method": method, "sparsity": sparsity, "seed": seed},
            result=made.result | {"test_accuracy": accuracy},
        )
        for method, sparsity, seed, accuracy in settings
    ]


def test_ours_stand_beside_the_cells_that_they_repeat() -> None:
    table = beside_published("cifar10", "vgg19", sections(runs(160))[0])
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["dense"][:2] == ("93.85", "94.00 (1)")
    assert rows["dst_ee"] == ("93.84", "-", "93.53", "91.00 ± 1.41 (2)", "92.55", "-")
    assert rows["rigl"] == ("93.38", "-", "93.06", "-", "91.98", "-")


@pytest.mark.parametrize("found", [[], runs(8)])
def test_without_runs_of_full_length_no_figure_is_ours(found: list[Record]) -> None:
    table = beside_published("cifar10", "vgg19", sections(found)[0] if found else None)
    assert all(cell in ("-", "") for row in table.rows for cell in row[2::2])


def test_runs_for_longer_have_a_row_of_their_own() -> None:
    table = beside_published("cifar10", "vgg19", sections(runs(250))[0])
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["dst_ee, 250 epochs"] == ("94.13", "-", "93.67", "91.00 ± 1.41 (2)", "92.95", "-")
    assert rows["dst_ee"][3] == rows["dense"][1] == "-"


def test_the_mlp_has_one_sparsity_and_nothing_remembered() -> None:
    table = beside_published("cifar10", "mlp_chts", None)
    assert table.header == ("method", "99 %, published", "ours")
    assert ("chts", "69.97", "-") in table.rows
    assert "remembered" not in table.caption


def test_every_method_has_a_figure_for_every_sparsity() -> None:
    for (task, model), figures in FIGURES.items():
        sparsities = SETTINGS[task, model].sparsities
        assert all(len(found) == (1 if method == "dense" else len(sparsities)) for method, found in figures.items())
        table = beside_published(task, model, None)
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_imagenet_has_sparsities_and_a_length_of_its_own() -> None:
    made = Record({"task": "imagenet", "model": "resnet50_imagenet"}, "", {}, {}, {}, {"updates": 244})
    settings = [("dst_ee", 0.9, 100, 0.75), ("dst_ee", 0.8, 90, 0.76), ("dense", 0.0, 100, 0.77)]
    found = [
        replace(
            made,
            recipe=made.recipe | {"method": method, "sparsity": sparsity, "epochs": epochs, "seed": 0},
            result=made.result | {"sparsity": sparsity, "test_accuracy": accuracy},
        )
        for method, sparsity, epochs, accuracy in settings
    ]
    table = beside_published("imagenet", "resnet50_imagenet", sections(found)[0])
    assert table.header == ("method", "80 %, published", "ours", "90 %, published", "ours")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["dense"] == ("76.80", "77.00 (1)", "", "")
    assert rows["dst_ee"] == ("76.25", "-", "75.30", "75.00 (1)")
    assert "of three seeds" not in table.caption
    assert "100 epochs" in table.caption


def test_a_page_asks_for_them_and_for_others_in_vain() -> None:
    page = "<!-- table: published cifar100 vgg19 -->\n<!-- end of table -->"
    assert "| snip " in refresh(page, [])
    with pytest.raises(ValueError, match='published figures of "digits mlp"; there are those of cifar10 vgg19'):
        refresh(page.replace("cifar100 vgg19", "digits mlp"), [])
