"""A recipe says everything that decides the numbers of one run; a runtime says the rest.

Both are plain values. The command line is typed from them, a record stores the first, and a checkpoint refuses
another one. Over 300 lines, because every field has its help text and every impossible value its words.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rewire.core.method import Method
from rewire.core.structure import NM, Block, FanIn, Neuron, Structure, Unstructured
from rewire.methods import METHODS
from rewire.tasks import STREAMED, kind
from rewire.words import value_of


@dataclass(frozen=True)
class Recipe:
    """Task, model, method, structure, sparsity, optimizer, length and seed of one run.

    Two runs of one recipe, on the same machine, data and number of threads, end with the same weights bit for bit;
    with engine="auto", which measures, where both choose alike.
    """

    task: str = "digits"
    """Data set: digits comes with scikit-learn; cifar10, cifar100; folder is any folder of images, train/CLASS/*.jpg;
    imagenet is one that is decoded as it is needed, or without --data ImageNet by name; shakespeare;
    linkpred-GRAPH and gnn-GRAPH for an edge list GRAPH.txt in --data."""
    model: str = "mlp"
    """Network, by a name that `rewire list` shows."""
    width: float = 1.0
    """Factor on the channels of every layer; the mlp has `hidden` instead."""
    hidden: tuple[int, ...] = (256, 256)
    """Units of the hidden layers of the mlp."""

    method: str = "dst_ee"
    """Sparse-training method, by a name that `rewire list` shows."""
    sparsity: float | str = 0.95
    """Share of the sparse layers' weights that are zero, or globs for single layers: "*=0.95,fc=0.5"."""
    distribution: Literal["erk", "er", "uniform", "global"] = "erk"
    """How the budget is spread over the layers; global goes by the scores of the first topology, as SNIP's."""
    structure: str = "unstructured"
    """Which weights switch together: unstructured, 2:4 (any N:M), block:4x4 (any HxW), fan_in or neuron."""
    exclude: tuple[str, ...] = ()
    """Layers that stay dense, by glob: for 2:4 on images of three channels, for example, conv1."""
    every: int = 100
    """Optimizer steps between two updates of the topology, for every dynamic method."""
    fraction: float | None = None
    """Share of the active weights that the first update moves; None is the method's own default."""
    end_fraction: float | None = None
    """The same at the end of the run, for the methods that have it; None is the method's own default."""
    stop: float | None = None
    """Share of the run after which RigL leaves the topology alone; None is its own default."""
    c: float = 1e-5
    """DST-EE: weight of exploration against exploitation; 0 is RigL-ITOP."""
    eps: float = 1.0
    """DST-EE: added to the number of topologies that held a weight."""
    scale: Literal["none", "layer"] = "none"
    """DST-EE: layer measures c in units of the layer's mean absolute gradient."""
    signed: bool = False
    """DST-EE: score |g + bonus| as in the authors' code, instead of |g| + bonus."""
    regrow: bool = True
    """DST-EE: whether a weight may be grown at the update that dropped it."""

    options: tuple[str, ...] = ()
    """Further settings of the method, NAME=VALUE, such as soft=true for mest; docs/methods.md lists those of each. With
    METHOD.NAME=VALUE only that method takes it, where several are compared."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd is SGD with Nesterov momentum."""
    lr: float = 0.1
    """Highest learning rate."""
    momentum: float = 0.9
    """Momentum of sgd."""
    beta2: float = 0.999
    """Momentum of adamw's squared gradients; that of its gradients is 0.9."""
    weight_decay: float = 5e-4
    """On weights; biases and norm layers have none."""
    schedule: Literal["constant", "steps", "linear", "cosine"] = "cosine"
    """Learning rate over the run; steps is x0.1 at one half and again at three quarters, linear and cosine end at
    end_lr."""
    end_lr: float = 0.0
    """Learning rate at the end of linear and cosine."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises from 0."""
    clip: float = 0.0
    """Largest norm of the gradient of the active weights: a longer one is scaled down to it; 0 clips nothing."""
    epochs: int = 10
    """Passes over the training set."""
    batch_size: int = 128
    """Images, pairs of nodes or crops of text per optimizer step, over all processes; a gnn sees the whole graph."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    augment: Literal["none", "flip", "crop_flip"] = "none"
    """flip mirrors half of the images; crop_flip also crops at random after padding."""
    validation: float = 0.1
    """Share of the training set that is held out for every choice; the test set is read once, at the end."""
    image_size: int = 224
    """Side of the images of the tasks folder and imagenet, in pixels; the other tasks have their own."""

    context: int = 256
    """Characters that a text model reads at once."""
    walks: Literal["train", "all"] = "train"
    """linkpred: edges that word2vec's walks see; all as in the published code, whose walks see the test edges, a leak:
    to compare with the published figures only."""

    engine: Literal["masked", "cpu", "auto"] = "masked"
    """masked computes with dense weights that hold zeros; cpu with the active weights alone, where a layer allows it;
    auto measures both, layer by layer, before the first step, and takes the faster."""
    bf16: bool = False
    """Forward and backward in bfloat16 autocast; the layers of the engine cpu compute in float32 all the same."""
    compile: bool = False
    """torch.compile the model; on a GPU, in one process, its forward and backward passes become CUDA graphs."""
    channels_last: bool = False
    """Images and convolutions in channels-last memory; the layers of the engine cpu have a layout of their own."""
    seed: int = 0
    """Of the split, the initial weights, the masks, the order of images and the augmentation."""

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            if typing.get_origin(hint) is Literal and getattr(self, name) not in typing.get_args(hint):
                known = ", ".join(typing.get_args(hint))
                raise ValueError(f'{name}="{getattr(self, name)}" is unknown. Use one of {known}.')
        kind(self.task)
        if self.method not in METHODS:
            raise ValueError(f'method="{self.method}" is unknown. Use one of {", ".join(METHODS)}.')
        for name in ("epochs", "batch_size", "every", "image_size", "context"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}={value} leaves nothing to do. Use a whole number of at least 1.")
        if not 0 < self.validation < 1:
            raise ValueError(
                f"validation={self.validation} is not a share of the training set to hold out, and choices would "
                "have to be made on the test set. Use a number between 0 and 1, such as validation=0.1."
            )
        for name in ("lr", "width"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name}={value} trains nothing. Use a positive number.")
        for name in ("weight_decay", "warmup_epochs", "clip"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"{name}={value} is below 0. Use 0 for none.")
        if not 0 <= self.end_lr <= self.lr:
            raise ValueError(f"lr={self.lr} cannot fall to end_lr={self.end_lr}. Use a number from 0 to {self.lr:g}.")
        for name in ("momentum", "beta2", "label_smoothing"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}={value} is outside [0, 1). Use for example {name}=0.1, or 0 for none.")
        if self.stop is not None and not 0 < self.stop <= 1:
            raise ValueError(f"stop={self.stop} is no share of the run. Use a number above 0 and up to 1 (the end).")
        self._further_options()
        if any(units < 1 for units in self.hidden):
            raise ValueError(f"hidden={self.hidden} has a layer without units. Use at least 1, such as 256 256.")
        sparsities_of(self.sparsity)
        density = structure_of(self.structure).density()
        if density is not None and not _is_about(self.sparsity, 1 - density) and self.method != "dense":
            raise ValueError(
                f"structure={self.structure} fixes the sparsity at {1 - density:g}, and sparsity={self.sparsity} "
                f"contradicts it. Give sparsity={1 - density:g}, or another structure."
            )

    def identity(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values, None where the method or the task does not read them.

        Recipes of equal identity are the same run: a dense one has no sparsity to tell it from another.

        >>> Recipe(method="static", c=0.1).identity() == Recipe(method="static").identity()
        True
        """
        fields: dict[str, Any] = dataclasses.asdict(self) | {"hidden": list(self.hidden)}
        unread = _options_of_methods() - _options(self.method)
        if self.method == "dense":
            unread |= {"distribution", "structure"}
            fields["sparsity"] = 0.0
        excluded, engine = fields.pop("exclude"), fields.pop("engine")
        mine = [word.removeprefix(f"{self.method}.") for word in fields.pop("options")]
        options = sorted(word for word in mine if "." not in word.partition("=")[0])
        card = METHODS.card(self.method)
        if fields["structure"] == "unstructured":
            fields["structure"] = card.structure
        if fields["distribution"] == "erk":
            fields["distribution"] = card.distribution
        if self.method != "dense":  # left out at their defaults: records from before these fields are the same run
            fields |= {"options": options} if options else {}
            fields |= {"exclude": list(excluded)} if excluded else {}
            fields |= {"engine": engine} if engine != "masked" else {}
        unread.add("width" if self.model == "mlp" else "hidden")
        about = kind(self.task)
        later = {  # whether a field that came later says anything; else it is left out, as records from before it do
            "context": about == "text",
            "walks": about == "linkpred" and self.walks != "train",
            "beta2": self.optimizer == "adamw" and self.beta2 != 0.999,
            "end_lr": self.schedule in ("linear", "cosine") and self.end_lr != 0,
            "clip": self.clip != 0,
        }
        fields = {name: value for name, value in fields.items() if later.get(name, True)}
        if self.task not in ("folder", *STREAMED):
            unread.add("image_size")
        if self.task in STREAMED:  # they have crops of their own
            unread.add("augment")
        if about != "images":
            unread |= {"augment", "label_smoothing", "channels_last"}
        if about == "gnn":
            unread.add("batch_size")
        if self.optimizer != "sgd":
            unread.add("momentum")
        return fields | dict.fromkeys(unread)

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> Recipe:
        """Returns the recipe of a recorded identity; fields that came later have their defaults, as that run had.

        Raises TypeError where the identity has fields that this version does not know.
        """
        given = {name: value for name, value in identity.items() if value is not None}
        given |= {name: tuple(given[name]) for name in ("hidden", "exclude", "options") if name in given}
        return cls(**given)

    def build_method(self, steps: int) -> Method:
        """Returns the method laid over a run of that many optimizer steps."""
        options = {name: getattr(self, name) for name in _options(self.method)}
        given = {name: value for name, value in options.items() if value is not None} | self._further_options()
        if "steps" in METHODS.card(self.method).parameters:
            given["steps"] = steps
        return METHODS[self.method](**given)

    def _further_options(self) -> dict[str, Any]:
        """Returns the values of `options` by name; ValueError where the method does not take one."""
        hints = typing.get_type_hints(METHODS[self.method])
        fields = {field.name for field in dataclasses.fields(self)}
        taken = [name for name in METHODS.card(self.method).options if name not in fields]
        found = {}
        for word in self.options:
            name, equals, text = word.partition("=")
            owner, dot, rest = name.partition(".")
            if dot:
                if owner not in METHODS:
                    raise ValueError(f'options="{word}" is for "{owner}", which is no method. See `rewire list`.')
                if owner != self.method:
                    continue
                name = rest
            if name in fields:
                raise ValueError(f'options="{word}" is a setting of its own. Use --{name.replace("_", "-")} {text}.')
            if not equals or name not in taken:
                flags = [f"--{name.replace('_', '-')}" for name in _options(self.method)]
                raise ValueError(
                    f'options="{word}" is nothing that {self.method} takes. '
                    + (f"It takes {', '.join(f'{n}=VALUE' for n in taken)}" if taken else "It takes none")
                    + (f", and the flags {', '.join(sorted(flags))}." if flags else ".")
                    + " For another of the methods that are compared, write METHOD.NAME=VALUE."
                )
            found[name] = value_of(name, hints[name], text)
        return found


@dataclass(frozen=True)
class Runtime:
    """Where and how long to run: nothing here is part of the recipe."""

    data: Path | None = None
    """Folder of the data; without it CIFAR and ImageNet are fetched by name through the `datasets` library."""
    workers: int | None = None
    """Processes that decode the images of imagenet, for each one that trains; None shares out the cores, 0 has none."""
    out: Path = Path("runs")
    """Folder for records, models, checkpoints and the report."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Format of the weights in the model file."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps ..."""
    threads: int | None = None
    """CPU threads; None leaves the choice to torch."""
    time_limit: str | None = None
    """Stop cleanly after this long, such as 90s, 9m or 1.5h, with a checkpoint to resume from."""
    resume: bool = False
    """Continue what an earlier call with the same flags left unfinished."""
    evaluate_every: int = 1
    """Epochs between two readings of the validation split."""
    checkpoint_seconds: float = 30.0
    """Seconds between two checkpoints, also within an epoch; 0 writes one at the end of every epoch."""
    diagnose: bool = False
    """Record at every update the important weights that it grew, kept and missed, the gradient norm, dead units, ..."""
    energy: bool = False
    """Record the energy of processor and GPU while training, where CodeCarbon can read their counters."""

    def __post_init__(self) -> None:
        seconds_of(self.time_limit)
        if self.evaluate_every < 1:
            raise ValueError(f"evaluate_every={self.evaluate_every} is not a number of epochs. Use 1 for every epoch.")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads} could compute nothing. Use at least 1, or leave it to torch.")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers={self.workers} is no number of processes. Use 0 to decode without any.")
        if not self.checkpoint_seconds >= 0:
            raise ValueError(f"checkpoint_seconds={self.checkpoint_seconds} is no time. Use 0 for every epoch.")

    @property
    def seconds(self) -> float:
        """The time limit in seconds; infinity without one."""
        return seconds_of(self.time_limit)


def structure_of(text: str) -> Structure:
    """Returns the structure that a word names.

    >>> structure_of("2:4"), structure_of("block:4x4")
    (NM(n=2, m=4), Block(height=4, width=4))
    """
    if text == "unstructured":
        return Unstructured()
    if text == "fan_in":
        return FanIn()
    if text == "neuron":
        return Neuron()
    if found := re.fullmatch(r"(\d+):(\d+)", text):
        return NM(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"block:(\d+)x(\d+)", text):
        return Block(int(found[1]), int(found[2]))
    raise ValueError(
        f'structure="{text}" is unknown. Use unstructured, fan_in, neuron, N:M such as 2:4, or block:HxW such as '
        "block:4x4."
    )


def sparsities_of(value: float | str) -> float | Mapping[str, float]:
    """Returns a sparsity, or sparsities by glob, from a number or from text.

    >>> sparsities_of("*=0.95,fc=0.5")
    {'*': 0.95, 'fc': 0.5}
    """
    if isinstance(value, str):
        try:
            pairs = [part.split("=") for part in value.split(",")]
            parsed = {glob.strip(): float(number) for glob, number in pairs}
        except ValueError:
            raise ValueError(
                f'sparsity="{value}" is neither a number nor a list of layers. Use for example 0.95 or "*=0.95,fc=0.5".'
            ) from None
    else:
        parsed = {"*": value}
    for glob, number in parsed.items():
        if not 0 <= number < 1:
            raise ValueError(
                f"sparsity={number}{'' if glob == '*' else f' for {glob!r}'} is outside [0, 1): it is the share of "
                "weights that are zero, and some must stay. Use for example sparsity=0.95."
            )
    return parsed if isinstance(value, str) else value


def seconds_of(duration: str | None) -> float:
    """Returns seconds from text such as 90s, 9m or 1.5h; without a limit, infinity.

    >>> seconds_of("9m")
    540.0
    """
    if duration is None:
        return float("inf")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", duration.strip())
    if not found:
        raise ValueError(f'time_limit="{duration}" is not a duration. Use for example 90s, 9m or 1.5h.')
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _is_about(sparsity: float | str, other: float) -> bool:
    """Whether a sparsity is another one but for the digits that a person leaves out: 0.6667 for 1:3."""
    return not isinstance(sparsity, str) and math.isclose(sparsity, other, abs_tol=1e-4)


def _options(method: str) -> set[str]:
    """The fields of a recipe that a method's factory takes."""
    names = {field.name for field in dataclasses.fields(Recipe)}
    return names & METHODS.card(method).parameters.keys()


def _options_of_methods() -> set[str]:
    return set().union(*(_options(method) for method in METHODS))
