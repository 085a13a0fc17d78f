"""A plain multi-layer perceptron."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from rewire.tasks.models.initialise import initialised


def mlp(inputs: int, widths: Sequence[int], classes: int, *, seed: int = 0) -> nn.Sequential:
    """Linear layers fc1, fc2, ... with ReLU between them, on images of any shape with `inputs` values each.

    >>> [tuple(p.shape) for p in mlp(64, [32], 10).parameters()]
    [(32, 64), (32,), (10, 32), (10,)]
    """

    def build() -> nn.Sequential:
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        sizes = [inputs, *widths, classes]
        for number in range(1, len(sizes)):
            layers[f"fc{number}"] = nn.Linear(sizes[number - 1], sizes[number])
            if number < len(sizes) - 1:
                layers[f"relu{number}"] = nn.ReLU()
        return nn.Sequential(layers)

    return initialised(build, seed)
