"""Plain models by name, for images of any number of channels and classes, and for text."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from rewire.tasks.models.cnn import cnn
from rewire.tasks.models.gpt import gpt
from rewire.tasks.models.mlp import mlp
from rewire.tasks.models.mobilenet_v2 import mobilenet_v2
from rewire.tasks.models.resnet import resnet20, resnet32, resnet50
from rewire.tasks.models.vgg import vgg19
from rewire.tasks.models.wide_resnet import wrn22_2


@dataclass(frozen=True)
class Published:
    """A model as it was published: its `width`, and what it needs.

    smallest: the smallest image, in pixels, that its poolings leave. heads: what its width must be a multiple of.
    depth: the number of hidden layers of an MLP.
    """

    factory: Callable[..., nn.Module]
    width: int
    smallest: int = 1
    heads: int = 1
    depth: int = 0

    def units(self, width: float) -> int:
        """The published width times `width`, rounded to a multiple of `heads`, at least one."""
        return self.heads * max(1, round(self.width * width / self.heads))


MODELS = {
    "mlp": Published(mlp, width=512, depth=2),
    "mlp_chts": Published(mlp, width=6144, depth=3),
    "cnn": Published(cnn, width=24),
    "resnet20": Published(resnet20, width=16),
    "resnet32": Published(resnet32, width=16),
    "resnet50": Published(resnet50, width=64),
    "resnet50_imagenet": Published(partial(resnet50, stem="imagenet"), width=64),
    "vgg19": Published(vgg19, width=64, smallest=32),
    "wrn22_2": Published(wrn22_2, width=16),
    "mobilenet_v2": Published(mobilenet_v2, width=32),
}
TEXT_MODELS = {"gpt": Published(gpt, width=384, heads=6)}


def build(
    name: str, *, classes: int, channels: int = 3, size: int = 32, width: float = 1.0, seed: int = 0
) -> nn.Module:
    """The model of that name for square images of `size` pixels, He initialised from `seed` alone.

    `width` multiplies the channels (or hidden units) of every layer, rounded, at least 1.

    >>> sum(p.numel() for p in build("resnet20", classes=10).parameters())
    269722
    """
    published = _published(name, MODELS, TEXT_MODELS, "images", width)
    if size < published.smallest:
        raise ValueError(
            f"{name} cannot see images of {size} pixels: its poolings leave nothing of them. "
            f"Use images of at least {published.smallest} pixels, or another model: {', '.join(MODELS)}."
        )
    units = published.units(width)
    if published.depth:
        return mlp(channels * size**2, [units] * published.depth, classes, seed=seed)
    return published.factory(classes, channels=channels, width=units, seed=seed)


def build_text(
    name: str, *, vocabulary: int, context: int = 256, width: float = 1.0, dropout: float = 0.2, seed: int = 0
) -> nn.Module:
    """The model of that name for text of `vocabulary` tokens, `context` at once, with weights from `seed` alone.

    `width` multiplies the channels of every layer, rounded so that the heads can share them.

    >>> build_text("gpt", vocabulary=65, width=0.25).norm.weight.shape
    torch.Size([96])
    """
    published = _published(name, TEXT_MODELS, MODELS, "text", width)
    return published.factory(vocabulary, context=context, width=published.units(width), dropout=dropout, seed=seed)


def _published(
    name: str, known: dict[str, Published], others: dict[str, Published], reads: str, width: float
) -> Published:
    """The model of that name among the known ones. Raises ValueError for another name, or a width of nothing."""
    if name in others:
        raise ValueError(f"{name} is no model for {reads}. Those are: {', '.join(known)}.")
    if name not in known:
        raise ValueError(f"Unknown model {name!r}. Known: {', '.join(known)}.")
    if width <= 0:
        raise ValueError(
            f"A {name} of {width} times its published width has no units. Use a width above 0, like 0.5 or 1.0."
        )
    return known[name]
