"""How an op of the engine is defined, for torch's dispatcher and past it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_OPS = torch.library.Library("rewire", "FRAGMENT")


class Op:
    """An op of the namespace rewire: what it computes on the CPU, and the shapes of that.

    Called on ordinary tensors while nobody listens to the dispatcher, it goes straight to its kernel: the way through
    the dispatcher and back into Python costs as much as a small kernel itself.
    """

    def __init__(self, schema: str, cpu: Callable[..., Any], fake: Callable[..., Any]) -> None:
        self.name = name = schema.split("(")[0]
        self.new = not hasattr(torch.ops.rewire, name)  # pytest --doctest-modules may run a module twice
        if self.new:
            _OPS.define(schema)
            _OPS.impl(name, cpu, "CPU")
            torch.library.register_fake(f"rewire::{name}", fake, lib=_OPS)
        self.overload = getattr(torch.ops.rewire, name).default
        self.cpu = cpu
        self.function: type[torch.autograd.Function] | None = None

    def differentiable(self, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
        """Says what to keep, setup(ctx, inputs, output), and how to find the gradients of the inputs."""
        if self.new:
            torch.library.register_autograd(self.overload, backward, setup_context=setup, lib=_OPS)
        cpu = self.cpu

        def forward(ctx: Any, *inputs: Any) -> Any:
            output = cpu(*inputs)
            setup(ctx, inputs, output)
            return output

        methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        self.function = type(self.name, (torch.autograd.Function,), methods)

    def __call__(self, *inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.overload(*inputs)
        ordinary = type(inputs[0]) is Tensor or type(inputs[0]) is torch.nn.Parameter
        listeners = torch._C._len_torch_dispatch_stack() or torch._C._are_functorch_transforms_active()
        if listeners or not ordinary:
            return self.overload(*inputs)
        if torch.is_grad_enabled():
            for value in inputs:
                if isinstance(value, Tensor) and value.requires_grad:
                    return self.overload(*inputs) if self.function is None else self.function.apply(*inputs)
        return self.cpu(*inputs)
