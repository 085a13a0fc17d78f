"""What a recipe describes, put together: data set, model, optimizer, sparsifier, and the names of its run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import rewire.tasks
from rewire import record
from rewire.core.method import Method
from rewire.engines import Choices, engines_of
from rewire.recipe import Recipe, sparsities_of, structure_of
from rewire.sparsifier import Sparsifier, Update, sparsify
from rewire.tasks import STREAMED, images, kind, models
from rewire.tasks.data import Dataset, Split, split
from rewire.tasks.graphs import GraphData, LinkData, graph_data, link_data, read_edges
from rewire.tasks.graphs.pair_mlp import pair_mlp
from rewire.tasks.graphs.tasks import LinkPrediction, MessagePassing
from rewire.tasks.imagenet import StreamedImages, images_of
from rewire.tasks.language import NextCharacter
from rewire.tasks.models.mlp import mlp
from rewire.tasks.task import Batch, Task
from rewire.tasks.text import outline as text_outline
from rewire.tasks.text import shakespeare


def build_task(recipe: Recipe, folder: Path | None, *, outline: bool = False, workers: int | None = None) -> Task:
    """Returns the recipe's task; with `outline`, where its sizes are known, without its data.

    workers: as in `Runtime`.
    """
    if recipe.task in STREAMED:
        return _streamed_task(recipe, folder, outline, workers)
    return _TASKS[kind(recipe.task)](recipe, folder, outline)


def _image_task(recipe: Recipe, folder: Path | None, outline: bool) -> Task:
    if outline and recipe.task in images.SHAPES:
        dataset, parts = images.outline(recipe.task, recipe.validation)
        check_batch_size(recipe, len(parts.train))
    else:
        dataset = build_dataset(recipe, folder)
        parts = build_split(recipe, dataset)
    return images.ImageClassification(
        dataset,
        parts,
        make=lambda: build_model(recipe, dataset),
        batch_size=recipe.batch_size,
        augment=recipe.augment,
        label_smoothing=recipe.label_smoothing,
        seed=recipe.seed,
        channels_last=recipe.channels_last,
    )


def _streamed_task(recipe: Recipe, folder: Path | None, outline: bool, workers: int | None) -> Task:
    found = images_of(folder, recipe.validation, recipe.seed, outline=outline)
    check_batch_size(recipe, found.count)
    return StreamedImages(
        found,
        make=lambda: _network(recipe, 3, recipe.image_size, found.classes),
        batch_size=recipe.batch_size,
        size=recipe.image_size,
        label_smoothing=recipe.label_smoothing,
        seed=recipe.seed,
        workers=workers,
        channels_last=recipe.channels_last,
    )


def _text_task(recipe: Recipe, folder: Path | None, outline: bool) -> Task:
    text = text_outline() if outline and folder is None else shakespeare(folder)

    def make() -> nn.Module:
        size, width = len(text.vocabulary), recipe.width
        return models.build_text(recipe.model, vocabulary=size, context=recipe.context, width=width, seed=recipe.seed)

    return NextCharacter(text, make, recipe.context, recipe.batch_size, recipe.seed)


def _link_task(recipe: Recipe, folder: Path | None, outline: bool) -> Task:
    data = _link_data(_edge_list(recipe, folder), recipe.validation, recipe.seed, recipe.walks)
    if recipe.model != "mlp":
        raise ValueError(f'model="{recipe.model}" does not see pairs of nodes. Use model=mlp, or the task gnn-GRAPH.')
    check_batch_size(recipe, len(data.train), "pairs of nodes")
    return LinkPrediction(
        data, lambda: pair_mlp(data.embeddings, recipe.hidden, seed=recipe.seed), recipe.batch_size, recipe.seed
    )


def _graph_task(recipe: Recipe, folder: Path | None, outline: bool) -> Task:
    from rewire.tasks.graphs.message_passing import ENCODERS, WIDTH

    if recipe.model not in ENCODERS:
        raise ValueError(f'model="{recipe.model}" passes no messages. Use one of {", ".join(ENCODERS)}.')
    data = _graph_data(_edge_list(recipe, folder), recipe.validation, recipe.seed)
    width = max(1, round(WIDTH * recipe.width))
    return MessagePassing(
        data, lambda: ENCODERS[recipe.model](data.num_nodes, width=width, seed=recipe.seed), recipe.seed
    )


_TASKS = {"images": _image_task, "text": _text_task, "linkpred": _link_task, "gnn": _graph_task}


def _edge_list(recipe: Recipe, folder: Path | None) -> Path:
    """Returns the file of the graph that the task names, anywhere below the folder."""
    graph = recipe.task.partition("-")[2]
    advice = f"Type: --data DIR, where DIR holds {graph}.txt, an edge list."
    if folder is None:
        raise ValueError(f"The task {recipe.task} has no graph yet: no folder was given. {advice}")
    known = {path.name.removesuffix(".gz").removesuffix(".txt"): path for path in sorted(folder.rglob("*.txt*"))}
    if graph not in known:
        found = f"It has {', '.join(sorted(known))}." if known else "It has no edge list."
        raise FileNotFoundError(f"There is no graph {graph} in {folder}. {found} {advice}")
    return known[graph]


@lru_cache(maxsize=2)  # of both `walks`
def _link_data(path: Path, validation: float, seed: int, walks: Literal["train", "all"]) -> LinkData:
    """The pairs of nodes of one seed, prepared once for all methods that are compared on them."""
    test = 0.2
    return link_data(read_edges(path), validation=validation * (1 - test), test=test, seed=seed, walk_over=walks)


@lru_cache(maxsize=1)
def _graph_data(path: Path, validation: float, seed: int) -> GraphData:
    """The same for message passing."""
    test = 0.1
    return graph_data(read_edges(path), validation=validation * (1 - test), test=test, seed=seed)


def build_dataset(recipe: Recipe, folder: Path | None) -> Dataset:
    """Returns the recipe's data set, read once per process."""
    return _load(recipe.task, folder, recipe.image_size)


def build_split(recipe: Recipe, dataset: Dataset) -> Split:
    """Returns the training, validation and test examples. The recipe's seed draws the validation examples."""
    parts = split(dataset, recipe.validation, recipe.seed)
    images = len(dataset.train_labels)
    if not len(parts.validation):
        raise ValueError(
            f"validation={recipe.validation:g} of {images} training images is not one image, so nothing could be "
            f"chosen by it. Use at least validation={math.ceil(1000 / images) / 1000:g}, or more images."
        )
    if not len(parts.test):
        raise ValueError(
            f"The data set {dataset.name} has no test image, so no accuracy could be measured. Add some: a folder "
            "of images without test/ or val/ needs at least 3 in train/."
        )
    check_batch_size(recipe, len(parts.train))
    return parts


def check_batch_size(recipe: Recipe, count: int, what: str = "images") -> None:
    """Raises ValueError where not even one batch can be made of so many training examples."""
    if recipe.batch_size > count:
        raise ValueError(
            f"batch_size={recipe.batch_size} gives no batch: there are {count} {what} to train on. "
            f"Use a batch_size from 1 to {count}."
        )


def build_model(recipe: Recipe, dataset: Dataset) -> nn.Module:
    """Returns the recipe's network with its initial weights, on the CPU."""
    return _network(recipe, dataset.channels, dataset.size, dataset.classes)


def _network(recipe: Recipe, channels: int, size: int, classes: int) -> nn.Module:
    if recipe.model == "mlp":
        model: nn.Module = mlp(channels * size**2, recipe.hidden, classes, seed=recipe.seed)
    else:
        model = models.build(
            recipe.model, classes=classes, channels=channels, size=size, width=recipe.width, seed=recipe.seed
        )
    return model.to(memory_format=torch.channels_last) if recipe.channels_last else model  # type: ignore[call-overload]


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Returns the optimizer, with weight decay on weights only: not on biases, not on norm layers."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, recipe.beta2), fused=True)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)


def learning_rate(recipe: Recipe, step: int, steps: int, warmup: int) -> float:
    """Returns the learning rate of the step that follows `step` others.

    constant: lr. steps: lr, lr / 10 from one half of the steps, lr / 100 from three quarters. linear: a = 1 - step /
    steps, and cosine: a = (1 + cos(pi step / steps)) / 2, of a lr + (1 - a) end_lr. During the first `warmup` steps all
    are multiplied by (step + 1) / warmup.

    >>> [round(learning_rate(Recipe(lr=1.0, schedule="steps"), step, 100, 0), 4) for step in (0, 49, 50, 75)]
    [1.0, 1.0, 0.1, 0.01]
    """
    factor, end = min(1.0, (step + 1) / warmup) if warmup else 1.0, recipe.end_lr / recipe.lr
    if recipe.schedule == "cosine":
        factor *= end + (1 - end) * (1 + math.cos(math.pi * step / steps)) / 2
    elif recipe.schedule == "linear":
        factor *= end + (1 - end) * (1 - step / steps)
    elif recipe.schedule == "steps":
        factor *= 0.1 ** ((2 * step >= steps) + (4 * step >= 3 * steps))
    return recipe.lr * factor


def build_sparsifier(
    recipe: Recipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Method,
    on_update: Callable[[Update], None] | None = None,
    *,
    task: Task | None = None,
    batches: Callable[[], Iterable[Batch]] | None = None,
    choices: Choices | None = None,
) -> Sparsifier | None:
    """Makes the model sparse as the recipe says; a dense recipe leaves it alone and returns None.

    task, batches: the loss, and what gives batches of training, for a pruner and for engine="auto", which chooses by
    the first. choices: what was chosen before, to be repeated.
    """
    if recipe.method == "dense":
        return None
    structure = structure_of(recipe.structure)
    measures = recipe.engine == "auto" and not choices
    with autocast(recipe, next(model.parameters()).device) if measures else nullcontext():
        return sparsify(
            model,
            optimizer,
            method,
            sparsity=sparsities_of(recipe.sparsity) if structure.density() is None else None,
            distribution=None if recipe.distribution == "erk" else recipe.distribution,
            structure=None if recipe.structure == "unstructured" else structure,
            batches=batches() if batches else None,
            loss=task.loss if task else None,
            exclude=recipe.exclude,
            seed=recipe.seed,
            engine=engines_of(choices) if choices else recipe.engine,
            example=next(iter(batches()))[0] if measures and batches else None,
            untouched=True,
            on_update=on_update,
        )


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """Returns the precision in which forward passes run."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16)


def compiled(model: nn.Module, device: torch.device, *, alone: bool = True) -> nn.Module:
    """Returns the model compiled; on a GPU its forward and its backward pass are one CUDA graph each.

    What masks, clips, steps and rewires stays outside, and runs on the same weights and gradients. Where cuDNN must
    be deterministic, kernels are chosen by rule and not by measurement. alone: in one process; what
    DistributedDataParallel sends while the backward pass still runs cannot be captured, so there are no graphs.
    """
    options: dict[str, str | int | bool | Callable[..., Any]] = {}
    if device.type == "cuda":
        options = {"triton.cudagraphs": alone, "deterministic": torch.backends.cudnn.deterministic}
        known = torch._inductor.list_options()  # torch has the second from 2.9 on
        options = {name: value for name, value in options.items() if name in known}
    return torch.compile(model, options=options)  # type: ignore[return-value]


@lru_cache(maxsize=1)
def _load(task: str, folder: Path | None, size: int) -> Dataset:
    return rewire.tasks.load(task, folder, size)


def run_name(recipe: Recipe) -> str:
    """Returns the name of a run for people; it leaves out what seldom differs.

    >>> run_name(Recipe())
    'digits-mlp-dst_ee-0.95-seed0'
    """
    sparsity = "" if recipe.method == "dense" else f"-{recipe.sparsity}".replace("*", "all")
    return f"{recipe.task}-{recipe.model}-{recipe.method}{sparsity}-seed{recipe.seed}"


def folder_name(recipe: Recipe) -> str:
    """Returns the name of a run's folder: ends with a piece of its key, so that no other run ever writes there."""
    return f"{run_name(recipe)}-{record.key(recipe.identity())[:6]}"
