"""Published figures beside ours."""

from dataclasses import replace
from typing import Any

import pytest

from rewire.recipe import Recipe
from rewire.recipes.cifar import cifar10_mlp_chts, cifar10_vgg19
from rewire.recipes.imagenet import resnet50
from rewire.record import Record, key
from rewire.report.published import FIGURES, SETTINGS, beside_published, wanted
from rewire.report.refresh import refresh
from rewire.report.sections import sections


def ran(recipe: Recipe, accuracy: float, note: str = "") -> Record:
    """An invented run of a recipe."""
    result = {"sparsity": recipe.sparsity, "updates": 61, "test_accuracy": accuracy, "note": note}
    return Record(recipe.identity(), "", {}, {}, {}, result)


def runs(**settings: Any) -> list[Record]:
    """Two seeds of DST-EE at 95 % and a dense one: 0.90, 0.92 and 0.94."""
    recipe = replace(cifar10_vgg19(), sparsity=0.95, **settings)
    dense = replace(recipe, method="dense")
    return [ran(recipe, 0.90), ran(replace(recipe, seed=1), 0.92), ran(dense, 0.94)]


def ours(records: list[Record], model: str = "vgg19", task: str = "cifar10") -> dict[str, tuple[str, ...]]:
    table = beside_published(task, model, sections(records)[0] if records else None)
    return {row[0]: row[1:] for row in table.rows}


def test_ours_stand_beside_the_cells_that_they_repeat() -> None:
    rows = ours(runs())
    assert rows["dense"][:2] == ("93.85", "94.00 (1)")
    assert rows["dst_ee"] == ("93.84", "-", "93.53", "91.00 ± 1.41 (2)", "92.55", "-")
    assert rows["rigl"] == ("93.38", "-", "93.06", "-", "91.98", "-")


@pytest.mark.parametrize("settings", [{"epochs": 8}, {"lr": 0.05}, {"c": 0.1}, {"validation": 0.2}])
def test_runs_of_another_recipe_are_not_ours(settings: dict[str, Any]) -> None:
    rows = ours(runs(**settings))
    assert rows["dst_ee"][3] == "-"
    assert (rows["dense"][1] == "-") == ("c" not in settings)  # which dense training does not read


def test_runs_with_a_setting_that_this_version_does_not_know_are_not_ours() -> None:
    records = runs()
    records[0].recipe["a new setting"] = records[1].recipe["a new setting"] = 1
    assert ours(records)["dst_ee"][3] == "-"


def test_a_run_beside_ours_does_not_take_its_cell_whatever_the_order() -> None:
    other = [ran(replace(cifar10_vgg19(), sparsity=0.95, seed=seed, c=0.1), 0.5) for seed in range(3)]
    assert ours(runs() + other)["dst_ee"] == ours(other + runs())["dst_ee"] == ours(runs())["dst_ee"]


def test_records_from_before_a_field_are_the_same_run() -> None:
    records = runs()
    for record in records:
        for name in ("image_size", "compile", "regrow"):
            record.recipe.pop(name)
    assert ours(records) == ours(runs())


def test_rigl_goes_on_to_the_end() -> None:
    recipe = replace(cifar10_vgg19(), method="rigl", sparsity=0.9)
    assert ours([ran(recipe, 0.9)])["rigl"][1] == "-"
    assert ours([ran(replace(recipe, stop=1.0), 0.9)])["rigl"][1] == "90.00 (1)"


def test_methods_that_papers_did_not_report_have_rows_of_their_own() -> None:
    recipe = replace(cifar10_vgg19(), method="rigl_itop", sparsity=0.98)
    rows = ours([ran(recipe, 0.9)])
    assert rows["rigl_itop"] == ("-", "-", "-", "-", "-", "90.00 (1)")
    assert rows["set_itop"] == ("-",) * 6


def test_the_mlp_is_ours_on_any_engine() -> None:
    recipe = replace(cifar10_mlp_chts(), method="chts")
    engine = [ran(replace(recipe, engine="cpu", seed=seed), 0.7) for seed in range(2)]
    for records in ([ran(recipe, 0.6), *engine], [*engine, ran(recipe, 0.6)]):
        assert ours(records, "mlp_chts")["chts"] == ("69.97", "70.00 ± 0.00 (2)")
    vgg = replace(cifar10_vgg19(), engine="cpu")
    assert ours([ran(vgg, 0.9)])["dst_ee"][3] == "-"


def test_the_caption_says_what_is_not_as_in_the_papers() -> None:
    records = [*runs(), ran(replace(cifar10_vgg19(), c=0.1), 0.5, note="of a run that is not in the table")]
    records[0].result["note"] = records[1].result["note"] = records[2].result["note"] = "invented files"
    caption = beside_published("cifar10", "vgg19", sections(records)[0]).caption
    assert "90 % (45,000 of 50,000) of the training images, without the validation split;" in caption
    assert "RigL updates to the end of the run (stop=1)." in caption
    assert caption.endswith(" Notes: invented files.")


def test_every_wanted_recipe_is_a_cell_of_its_own() -> None:
    for task, model in FIGURES:
        recipes = wanted(task, model)
        assert {recipe.method for recipe in recipes} >= FIGURES[task, model].keys() - {"chase"}
        assert {(recipe.task, recipe.model) for recipe in recipes} == {(task, model)}
        assert len({key(recipe.identity()) for recipe in recipes}) == len(recipes)


def test_without_runs_no_figure_is_ours() -> None:
    assert all(cell in ("-", "") for row in ours([]).values() for cell in row[1::2])


def test_a_compiled_run_is_the_same_run() -> None:
    assert ours(runs(compile=True)) == ours(runs()) == ours(runs(bf16=True))


def test_the_flagship_has_a_row_beside_the_mlp_too() -> None:
    recipe = replace(cifar10_mlp_chts(), method="dst_ee")
    assert ours([ran(recipe, 0.7)], "mlp_chts")["dst_ee"] == ("-", "70.00 (1)")


def test_runs_for_longer_have_a_row_of_their_own() -> None:
    rows = ours(runs(epochs=250))
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
    settings = [("dst_ee", 0.9, 100, 0.75), ("dst_ee", 0.8, 90, 0.76), ("dense", 0.8, 100, 0.77)]
    found = [
        ran(replace(resnet50(), method=method, sparsity=sparsity, epochs=epochs), accuracy)
        for method, sparsity, epochs, accuracy in settings
    ]
    table = beside_published("imagenet", "resnet50_imagenet", sections(found)[0])
    assert table.header == ("method", "80 %, published", "ours", "90 %, published", "ours")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["dense"] == ("76.80", "77.00 (1)", "", "")
    assert rows["dst_ee"] == ("76.25", "-", "75.30", "75.00 (1)")
    assert "of three seeds" not in table.caption
    assert "100 epochs" in table.caption
    assert "Ours learn from 98 % of the training images" in table.caption


def test_a_page_asks_for_them_and_for_others_in_vain() -> None:
    page = "<!-- table: published cifar100 vgg19 -->\n<!-- end of table -->"
    assert "| snip " in refresh(page, [])
    with pytest.raises(ValueError, match='published figures of "digits mlp"; there are those of cifar10 vgg19'):
        refresh(page.replace("cifar100 vgg19", "digits mlp"), [])
