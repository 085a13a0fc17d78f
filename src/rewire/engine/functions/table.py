"""How a function is registered that stays in the blocked layout, and what all of them ask."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rewire.engine.activation import HANDLERS, Blocked, Handler, make
from rewire.engine.pending import Value

HOMES = (torch, Tensor, F, torch._C._nn)


def stays(*names: str, homes: Sequence[Any] = HOMES) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers what the functions of these names do in the layout; `name.__get__` is a property."""

    def register(call: Callable[..., Any]) -> Callable[..., Any]:
        parameters = list(inspect.signature(call).parameters.values())[1:]
        every = {parameter.kind for parameter in parameters}
        positional = sum(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
        known = frozenset(parameter.name for parameter in parameters)
        handler = Handler(
            call,
            math.inf if inspect.Parameter.VAR_POSITIONAL in every else positional,
            None if inspect.Parameter.VAR_KEYWORD in every else known,
        )
        for name in names:
            attribute, _, method = name.partition(".")
            for home in homes:
                found = getattr(home, attribute, None)
                found = getattr(found, method, None) if method else found
                if callable(found):
                    HANDLERS[found] = handler
        return call

    return register


def like(x: Blocked, value: Value) -> Blocked:
    """Returns a Blocked of the same shape."""
    return make(value, x.sizes, x._image)


def channels_second(x: Any) -> bool:
    """Returns whether x is Blocked and its dimension 1 is that of the channels."""
    return isinstance(x, Blocked) and (x._image or len(x.sizes) == 2)
