"""What a blocked activation says of itself, and what autograd asks of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rewire.engine.activation import CONVERT, Blocked, View, blocked_of, make, unwrapped
from rewire.engine.functions.table import like, stays
from rewire.engine.pending import Ready, Value


@stays(
    *(
        f"{name}.{method}"
        for name in ("shape", "ndim", "dtype", "device", "layout", "itemsize", "nbytes")
        for method in ("__get__",)
    ),
    *("is_cpu.__get__", "is_cuda.__get__", "is_sparse.__get__", "is_quantized.__get__", "is_meta.__get__"),
    *("is_mps.__get__", "is_xpu.__get__", "is_nested.__get__", "is_mkldnn.__get__", "names.__get__"),
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "element_size", "storage_offset"),
    *("is_floating_point", "is_complex", "is_signed", "is_inference", "get_device", "has_names", "is_tensor"),
    *("__len__", "is_same_size"),
)
def _metadata(func: Any, *args: Any, **kwargs: Any) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


@stays("__repr__")
def _repr(func: Any, x: Blocked, tensor_contents: Any = None) -> str:
    return f"blocked {x.ordinary()!r}"


@stays("float", "cpu", homes=(Tensor,))
def _already(func: Any, x: Blocked) -> Any:
    return x


@stays("to", homes=(Tensor,))
def _to(func: Any, x: Blocked, *args: Any, **kwargs: Any) -> Any:
    here = (torch.float32, torch.device("cpu"), "cpu")
    return CONVERT if kwargs or any(isinstance(wish, Tensor) or wish not in here for wish in args) else x


@stays("clone")
def _clone(func: Any, input: Blocked) -> Any:
    return like(input, input.value())  # values never change


@stays("detach")
def _detach(func: Any, input: Blocked) -> Any:
    def put(base: Value, own: Value) -> Value:
        raise RuntimeError(
            "An in-place change of x.detach() would change x, which a blocked activation cannot do. "
            "Type x.detach().clone() before it."
        )

    def derive(value: Value) -> Value:
        return Ready(value.tensor().detach())

    return make(derive(input.value()), input.sizes, input._image, View(input, derive, put))


# ---- gradients


def _observed(x: Blocked) -> Tensor:
    """Returns the tensor inside, for someone who waits for its gradient."""
    value = x.value()
    if value.absorbed and not value.ready:
        raise RuntimeError(
            "The gradient of this output of a batch norm is not computed: it was joined with the ReLU or the addition "
            "behind it. Ask for it (register_hook, retain_grad) before the output of those is used."
        )
    return value.tensor()


def _outside(gradient: Tensor, shape: torch.Size, image: bool) -> Tensor:
    return make(Ready(gradient), shape, image).ordinary()


@stays("requires_grad.__get__")
def _has_gradient(func: Any, x: Blocked) -> bool:
    return x.value().requires_grad


@stays("grad_fn.__get__")
def _grad_fn(func: Any, x: Blocked) -> Any:
    return _observed(x).grad_fn if x.requires_grad else None


@stays("is_leaf.__get__")
def _is_leaf(func: Any, x: Blocked) -> bool:
    return not x.requires_grad or _observed(x).is_leaf


@stays("requires_grad_", "requires_grad.__set__")
def _requires_grad(func: Any, x: Blocked, requires_grad: bool = True) -> Any:
    _observed(x).requires_grad_(requires_grad)
    value = Ready(x.value().tensor())
    x._ordinary = None  # it has no part in the graph that begins here
    x._value = value
    x.require(requires_grad)
    return x


@stays("retain_grad")
def _retain_grad(func: Any, x: Blocked) -> None:
    _observed(x).retain_grad()


@stays("retains_grad.__get__")
def _retains_grad(func: Any, x: Blocked) -> bool:
    value = x.value()
    return value.ready and value.tensor().retains_grad


@stays("grad.__get__")
def _grad(func: Any, x: Blocked) -> Tensor | None:
    gradient = _observed(x).grad
    return None if gradient is None else _outside(gradient, x.sizes, x._image)


@stays("grad.__set__")
def _set_grad(func: Any, x: Blocked, gradient: Tensor | None) -> None:
    _observed(x).grad = None if gradient is None else blocked_of(gradient, x._image).tensor()


@stays("register_hook")
def _register_hook(func: Any, x: Blocked, hook: Callable[[Tensor], Tensor | None]) -> Any:
    shape, image = x.sizes, x._image  # x itself would be held by its own graph, which no collector sees

    def inside(gradient: Tensor) -> Tensor | None:
        changed = unwrapped(hook(_outside(gradient, shape, image)))
        return None if changed is None else blocked_of(changed, image).tensor()

    return _observed(x).register_hook(inside)


@stays("grad", homes=(torch.autograd,))
def _autograd_grad(func: Any, outputs: Any, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    inner = [_observed(x) if isinstance(x, Blocked) else x for x in inputs]
    found = func(unwrapped(outputs), inner, *unwrapped(args), **unwrapped(kwargs))
    pairs = zip(found, inputs, strict=True)
    return tuple(_outside(g, x.sizes, x._image) if isinstance(x, Blocked) and g is not None else g for g, x in pairs)
