"""Values of blocked activations: a tensor that is there, or a layer's call that waits for what follows it.

A batch norm, the addition of a shortcut and a ReLU pass over memory once together and three times apart; a sparse layer
and its ReLU once and twice. Such a call is therefore not computed when it is made, but when its result is first asked
for; an addition and a ReLU that come before that join it. A value never changes, and computes itself once, as it would
have been computed when it was made: with or without gradients, and once only into the running statistics.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from rewire.engine.norm_ops import batch_norm_eval, batch_norm_train
from rewire.engine.ops import sparse_layer
from rewire.engine.stream import Stream

_hooks_on_top: Callable[[bool], Any] = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", lambda ignore_tracing: None
)


def _top_hooks() -> Any:
    """Returns who is asked first to save a tensor for the backward pass, such as a checkpoint; None for nobody."""
    return None if torch.compiler.is_compiling() else _hooks_on_top(True)


class Ready:
    """A blocked tensor that is there."""

    ready = True
    absorbed = False

    requires_grad: bool
    shape: torch.Size

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor if tensor.is_contiguous() else tensor.contiguous()
        self.requires_grad = tensor.requires_grad
        self.shape = tensor.shape

    def tensor(self) -> Tensor:
        """Returns the blocked tensor."""
        return self._tensor


class Unchanged:
    """Parameters that must be, when a call is computed, what they were when it was made."""

    def __init__(self, *tensors: Tensor | None) -> None:
        self.tensors = [tensor for tensor in tensors if tensor is not None and not tensor.is_inference()]
        self.versions = [tensor._version for tensor in self.tensors]

    def check(self, what: str) -> None:
        """Raises RuntimeError where one has changed."""
        if self.versions != [tensor._version for tensor in self.tensors]:
            raise RuntimeError(
                f"The output of a {what} is read for the first time after its weights or statistics were changed, "
                "by an optimizer's step or load_state_dict(); so it can no longer be computed. "
                "Read it in the forward pass: x = x.contiguous() gives an ordinary tensor."
            )


class Product:
    """One call of a sparse layer: input, active weights and bias, as they were when it was called."""

    def __init__(self, x: Tensor, values: Tensor, bias: Tensor | None, stream: Stream, handle: int) -> None:
        self.x, self.values, self.bias, self.stream, self.handle = x, values, bias, stream, handle
        geometry = stream.geometry
        self.shape = torch.Size((x.shape[0], geometry.out, *geometry.out_size(*x.shape[2:4]), x.shape[4]))
        self._read = Unchanged(values, bias)

    def requires_grad(self) -> bool:
        """Returns whether its output has a gradient to pass on."""
        return any(tensor is not None and tensor.requires_grad for tensor in (self.x, self.values, self.bias))

    def run(self, residual: Tensor | None, relu: bool) -> Tensor:
        """Returns the layer's output, plus residual, then ReLU; the ReLU alone joins the kernel."""
        self._read.check("sparse layer")
        y = sparse_layer(self.x, self.values, self.bias, self.stream, self.handle, relu and residual is None)
        if residual is None:
            return y
        return torch.relu(y + residual) if relu else y + residual


class Norm:
    """One call of a batch norm: input, parameters and statistics, as they were when it was called."""

    _counted = True  # until all is known

    def __init__(
        self,
        x: Tensor,
        rows: int,
        running: tuple[Tensor, Tensor] | None,
        gamma: Tensor | None,
        beta: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
    ) -> None:
        self.x, self.rows, self.running, self.gamma, self.beta = x, rows, running, gamma, beta
        self.training, self.momentum, self.eps = training, momentum, eps
        self.shape = x.shape
        self._read = Unchanged(*((gamma, beta) if running is None or training else (gamma, beta, *running)))
        self._counted = False

    def requires_grad(self) -> bool:
        """Returns whether its output has a gradient to pass on."""
        return any(tensor is not None and tensor.requires_grad for tensor in (self.x, self.gamma, self.beta))

    def run(self, residual: Tensor | None, relu: bool) -> Tensor:
        """Returns the normalised x, plus residual, then ReLU; the first time, the running statistics take part."""
        self._read.check("batch norm")
        if not self.training:
            assert self.running is not None
            return batch_norm_eval(self.x, *self.running, self.gamma, self.beta, residual, self.rows, relu, self.eps)
        y, mean, _, variance = batch_norm_train(self.x, self.gamma, self.beta, residual, self.rows, relu, self.eps)
        self._count(mean, variance)
        return y

    def _count(self, mean: Tensor, variance: Tensor) -> None:
        """Takes the batch into the running statistics, once."""
        if self.running is not None and not self._counted:
            self._counted = True
            with torch.no_grad():
                for running, found in zip(self.running, (mean, variance), strict=True):
                    running.lerp_(found, self.momentum)

    def __del__(self) -> None:
        # torch counts a batch whose result nobody reads as well.
        if not self._counted and self.training and self.running is not None and not sys.is_finalizing():
            with recording(False):
                _, mean, _, variance = batch_norm_train(self.x, None, None, None, self.rows, False, self.eps)
                self._count(mean, variance)


class Pending:
    """A call that has not run yet, with the addition and the ReLU that have joined it.

    parent: the same without the last of them. Where somebody has asked for the parent meanwhile, it is gone on from.
    """

    requires_grad: bool
    shape: torch.Size

    def __init__(self, call: Norm | Product, residual: Value | None, relu: bool, parent: Pending | None) -> None:
        self.call: Norm | Product | None = call  # None once it has run
        self.residual, self.relu, self.parent = residual, relu, parent
        self.shape = call.shape
        self.absorbed = False  # into a later value, which is computed without this one
        self._tensor: Tensor | None = None
        self._gradients = torch.is_grad_enabled()  # never so in inference mode
        self._hooks = _top_hooks()
        needed = call.requires_grad() or (residual is not None and residual.requires_grad)
        self.requires_grad = self._gradients and needed
        if self._hooks is not None:  # inside a checkpoint, which must see all that its part saves: nothing waits
            self.tensor()

    @property
    def ready(self) -> bool:
        return self._tensor is not None

    def tensor(self) -> Tensor:
        """Returns the blocked tensor, computed now if it was not before."""
        if self._tensor is None:
            if torch.is_grad_enabled() == self._gradients and _top_hooks() == self._hooks:
                self._tensor = self._computed()  # the usual case
            else:
                with _as_then(self._gradients, self._hooks):
                    self._tensor = self._computed()
            self.call = self.residual = self.parent = None  # let go of their tensors
        return self._tensor

    def _computed(self) -> Tensor:
        ancestors = []
        ancestor = self.parent
        while ancestor is not None:
            if ancestor.ready:
                assert self.parent is not None
                before = self.parent.tensor()
                if self.relu:
                    return torch.relu(before)
                assert self.residual is not None
                return before + self.residual.tensor()
            ancestors.append(ancestor)
            ancestor = ancestor.parent
        assert self.call is not None
        y = self.call.run(None if self.residual is None else self.residual.tensor(), self.relu)
        for absorbed in ancestors:
            absorbed.absorbed = True
        return y


Value = Ready | Pending


@contextlib.contextmanager
def recording(gradients: bool) -> Iterator[None]:
    """Records gradients or not; what is made is an ordinary tensor that counts its changes, in inference mode too."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            yield
    elif torch.is_grad_enabled() != gradients:
        with torch.set_grad_enabled(gradients):
            yield
    else:
        yield


@contextlib.contextmanager
def _as_then(gradients: bool, hooks: Any) -> Iterator[None]:
    """Computes as when a value was made: whether gradients were recorded, and who was to save the tensors for them.

    A checkpoint counts what is saved inside it. What was called outside and is only computed inside is not its own.
    """
    pack, unpack = hooks or (_same, _same)
    with recording(gradients), torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def _same(tensor: Any) -> Any:
    return tensor


def relu_of(value: Value) -> Value:
    """Returns ReLU of a value; a call that waits takes it in."""
    if isinstance(value, Pending) and value.call is not None and not value.relu:
        return Pending(value.call, value.residual, True, value)
    return Ready(torch.relu(value.tensor()))


def add_of(left: Value, right: Value) -> Value:
    """Returns the sum of two values of one shape; of two batch norms that wait, the first takes in the other's."""
    for host, guest in ((left, right), (right, left)):
        alone = isinstance(host, Pending) and not host.relu and host.residual is None
        if isinstance(host, Pending) and alone and isinstance(host.call, Norm) and host is not guest:
            return Pending(host.call, guest, False, host)
    return Ready(left.tensor() + right.tensor())
