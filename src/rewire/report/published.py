"""What papers report, to stand beside what was measured here: test accuracy in percent.

CIFAR: 160 epochs, batch 128, SGD with Nesterov momentum 0.9, learning rate 0.1, weight decay 5e-4, three seeds; DST-EE
for 250 epochs too. The MLP at 99 %: the CHTs paper, whose epochs are not known. ImageNet: about 100 epochs, each paper
with its own settings; Chase is no method here. The figures of DST-EE are as far as remembered, not checked word for
word (`UNCHECKED`).
"""

from __future__ import annotations

from dataclasses import dataclass

from rewire.report.sections import Group, Section
from rewire.report.tables import NOTHING, Table, cell, percent

UNCHECKED = "dst_ee"


@dataclass(frozen=True)
class Setting:
    """At which sparsities papers report a model, for how many epochs, and what they say of seeds, for the caption."""

    sparsities: tuple[float, ...]
    epochs: int
    seeds: str = ""


_CIFAR = Setting((0.9, 0.95, 0.98), 160, "of three seeds, ")
SETTINGS = {
    ("cifar10", "vgg19"): _CIFAR,
    ("cifar100", "vgg19"): _CIFAR,
    ("cifar10", "resnet50"): _CIFAR,
    ("cifar100", "resnet50"): _CIFAR,
    ("cifar10", "mlp_chts"): Setting((0.99,), 100),
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


def beside_published(task: str, model: str, section: Section | None) -> Table:
    """Returns the published figures cell by cell, each with ours where runs of full length are recorded.

    section: of our runs of that task and model; None where there is none yet. Raises ValueError where no figures are
    known.
    """
    if (task, model) not in FIGURES:
        known = ", ".join(" ".join(place) for place in FIGURES)
        raise ValueError(f'The page wants published figures of "{task} {model}"; there are those of {known}.')
    setting = SETTINGS[task, model]
    found = {} if section is None else {_place(group): cell(group, section.headline) for group in section.groups}
    rows = []
    for method, figures in FIGURES[task, model].items():
        at = (0.0,) if method == "dense" else setting.sparsities
        rows.append(_row(method, figures, [found.get((method, s, setting.epochs), NOTHING) for s in at]))
    for method, (epochs, figures) in LONGER.get((task, model), {}).items():
        ours = [found.get((method, sparsity, epochs), NOTHING) for sparsity in setting.sparsities]
        rows.append(_row(f"{method}, {epochs} epochs", figures, ours))
    header = ["method"]
    for sparsity in setting.sparsities:
        header += [f"{percent(sparsity)}, published", "ours"]
    remembered = f" {UNCHECKED}'s published figures are as remembered, not checked word for word."
    return Table(
        f"Test accuracy in percent; published: {setting.seeds}dense in the first column of its row; ours: mean ± "
        f"standard deviation over seeds (their number), {setting.epochs} epochs; {NOTHING}: not run yet."
        + (remembered if UNCHECKED in FIGURES[task, model] else ""),
        tuple(header),
        tuple((*row, *[""] * (len(header) - len(row))) for row in rows),
    )


def _place(group: Group) -> tuple[str, float, int | None]:
    return group.method, group.sparsity, group.recipe.get("epochs")


def _row(name: str, figures: tuple[float, ...], ours: list[str]) -> tuple[str, ...]:
    return name, *(text for pair in zip((f"{figure:.2f}" for figure in figures), ours, strict=True) for text in pair)
