"""He initialisation from a seed, without touching the global random state."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def initialised(build: Callable[[], Model], seed: int) -> Model:
    """The module that `build` makes, with weights ~ N(0, 2 / fan) and biases 0, drawn from `seed` alone.

    fan is the fan-in of a linear layer and the fan-out of a convolution, as in the usual ResNets; a batch
    norm starts as the identity. The module is built without storage first, so that torch's own initialisation
    costs no time and draws no global random number.

    >>> state = torch.get_rng_state()
    >>> initialised(lambda: nn.Linear(3, 2), seed=0).bias.tolist()
    [0.0, 0.0]
    >>> torch.equal(torch.get_rng_state(), state)
    True

    Reference: K. He et al., "Delving Deep into Rectifiers", 2015, https://arxiv.org/abs/1502.01852
    """
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        match module:
            case nn.Linear():
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu", generator=generator)
                nn.init.zeros_(module.bias)
            case nn.Conv2d(bias=None):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            case nn.BatchNorm2d():
                module.reset_parameters()
            case _ if any(True for _ in module.parameters(recurse=False)):
                raise TypeError(f"No initialisation is known for {name}, a {type(module).__name__}.")
    return model
