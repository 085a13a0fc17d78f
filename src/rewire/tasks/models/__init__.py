"""Plain models by name, for images of any number of channels and classes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from rewire.tasks.models.cnn import cnn
from rewire.tasks.models.mlp import mlp
from rewire.tasks.models.resnet import resnet20, resnet32, resnet50
from rewire.tasks.models.vgg import vgg19


@dataclass(frozen=True)
class Published:
    """A model as it was published: its `width`, and the smallest image, in pixels, that its poolings leave."""

    factory: Callable[..., nn.Module]
    width: int
    smallest: int = 1


MODELS = {
    "mlp": Published(mlp, width=512),
    "cnn": Published(cnn, width=24),
    "resnet20": Published(resnet20, width=16),
    "resnet32": Published(resnet32, width=16),
    "resnet50": Published(resnet50, width=64),
    "resnet50_imagenet": Published(partial(resnet50, stem="imagenet"), width=64),
    "vgg19": Published(vgg19, width=64, smallest=32),
}


def build(
    name: str, *, classes: int, channels: int = 3, size: int = 32, width: float = 1.0, seed: int = 0
) -> nn.Module:
    """The model of that name for square images of `size` pixels, He initialised from `seed` alone.

    `width` multiplies the channels (or hidden units) of every layer, rounded, at least 1.

    >>> sum(p.numel() for p in build("resnet20", classes=10).parameters())
    269722
    """
    if name not in MODELS:
        raise ValueError(f"Unknown model {name!r}. Known: {', '.join(MODELS)}.")
    if width <= 0:
        raise ValueError(
            f"A {name} of {width} times its published width has no units. Use a width above 0, like 0.5 or 1.0."
        )
    published = MODELS[name]
    if size < published.smallest:
        raise ValueError(
            f"{name} cannot see images of {size} pixels: its poolings leave nothing of them. "
            f"Use images of at least {published.smallest} pixels, or another model: {', '.join(MODELS)}."
        )
    units = max(1, round(published.width * width))
    if name == "mlp":
        return mlp(channels * size**2, [units, units], classes, seed=seed)
    return published.factory(classes, channels=channels, width=units, seed=seed)
