"""Named recipes: what they are to be, and that each runs from its one command, on little data and for few steps."""

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rewire import record
from rewire.cli import main
from rewire.methods import dst_ee
from rewire.methods.dense_to_sparse import Admm
from rewire.recipe import Recipe
from rewire.recipes import RECIPES

torch.set_num_threads(1)

Shortener = tuple[Callable[[Path], None], dict[str, str]]  # writes a little data; flags, without those for the width


def nothing(folder: Path) -> None:
    """The data come with the package."""


def cifar(folder: Path, labels: str, files: tuple[str, ...], classes: int) -> None:
    """The standard python files, of 40 grey images each."""
    for first, name in enumerate(files):
        numbers = np.arange(40) * len(files) + first
        images = np.repeat((numbers % 256).astype(np.uint8)[:, None], 3072, axis=1)
        content = {b"data": images, labels.encode(): [int(number) % classes for number in numbers]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=4))


def cifar10(folder: Path) -> None:
    cifar(folder, "labels", (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"), classes=10)


def cifar100(folder: Path) -> None:
    cifar(folder, "fine_labels", ("train", "test"), classes=100)


def pictures(folder: Path) -> None:
    """30 images to train and 6 to test by, of two classes."""
    for part, count in (("train", 30), ("val", 6)):
        for number in range(count):
            path = folder / part / ("even", "odd")[number % 2] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 32), (8 * number, 0, 0)).save(path)


def graph(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        """500 edges between 60 nodes, with times where the graph has some."""
        draws = torch.Generator().manual_seed(0)
        heads = torch.randint(60, (500,), generator=draws).tolist()
        tails = torch.randint(1, 60, (500,), generator=draws).tolist()
        ends = [(head, (head + step) % 60) for head, step in zip(heads, tails, strict=True)]
        timed = name.endswith("temporal")
        lines = [f"{u} {v} {time}" if timed else f"{u} {v}" for time, (u, v) in enumerate(ends)]
        (folder / f"{name}.txt").write_text("\n".join(lines))

    return write


def text(folder: Path) -> None:
    (folder / "tinyshakespeare.txt").write_text("To be, or not to be, that is the question. " * 40)


IMAGES = {"epochs": "1", "every": "1", "batch_size": "6", "image_size": "32"}
SHORT: dict[str, Shortener] = {  # by task
    "digits": (nothing, {"epochs": "1", "every": "3"}),
    "cifar10": (cifar10, {"epochs": "1", "every": "3", "batch_size": "16"}),
    "cifar100": (cifar100, {"epochs": "3", "every": "2", "batch_size": "16"}),
    "folder": (pictures, IMAGES),
    "imagenet": (pictures, IMAGES | {"validation": "0.1"}),
    "linkpred-CollegeMsg-temporal": (graph("CollegeMsg-temporal"), {"epochs": "1", "every": "2", "batch_size": "64"}),
    "gnn-planetoid-cora": (graph("planetoid-cora"), {"epochs": "6", "every": "2"}),
    "shakespeare": (text, {"epochs": "1", "every": "3", "batch_size": "8", "context": "16"}),
}


def shortener(name: str, recipe: Recipe) -> Shortener:
    """Returns what writes data for the recipe, and the flags that shorten it and make its network narrow."""
    if recipe.task not in SHORT:
        pytest.fail(f"{name} has the task {recipe.task}, of which SHORT knows no short run. Add one.")
    prepare, flags = SHORT[recipe.task]
    narrow = {"hidden": " ".join("16" for _ in recipe.hidden)} if recipe.model == "mlp" else {"width": "0.125"}
    return prepare, flags | narrow


@pytest.mark.slow  # networks of up to 53 layers
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_end_to_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewire.report.page.page", lambda records, path: None)  # which takes longer than all the rest
    recipe, data, out = RECIPES[name](), tmp_path / "data", tmp_path / "out"
    prepare, flags = shortener(name, recipe)
    data.mkdir()
    prepare(data)
    words = [word for flag, value in flags.items() for word in (f"--{flag.replace('_', '-')}", *value.split())]
    with pytest.raises(SystemExit) as exit_:
        main(["train", name, *words, "--data", str(data), "--out", str(out), "--no-baseline"])
    assert exit_.value.code == 0

    (entry,) = record.read(out / "records.jsonl")
    asked = recipe.identity()
    assert {field for field in asked if entry.recipe[field] != asked[field]} <= flags.keys()
    assert asked["method"] == "dst_ee"
    assert entry.result["updates"] >= 2
    assert 0 < entry.result["active_weights"] < entry.result["total_weights"]
    for measure in entry.measures:
        value = entry.result[measure.test]
        assert 0 <= value <= 1 if measure.share else math.isfinite(value)
    (model,) = out.glob("*/model.safetensors")
    assert model.stat().st_size == entry.result["bytes_on_disk"]


def test_a_recipe_of_an_unknown_task_is_no_recipe_untested() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"new has the task linkpred-x, of which SHORT knows no short run"):
        shortener("new", Recipe(task="linkpred-x"))


# ---- settings


def test_the_text_recipe_is_nanogpts() -> None:
    recipe = RECIPES["shakespeare-gpt"]()
    steps_an_epoch = 1_003_854 // (64 * 256)  # characters to train on, by those of a batch
    assert (recipe.beta2, recipe.clip, recipe.lr, recipe.end_lr, recipe.weight_decay) == (0.99, 1.0, 1e-3, 1e-4, 0.1)
    assert round(recipe.warmup_epochs * steps_an_epoch) == 100
    assert (recipe.batch_size, recipe.context) == (64, 256)
    assert abs(recipe.epochs * steps_an_epoch - 5000) < steps_an_epoch


def test_admm_has_twenty_epochs_for_each_phase_of_sixty() -> None:
    steps = 60 * 70  # CollegeMsg has 70 steps an epoch
    method = replace(RECIPES["linkpred"](), method="admm", epochs=60).build_method(steps)
    assert isinstance(method.pull, Admm)
    assert (method.pull.begin, method.pull.end) == (20 * 70, 40 * 70)
    assert [step for step in range(1, steps + 1) if method.due(step)] == [40 * 70]


def test_link_prediction_has_the_settings_of_the_authors_script() -> None:
    recipe = RECIPES["linkpred"]()
    expected = dst_ee(steps=3500, every=50, c=1e-2, c_decay=0.9, c_decay_every=1000)
    assert recipe.build_method(3500) == expected
    assert (
        replace(recipe, method="rigl_itop").identity()
        == replace(recipe, method="rigl_itop", c=0.5, options=()).identity()
    )
