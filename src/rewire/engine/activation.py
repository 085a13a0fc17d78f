"""Blocked: an activation in the blocked layout, which passes for the ordinary tensor that it stands for.

It has the ordinary shape, and torch's functions take it. Those in `HANDLERS` stay in the layout; for any other it is
turned into an ordinary tensor, which is always right, and counted. Autograd runs on the tensors inside. An in-place
change, of it, of a view of it or of the ordinary tensor made from it, is seen by all of them.

Computation is in float32, under autocast too. The Blocked itself is no part of any graph: a gradient that reaches it
past torch's functions (torch.autograd.Function.apply takes tensors as they are) is an error, never lost.
"""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewire.engine.layout_ops import block, unblock
from rewire.engine.pending import Ready, Value, recording

CONVERT = object()  # what a handler returns where its function cannot stay in the layout


class Handler(NamedTuple):
    """What a function does in the layout: `call(function, *args, **kwargs)`, where it knows these arguments."""

    call: Callable[..., Any]
    positional: float
    keywords: frozenset[str] | None  # None: any

    def knows(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        return len(args) <= self.positional and (self.keywords is None or self.keywords.issuperset(kwargs))


HANDLERS: dict[Any, Handler] = {}
_RECORDERS: list[Counter[str]] = []

# They give out the memory itself, so that a change of it cannot be seen.
_SHARING = {"data", "numpy", "__array__", "__dlpack__", "data_ptr", "storage", "untyped_storage"}


class View(NamedTuple):
    """Where a view comes from: derive(value of base) is its value, put(value of base, its value) the changed base's."""

    base: Blocked
    derive: Callable[[Value], Value]
    put: Callable[[Value, Value], Value]


class Blocked(Tensor):
    """An activation in the blocked layout, of shape (N, C, H, W), or (*leading, C) where it is of a Linear."""

    sizes: torch.Size  # the shape, for those who need not ask torch
    _value: Value
    _image: bool  # (N, C, H, W)
    _rows: int
    _ordinary: Tensor | None  # made from the value; the truth from then on, for it may be changed through its views
    _version_seen: int  # of it
    _shared: bool  # its memory was given out, so it may change unseen
    _changes: int
    _view: View | None
    _base_seen: int

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        handler = HANDLERS.get(func)
        if handler is not None and handler.knows(args, kwargs):
            result = handler.call(func, *args, **kwargs)
            if result is not CONVERT:
                return result
        return _converted(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(
            f"{func} got an activation in rewire's blocked layout past torch's functions, as torch.func, torch.tensor "
            "and autograd.Function.apply pass it on. Give them an ordinary tensor: x = x.contiguous()."
        )

    def value(self) -> Value:
        """Returns the value now, after changes by way of other tensors."""
        if not self._value.requires_grad:
            self._check_history()
        if self._view is not None:
            base = self._view.base.value()
            if self._view.base._changes != self._base_seen:
                self._base_seen = self._view.base._changes
                self._take(self._view.derive(base))
        if self._ordinary is not None and (self._shared or self._version_seen != self._ordinary._version):
            with recording(self._ordinary.requires_grad or torch.is_grad_enabled()):
                changed = Ready(block(_images(self._ordinary, self._image)))
            self._version_seen = self._ordinary._version
            self._take(changed)
            self._put()
        return self._value

    def ordinary(self) -> Tensor:
        """Returns the ordinary tensor, contiguous; a change of it changes this."""
        value = self.value()
        if self._ordinary is None:
            with recording(value.requires_grad or torch.is_grad_enabled()):
                self._ordinary = unblock(value.tensor(), self._rows).reshape(self.sizes)
            self._version_seen = self._ordinary._version
        return self._ordinary

    def assign(self, value: Value) -> Blocked:
        """Changes the value in place and returns self."""
        self.value()
        if self._ordinary is not None:
            self._ordinary.copy_(unblock(value.tensor(), self._rows).reshape(self.sizes))
            self._version_seen = self._ordinary._version
        self._take(value)
        self._put()
        return self

    def require(self, flag: bool) -> None:
        """Tells autograd whether this stands for a tensor with a gradient, so that one that comes here is noticed."""
        with torch._C.DisableTorchFunctionSubclass():
            if flag != self.requires_grad:
                self.requires_grad_(flag)
                self._backward_hooks = _LOST if flag else None

    def _check_history(self) -> None:
        """Raises RuntimeError where an autograd.Function gave this out and waits for a gradient that cannot come."""
        with torch._C.DisableTorchFunctionSubclass():
            lost = self.grad_fn is not None
        if lost:
            raise RuntimeError(
                "An autograd.Function, such as that of a reentrant checkpoint, gave out an activation in rewire's "
                "blocked layout, whose gradient would be lost. Have it give an ordinary tensor, y.contiguous(), or "
                "say checkpoint(..., use_reentrant=False)."
            )

    def _take(self, value: Value) -> None:
        self._value = value
        self._changes += 1
        self.require(value.requires_grad)

    def _put(self) -> None:
        if self._view is not None:
            base = self._view.base
            base.assign(self._view.put(base.value(), self._value))
            self._base_seen = base._changes


def make(value: Value, shape: Sequence[int], image: bool, view: View | None = None) -> Blocked:
    """Returns the Blocked of a value; shape (N, C, H, W) with `image`, else (*leading, C)."""
    needed = value.requires_grad
    x: Blocked = _make_wrapper(Blocked, shape, dtype=torch.float32, device="cpu", requires_grad=needed)
    x.sizes = shape if type(shape) is torch.Size else torch.Size(shape)
    x._value, x._image, x._view, x._changes = value, image, view, 0
    x._rows = shape[0] if image else product(shape[:-1])
    x._ordinary, x._version_seen, x._shared = None, 0, False
    x._base_seen = 0 if view is None else view.base._changes
    if needed:
        with torch._C.DisableTorchFunctionSubclass():
            x._backward_hooks = _LOST
    return x


def blocked_of(x: Tensor, image: bool) -> Value:
    """Returns the value of an ordinary tensor (N, C, H, W) with `image`, else (*leading, C)."""
    return Ready(block(_images(x, image)))


def fits(x: Any) -> bool:
    """Returns whether an ordinary tensor can be blocked as it is."""
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.layout == torch.strided
    )


@contextlib.contextmanager
def conversions() -> Iterator[Counter[str]]:
    """Counts, by name, the functions that were given ordinary tensors in place of blocked ones meanwhile."""
    seen: Counter[str] = Counter()
    _RECORDERS.append(seen)
    try:
        yield seen
    finally:
        _RECORDERS.remove(seen)


def _converted(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__"):
        name = func.__self__.__name__
    for recorder in _RECORDERS:
        recorder[name] += 1
    result = func(*unwrapped(args), **unwrapped(kwargs))
    first = args[0] if args else kwargs.get("input")
    if not isinstance(first, Blocked):
        return result
    if name in _SHARING:
        first._shared = True
    in_place = (name.endswith("_") and not name.endswith("__")) or name in _ASSIGNING or kwargs.get("inplace")
    if in_place and first._ordinary is not None:
        if first._ordinary.shape != first.sizes:
            raise RuntimeError(
                f"{name} changed the shape of an activation in rewire's blocked layout in place, from "
                f"{tuple(first.sizes)} to {tuple(first._ordinary.shape)}, which it cannot follow. "
                f"Give it an ordinary tensor, x = x.contiguous(), or use the function without the underscore."
            )
        first.require(first._ordinary.requires_grad)
        if first._view is not None:
            first.value()  # passes the change on to the base
        return first if result is first._ordinary else result
    return result


_ASSIGNING = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__idiv__", "__itruediv__", "__ipow__"}


def unwrapped(nest: Any) -> Any:
    """Returns the nest of tuples, lists and dicts with ordinary tensors in place of blocked ones."""
    if isinstance(nest, Blocked):
        return nest.ordinary()
    if isinstance(nest, tuple) and type(nest) is not torch.Size:
        parts = [unwrapped(part) for part in nest]
        return type(nest)(*parts) if hasattr(nest, "_fields") else tuple(parts)
    if isinstance(nest, list):
        return [unwrapped(part) for part in nest]
    if isinstance(nest, dict):
        return {key: unwrapped(part) for key, part in nest.items()}
    return nest


def _images(x: Tensor, image: bool) -> Tensor:
    return x if image else x.reshape(product(x.shape[:-1]), x.shape[-1])


def product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _lost(gradient: Tensor) -> None:
    raise RuntimeError(
        "A gradient reached an activation in rewire's blocked layout past torch's functions, as that of an "
        "autograd.Function does, and would be lost there. Give that function an ordinary tensor: x = x.contiguous(). "
        "In place of a module's register_full_backward_hook, call x.register_hook on what its forward hook sees."
    )


_LOST: Any = OrderedDict({0: _lost})  # one for all: register_hook() would take longer than a small kernel
_make_wrapper: Callable[..., Any] = Tensor._make_wrapper_subclass
