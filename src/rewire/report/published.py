"""What papers report, to stand beside what was measured here: test accuracy in percent.

CIFAR: 160 epochs, batch 128, SGD with Nesterov momentum 0.9, learning rate 0.1, weight decay 5e-4, three seeds; DST-EE
for 250 epochs too. The MLP at 99 %: the CHTs paper, whose epochs are not known. ImageNet: about 100 epochs, each paper
with its own settings; Chase is no method here. The figures of DST-EE are as far as remembered, not checked word for
word (`UNCHECKED`).

What stands beside them as ours is of the runs that `rewire compare paper/cifar` and `paper/imagenet` make
(`rewire.recipes.published`), and for longer runs of those with other epochs. Beside the CHTs paper's MLP stand runs of
`cifar10_mlp_chts` with the method in place of its own and RigL's updates going on to the end, as `rewire compare` has
it, on whichever engine: none of these methods grows by what the engine sees otherwise. Nothing else of a recipe may
differ but the seed, whether the model was compiled, and the precision of its forward passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from rewire.recipe import Recipe
from rewire.recipes.cifar import cifar10_mlp_chts
from rewire.recipes.published import paper_cifar, paper_imagenet
from rewire.record import key
from rewire.report.derived import noted
from rewire.report.sections import FLAGSHIP, Group, Section, explicit
from rewire.report.tables import NOTHING, Table, cell, percent

UNCHECKED = "dst_ee"


@dataclass(frozen=True)
class Setting:
    """At which sparsities papers report a model, for how many epochs, and what they say of seeds, for the caption.

    images: of the training set, for the caption; 0 says nothing. any_engine: whether ours may come from an engine.
    """

    sparsities: tuple[float, ...]
    epochs: int
    seeds: str = ""
    images: int = 0
    any_engine: bool = False


_CIFAR = Setting((0.9, 0.95, 0.98), 160, "of three seeds, ", images=50_000)
SETTINGS = {
    ("cifar10", "vgg19"): _CIFAR,
    ("cifar100", "vgg19"): _CIFAR,
    ("cifar10", "resnet50"): _CIFAR,
    ("cifar100", "resnet50"): _CIFAR,
    ("cifar10", "mlp_chts"): Setting((0.99,), 100, images=50_000, any_engine=True),
    ("imagenet", "resnet50_imagenet"): Setting((0.8, 0.9), 100),
}

# By task and model, then by method: one figure at each sparsity; dense has one.
FIGURES: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {
    ("cifar10", "vgg19"): {
        "dense": (93.85,),
        "snip": (93.63, 93.43, 92.05),
        "grasp": (93.30, 93.04, 92.19),
        "synflow": (93.35, 93.45, 92.24),
        "str": (93.73, 93.27, 92.21),
        "deep_r": (90.81, 89.59, 86.77),
        "set": (92.46, 91.73, 89.18),
        "rigl": (93.38, 93.06, 91.98),
        "granet": (93.73, 93.66, 93.38),
        "dst_ee": (93.84, 93.53, 92.55),
    },
    ("cifar100", "vgg19"): {
        "dense": (73.43,),
        "snip": (72.84, 71.83, 58.46),
        "grasp": (71.95, 71.23, 68.90),
        "synflow": (71.77, 71.72, 70.94),
        "str": (71.93, 71.14, 69.89),
        "deep_r": (66.83, 63.46, 59.58),
        "set": (72.36, 69.81, 65.94),
        "rigl": (73.13, 72.14, 69.82),
        "granet": (73.30, 73.18, 72.04),
        "dst_ee": (74.27, 73.15, 70.80),
    },
    ("cifar10", "resnet50"): {
        "dense": (94.75,),
        "snip": (92.65, 90.86, 87.21),
        "grasp": (92.47, 91.32, 88.77),
        "synflow": (92.49, 91.22, 88.82),
        "rigl": (94.45, 93.86, 93.26),
        "granet": (94.64, 94.38, 94.01),
        "dst_ee": (94.96, 94.72, 94.20),
    },
    ("cifar100", "resnet50"): {
        "dense": (78.23,),
        "snip": (73.14, 69.25, 58.43),
        "grasp": (73.28, 70.29, 62.12),
        "synflow": (73.37, 70.37, 62.17),
        "rigl": (76.50, 76.03, 75.06),
        "granet": (77.89, 77.16, 77.14),
        "dst_ee": (78.15, 77.54, 75.68),
    },
    ("cifar10", "mlp_chts"): {
        "dense": (62.85,),
        "set": (62.70,),
        "rigl": (63.90,),
        "gmp": (65.11,),
        "granet": (69.31,),
        "chts": (69.97,),
    },
    ("imagenet", "resnet50_imagenet"): {
        "dense": (76.8,),
        "static": (72.1, 67.7),
        "set": (72.9, 69.6),
        "dsr": (73.3, 71.6),
        "snfs": (75.2, 72.9),
        "rigl": (75.1, 73.0),
        "mest": (75.39, 72.58),
        "rigl_itop": (75.84, 73.82),
        "chase": (75.87, 74.70),
        "dst_ee": (76.25, 75.3),
    },
}

# What was trained for longer, too: by task and model, then by method, the epochs and the figures.
LONGER: dict[tuple[str, str], dict[str, tuple[int, tuple[float, ...]]]] = {
    ("cifar10", "vgg19"): {"dst_ee": (250, (94.13, 93.67, 92.95))},
    ("cifar100", "vgg19"): {"dst_ee": (250, (74.76, 73.91, 71.51))},
    ("cifar10", "resnet50"): {"dst_ee": (250, (95.01, 94.92, 94.53))},
    ("cifar100", "resnet50"): {"dst_ee": (250, (79.16, 78.66, 76.38))},
}


def wanted(task: str, model: str) -> list[Recipe]:
    """Returns the recipes of our cells, longer runs included; those of seed 0."""
    if (task, model) == ("cifar10", "mlp_chts"):
        recipe = replace(cifar10_mlp_chts(), stop=1.0)
        return [replace(recipe, method=method) for method in (*FIGURES[task, model], FLAGSHIP)]
    points = paper_imagenet(0) if task == "imagenet" else paper_cifar(0)
    return [point for point in points if (point.task, point.model) == (task, model)]


def beside_published(task: str, model: str, section: Section | None) -> Table:
    """Returns the published figures cell by cell, each with ours where that very run is recorded.

    Below them are our methods that the papers did not report. section: of our runs of that task and model; None where
    there is none yet. Raises ValueError where no figures are known.
    """
    if (task, model) not in FIGURES:
        known = ", ".join(" ".join(place) for place in FIGURES)
        raise ValueError(f'The page wants published figures of "{task} {model}"; there are those of {known}.')
    setting, figures = SETTINGS[task, model], FIGURES[task, model]
    recipes = wanted(task, model)
    found = _ours(recipes, section.groups if section else (), setting)
    rows = []

    def row(name: str, method: str, epochs: int, published: Sequence[float] = ()) -> None:
        at = (0.0,) if method == "dense" else setting.sparsities
        places = [found.get((method, sparsity, epochs)) for sparsity in at]
        ours = [cell(group, section.headline) if group and section else NOTHING for group in places]
        texts = [f"{figure:.2f}" for figure in published] or [NOTHING] * len(at)
        rows.append((name, *(text for pair in zip(texts, ours, strict=True) for text in pair)))

    for method, reported in figures.items():
        row(method, method, setting.epochs, reported)
    for method, (epochs, reported) in LONGER.get((task, model), {}).items():
        row(f"{method}, {epochs} epochs", method, epochs, reported)
    for method in dict.fromkeys(recipe.method for recipe in recipes):
        if method not in figures:
            row(method, method, setting.epochs)
    header = ["method"]
    for sparsity in setting.sparsities:
        header += [f"{percent(sparsity)}, published", "ours"]
    caption = [
        f"Test accuracy in percent; published: {setting.seeds}dense in the first column of its row; ours: mean ± "
        f"standard deviation over seeds (their number), {setting.epochs} epochs; {NOTHING}: not reported, or not run "
        f"yet. Ours learn from {_learned(recipes[0], setting)} of the training images, without the validation split; "
        "RigL updates to the end of the run (stop=1). Forward passes in float32 or bfloat16; the records say which.",
        "Ours are of any engine, of several the one with the most seeds." if setting.any_engine else "",
        f"{UNCHECKED}'s published figures are as remembered, not checked word for word."
        if UNCHECKED in figures
        else "",
        noted(record for group in found.values() for record in group.records),
    ]
    return Table(
        " ".join(filter(None, caption)),
        tuple(header),
        tuple((*line, *[""] * (len(header) - len(line))) for line in rows),
    )


def _ours(recipes: Sequence[Recipe], groups: Sequence[Group], setting: Setting) -> dict[tuple[str, float, int], Group]:
    """Returns the groups that are runs of these recipes, by method, sparsity and epochs; of several the largest."""
    free = {"seed", "compile", "bf16", *(("engine",) if setting.any_engine else ())}
    places = {}
    for recipe in recipes:
        sparsity = 0.0 if recipe.method == "dense" else float(recipe.sparsity)
        places[_key(recipe.identity(), free)] = (recipe.method, sparsity, recipe.epochs)
    found: dict[tuple[str, float, int], Group] = {}
    for group in groups:
        place = places.get(_key(group.recipe, free))
        if place and len(group.records) > len(found[place].records if place in found else ()):
            found[place] = group
    return found


def _key(recipe: Mapping[str, Any], free: set[str]) -> str:
    """Returns what is equal for runs that differ in what is free alone, whatever fields recipes had when they ran."""
    with suppress(TypeError, ValueError):  # it is from a newer version, whose settings this one cannot judge
        recipe = Recipe.of(recipe).identity()
    return key({name: value for name, value in explicit(recipe).items() if name not in free})


def _learned(recipe: Recipe, setting: Setting) -> str:
    share = percent(1 - recipe.validation)
    count = setting.images - round(recipe.validation * setting.images)
    return f"{share} ({count:,} of {setting.images:,})" if setting.images else share
