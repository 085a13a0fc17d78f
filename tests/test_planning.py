"""A plan says what training then does."""

from dataclasses import replace
from pathlib import Path

import pytest

from rewire.planning import plan, text
from rewire.recipe import Recipe, Runtime
from rewire.recipes import RECIPES
from rewire.training import train

TINY = Recipe(hidden=(32,), epochs=2, batch_size=64, every=10)


@pytest.mark.parametrize("method", ["dense", "static", "dst_ee"])
def test_a_plan_is_what_happens(method: str, tmp_path: Path) -> None:
    recipe = replace(TINY, method=method)
    found, result = plan(recipe), train(recipe, Runtime(), folder=tmp_path).result
    assert (found.steps, found.updates) == (result["steps"], result["updates"])
    assert (found.active, found.total) == (result["active_weights"], result["total_weights"])
    assert found.model_weights == result["model_weights"]
    assert found.inference_flops_ratio == result["inference_flops_ratio"]
    assert found.training_flops_ratio == result["training_flops_ratio"]
    header = result["bytes_on_disk"] - found.bytes
    assert 0 < header < 8192


def test_a_table_worked_by_hand() -> None:
    """Uniform 75 %: 512 of 2048 and 80 of 320 weights; bytes are 4 a value and 1 / 8 a weight; 2 FLOPs a weight."""
    lines = text(plan(replace(TINY, distribution="uniform", sparsity=0.75))).splitlines()
    cells = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in lines if "|" in line}
    assert cells["fc1.weight"] == ["32x64", "512 of 2,048", "75.00%", "86.5%", "2.3 kB"]
    assert cells["fc2.weight"] == ["10x32", "80 of 320", "75.00%", "13.5%", "360 B"]
    assert cells["sparse layers"] == ["", "592 of 2,368", "75.00%", "100.0%", "2.7 kB"]
    assert cells["whole model"] == ["", "634 of 2,410", "73.69%", "100.0%", "2.8 kB"]


def test_a_plan_says_what_is_saved_and_what_is_not() -> None:
    said = text(plan(TINY))
    assert "dst_ee on digits with mlp: 40 steps, 3 topology updates" in said
    assert "size on disk: 936 B instead of 9.6 kB" in said
    assert "FLOPs on paper: 5.0% of the dense network's at inference" in said
    assert "time: inactive weights are stored zeros" in said
    assert "memory: weights, gradients and optimizer state keep their dense size" in said
    assert "A dense run saves nothing" in text(plan(replace(TINY, method="dense")))


@pytest.mark.parametrize("name", ["cifar10-mlp", "cifar10-cnn", "cifar10-resnet20", "cifar100-vgg19"])
def test_cifar_is_planned_without_its_images(name: str) -> None:
    recipe = RECIPES[name]()
    found = plan(recipe)
    assert found.steps == recipe.epochs * (45_000 // 128)
    assert found.active == round(0.05 * found.total)


def test_a_plan_refuses_what_training_refuses() -> None:
    with pytest.raises(ValueError, match="would never update"):
        plan(replace(TINY, every=1000))
    with pytest.raises(ValueError, match="batch_size=5000 gives no batch: there are 1294 images to train on"):
        plan(replace(TINY, batch_size=5000))


def test_an_excluded_layer_is_none_of_the_sparse_layers() -> None:
    recipe = replace(RECIPES["cifar10-cnn"](), structure="2:4", sparsity=0.5)
    with pytest.raises(ValueError, match=r"exclude=\[.conv1.weight"):
        plan(recipe)
    found = plan(replace(recipe, exclude=("conv1",)))
    assert "conv1.weight" not in [layer.name for layer in found.layers]
    assert 2 * found.active == found.total < found.model_weights
    assert found.rest_flops >= 2 * 16 * 16 * 27 * 24  # conv1: 3x3x3 to 24 channels, at every second pixel


def test_a_structure_fixes_the_sparsity_whatever_digits_were_left_out() -> None:
    found = plan(replace(TINY, hidden=(33,), structure="1:3", sparsity=0.6667, task="cifar10"))
    assert found.layers[1].active == 10 * 33 // 3
