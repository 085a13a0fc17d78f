"""Torch ops of batch norm in the blocked layout, with the addition and the ReLU that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rewire.engine.layout_ops import threads
from rewire.engine.library import kernels
from rewire.engine.op import Op


def _pointer(x: Tensor | None) -> int | None:
    """Returns where the numbers of x are, None for none."""
    return None if x is None else x.data_ptr()


def _places(x: Tensor) -> tuple[int, int]:
    """Returns channels and places of a channel."""
    return x.shape[1], x.shape[2] * x.shape[3]


def _train_cpu(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, residual: Tensor | None, rows: int, relu: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    results = _train_fake(x, gamma, beta, residual, rows, relu, eps)
    inputs = [_pointer(tensor) for tensor in (x, gamma, beta, residual)]
    outputs = [tensor.data_ptr() for tensor in results]
    kernels().rw_batch_norm_train(rows, *_places(x), *inputs, relu, eps, *outputs, threads(x))
    return results


def _train_fake(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, residual: Tensor | None, rows: int, relu: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    mean, inverse, variance = (x.new_empty(x.shape[1]) for _ in range(3))
    return torch.empty_like(x, memory_format=torch.contiguous_format), mean, inverse, variance


def _eval_cpu(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    rows: int,
    relu: bool,
    eps: float,
) -> Tensor:
    x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    y = torch.empty_like(x)
    inputs = [_pointer(tensor) for tensor in (x, mean, variance, gamma, beta, residual)]
    kernels().rw_batch_norm_eval(rows, *_places(x), *inputs, relu, eps, y.data_ptr(), threads(x))
    return y


def _backward_cpu(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    rows: int,
    training: bool,
    relu: bool,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dy, x = dy.contiguous(), x.contiguous()
    results = _backward_fake(dy, x, y, mean, inverse, gamma, beta, rows, training, relu, wanted)
    dx, dgamma, dbeta, dresidual = results
    inputs = [_pointer(tensor) for tensor in (dy, x, y, mean, inverse, gamma, beta)]
    outputs = [
        _pointer(dx if wanted[0] else None),
        dgamma.data_ptr(),
        dbeta.data_ptr(),
        _pointer(dresidual if wanted[1] else None),
    ]
    kernels().rw_batch_norm_backward(rows, *_places(x), training, relu, *inputs, *outputs, threads(x))
    return results


def _backward_fake(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    rows: int,
    training: bool,
    relu: bool,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dresidual = (x.new_empty(x.shape if asked else (0,)) for asked in wanted)
    return dx, torch.empty_like(mean), torch.empty_like(mean), dresidual


_train = Op(
    "batch_norm_train(Tensor x, Tensor? gamma, Tensor? beta, Tensor? residual, SymInt rows, bool relu, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _train_cpu,
    _train_fake,
)
_eval = Op(
    "batch_norm_eval(Tensor x, Tensor mean, Tensor variance, Tensor? gamma, Tensor? beta, Tensor? residual, "
    "SymInt rows, bool relu, float eps) -> Tensor",
    _eval_cpu,
    lambda x, *others: torch.empty_like(x, memory_format=torch.contiguous_format),
)
_norm_backward = Op(
    "batch_norm_backward(Tensor dy, Tensor x, Tensor? y, Tensor mean, Tensor inverse, Tensor? gamma, Tensor? beta, "
    "SymInt rows, bool training, bool relu, bool[2] wanted) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward_cpu,
    _backward_fake,
)


def _train_setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, gamma, beta, residual, ctx.rows, ctx.relu, _ = inputs
    y, mean, inverse, variance = output
    ctx.mark_non_differentiable(mean, inverse, variance)
    ctx.set_materialize_grads(False)
    # Behind a ReLU alone y is found again from x, which is faster than to read it and keeps nothing for it.
    ctx.save_for_backward(x, y if ctx.relu and residual is not None else None, mean, inverse, gamma, beta)
    ctx.residual, ctx.training = residual is not None, True


def _eval_setup(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, mean, variance, gamma, beta, residual, ctx.rows, ctx.relu, eps = inputs
    inverse = (variance.detach().double() + eps).rsqrt().to(x.dtype)  # in double, as the kernel does
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, output if ctx.relu and residual is not None else None, mean, inverse, gamma, beta)
    ctx.residual, ctx.training = residual is not None, False


def _gradients(ctx: Any, dy: Tensor, needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Returns the gradients of x, gamma, beta and residual that are needed."""
    x, y, mean, inverse, gamma, beta = ctx.saved_tensors
    keep = ctx.relu and needs[3]
    dx, dgamma, dbeta, dresidual = _norm_backward(
        dy, x, y, mean, inverse, gamma, beta, ctx.rows, ctx.training, ctx.relu, [needs[0], keep]
    )
    found = (dx, dgamma, dbeta, dresidual if keep else dy)
    return tuple(gradient if needed else None for gradient, needed in zip(found, needs, strict=True))


@once_differentiable
def _train_backward(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Any, ...]:
    gradients = (None,) * 4 if dy is None else _gradients(ctx, dy, ctx.needs_input_grad[:4])
    return (*gradients, None, None, None)


@once_differentiable
def _eval_backward(ctx: Any, dy: Tensor | None) -> tuple[Any, ...]:
    needs = ctx.needs_input_grad
    dx, dgamma, dbeta, dresidual = (None,) * 4 if dy is None else _gradients(ctx, dy, (needs[0], *needs[3:6]))
    return dx, None, None, dgamma, dbeta, dresidual, None, None, None


_train.differentiable(_train_setup, _train_backward)
_eval.differentiable(_eval_setup, _eval_backward)


def batch_norm_train(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, residual: Tensor | None, rows: int, relu: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns batch norm by the statistics of the batch, and mean, 1 / sqrt(var + eps) and the unbiased variance.

    y = (x - mean) / sqrt(var + eps) * gamma + beta, plus residual where given, then ReLU where asked; all blocked.
    """
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _train(x, gamma, beta, residual, rows, relu, eps)
    return result


def batch_norm_eval(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    rows: int,
    relu: bool,
    eps: float,
) -> Tensor:
    """Returns batch norm by given statistics, which are constants; else as `batch_norm_train`."""
    y: Tensor = _eval(x, mean, variance, gamma, beta, residual, rows, relu, eps)
    return y
