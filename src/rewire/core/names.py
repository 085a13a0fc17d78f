"""The names of a model's weights, the same whether or not the model is wrapped or compiled."""

from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the user's own module inside DistributedDataParallel, DataParallel and torch.compile.

    >>> unwrap(nn.DataParallel(nn.Linear(2, 3)))
    Linear(in_features=2, out_features=3, bias=True)
    """
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def plain_name(name: str) -> str:
    """Returns the name without what torch.compile puts before the names inside a compiled submodule.

    >>> plain_name("encoder._orig_mod.weight")
    'encoder.weight'
    """
    return name.replace("_orig_mod.", "")
