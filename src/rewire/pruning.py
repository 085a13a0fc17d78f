"""Pruning before training: SNIP, GraSP and SynFlow.

Each calls the model with weights and buffers of its own, through `torch.func.functional_call`. So the user's weights,
gradients and running statistics are never touched, and are what they were also where something raises.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.dropout import _DropoutNd
from torch.utils import _pytree

from rewire.core.names import plain_name
from rewire.core.pruner import Batch, Loss, Pruner, arguments


@dataclass(frozen=True)
class Snip(Pruner):
    """Connection sensitivity: abs(w * dL/dw), of the mean loss L of the first `batches` batches.

    To first order it is how much the loss changes where the weight is taken away. The model runs in the mode that it
    is in (a batch norm in training mode takes the batch's own statistics), but with its dropout modules off.

    Reference: Lee et al., SNIP: Single-shot Network Pruning based on Connection Sensitivity, ICLR 2019, section 4,
    https://arxiv.org/abs/1810.02340

    >>> Snip(batches=4)
    Snip(batches=4)
    """

    batches: int = 1

    def __post_init__(self) -> None:
        _check_count(self, "batches")

    def scores(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Sequence[Batch], loss: Loss | None
    ) -> dict[str, Tensor]:
        leaves = _leaves(model, weights)
        with _undisturbed(model, _DropoutNd):
            gradient = _mean(_gradients(self, model, leaves, batches, loss), leaves, len(batches))
        return {name: product.abs() for name, product in _products(weights, gradient).items()}


@dataclass(frozen=True)
class GraSP(Pruner):
    """Gradient signal preservation: w * (H g), of the mean loss of the first `batches` batches.

    g: the gradient of the loss by all sparse weights. H: its Hessian. Taking a weight away changes g . g by
    2 (-w) (H g) to first order. The paper calls S(-w) = -w (H g) the score and removes the highest, without which the
    gradient would be largest; what is kept are the highest of +w (H g).

    temperature: the model's output is divided by it before the loss, as in the authors' code, so that the softmax of
    an untrained network is nearly even. Use 1 where the output is not logits, or not one Tensor.
    The model runs in the same mode as for `Snip`, and must be twice differentiable.

    Reference: Wang et al., Picking Winning Tickets Before Training by Preserving Gradient Flow, ICLR 2020,
    https://arxiv.org/abs/2002.07376
    """

    batches: int = 1
    temperature: float = 200

    def __post_init__(self) -> None:
        _check_count(self, "batches")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(
                f"temperature={self.temperature} divides the model's output, which leaves no loss to score by. Use a "
                "positive number, such as temperature=200."
            )

    def scores(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Sequence[Batch], loss: Loss | None
    ) -> dict[str, Tensor]:
        leaves = _leaves(model, weights)
        with _undisturbed(model, _DropoutNd):
            once = _gradients(self, model, leaves, batches, loss, self.temperature)
            gradient = _mean(once, leaves, len(batches))
            twice = _gradients(self, model, leaves, batches, loss, self.temperature, create_graph=True)
            curved = (self._hessian_times(gradient, each, leaves) for each in twice)
            product = _mean(curved, leaves, len(batches))
        return _products(weights, product)

    def _hessian_times(
        self, vector: Sequence[Tensor], gradient: Sequence[Tensor], leaves: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """The derivative of vector . gradient by the leaves."""
        inner = torch.stack([(v * g).sum() for v, g in zip(vector, gradient, strict=True)]).sum()
        if not inner.requires_grad:
            raise ValueError(
                f"{self} scores by the second derivative of the loss, which is 0 everywhere. Use Snip(), or a loss "
                "that is not linear in the output, such as torch.nn.functional.cross_entropy."
            )
        try:
            _check_twice(inner)
            return torch.autograd.grad(inner, tuple(leaves.values()), materialize_grads=True)
        except RuntimeError as error:
            raise ValueError(
                f"{self} needs the second derivative of the loss, which a part of the model does not have ({error}). "
                "Use Snip(), or another implementation of that part."
            ) from error


@dataclass(frozen=True)
class SynFlow(Pruner):
    """Synaptic flow: abs(w * dR/dw), where R sums the outputs of the model with absolute parameters on ones.

    It needs no data: of the first batch it reads the input's shape alone, of one example. (Tensors of whole numbers,
    such as token ids, are kept, because ones may mean nothing there.) R is taken in float64, which deep networks
    overflow late, and in eval mode: by the statistics of the ones themselves a batch norm would pass nothing on, by
    its running statistics, before training, it passes on what it gets.

    `rounds` of falling density keep layers from collapsing: the scores of every layer sum to the same R, so what is
    left of a small layer scores higher in the next round.

    Reference: Tanaka et al., Pruning neural networks without any data by iteratively conserving synaptic flow, NeurIPS
    2020, section 6, https://arxiv.org/abs/2006.05467
    """

    rounds: int = 100
    labelled = False

    def __post_init__(self) -> None:
        _check_count(self, "rounds")

    def scores(
        self, model: nn.Module, weights: Mapping[str, Tensor], batches: Sequence[Batch], loss: Loss | None = None
    ) -> dict[str, Tensor]:
        try:
            leaves = _leaves(model, {name: weight.abs().double() for name, weight in weights.items()})
            rest = {name: _double(p.detach().abs()) for name, p in model.named_parameters() if name not in leaves}
            buffers = {name: _double(buffer.clone()) for name, buffer in model.named_buffers()}
            with _undisturbed(model, nn.Module):
                ones = _ones(batches[0][0])
                outputs = _pytree.tree_leaves(_run(model, leaves | rest | buffers, ones))
                flow = torch.stack([o.sum() for o in outputs if isinstance(o, Tensor) and o.is_floating_point()]).sum()
                gradient = torch.autograd.grad(flow, tuple(leaves.values()), materialize_grads=True)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self} differentiates the model in float64, with absolute weights on an input of ones, which failed "
                f"({error}). Let it compute in its weights' type and change none of them in place, or use Snip()."
            ) from error
        if not bool(flow.isfinite()):
            raise FloatingPointError(
                f"{self} sums the outputs to {flow.item()}, because absolute weights overflow float64 in this model. "
                "Scale its initial weights down, or use Snip()."
            )
        return {name: product.abs() for name, product in _products(weights, gradient).items()}


@contextmanager
def _undisturbed(model: nn.Module, kind: type[nn.Module]) -> Iterator[None]:
    """Gradients on, modules of that kind in eval mode; modes and torch's random state are put back afterwards."""
    training = [module for module in model.modules() if isinstance(module, kind) and module.training]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        for module in training:
            module.training = False
        with torch.random.fork_rng(devices), torch.enable_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _leaves(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the weights to differentiate by, under the names that the model itself has for them."""
    names = {plain_name(name): name for name, _ in model.named_parameters()}
    return {names[name]: weight.detach().clone().requires_grad_() for name, weight in weights.items()}


def _run(model: nn.Module, tensors: Mapping[str, Tensor], inputs: Any) -> Any:
    """The model's output with these parameters and buffers."""
    return functional_call(model, dict(tensors), *arguments(_beside(tensors, inputs)))


def _beside(tensors: Mapping[str, Tensor], value: Any) -> Any:
    """A batch on the device of the model's tensors."""
    device = next(iter(tensors.values())).device
    return _pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), value)


def _gradients(
    pruner: Pruner,
    model: nn.Module,
    leaves: Mapping[str, Tensor],
    batches: Sequence[Batch],
    loss: Loss | None,
    temperature: float = 1.0,
    create_graph: bool = False,
) -> Iterator[tuple[Tensor, ...]]:
    """The gradient of the loss of each batch by the leaves, one batch after the other; 0 where it does not reach."""
    assert loss is not None, "a pruner that is labelled gets a loss"
    for number, (inputs, target) in enumerate(batches, start=1):
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        output = _run(model, {**leaves, **buffers}, inputs)
        if temperature != 1:
            if not isinstance(output, Tensor):
                raise TypeError(
                    f"{pruner} divides the model's output by its temperature, but the output is a "
                    f"{type(output).__name__}, not a Tensor. Use temperature=1, and divide the logits in the loss."
                )
            output = output / temperature
        value = loss(output, _beside(leaves, target))
        _check_loss(pruner, value, number)
        yield torch.autograd.grad(value, tuple(leaves.values()), create_graph=create_graph, materialize_grads=True)


def _mean(parts: Iterable[Sequence[Tensor]], like: Mapping[str, Tensor], count: int) -> list[Tensor]:
    """The mean of `count` lists of tensors, of which one at a time is held."""
    total = [torch.zeros_like(leaf, requires_grad=False) for leaf in like.values()]
    for part in parts:
        for mean, tensor in zip(total, part, strict=True):
            mean.add_(tensor.detach(), alpha=1 / count)
    return total


def _products(weights: Mapping[str, Tensor], factors: Iterable[Tensor]) -> dict[str, Tensor]:
    """weight * factor, in float32 at least, because in fewer bits small products would be 0."""
    pairs = zip(weights.items(), factors, strict=True)
    return {
        name: weight.detach().to(torch.promote_types(factor.dtype, torch.float32)) * factor
        for (name, weight), factor in pairs
    }


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _ones(inputs: Any) -> Any:
    """The inputs of one example, ones of float64 in place of their numbers; whole numbers stay.

    Of several tensors all examples: one may hold places in another, as the edges of a graph do.
    """
    alone = sum(isinstance(leaf, Tensor) for leaf in _pytree.tree_leaves(inputs)) == 1

    def replaced(tensor: Tensor) -> Tensor:
        kept = tensor[:1] if alone and tensor.ndim else tensor
        return torch.ones_like(kept, dtype=torch.float64) if tensor.is_floating_point() else kept

    return _pytree.tree_map_only(Tensor, replaced, inputs)


def _check_count(pruner: Pruner, name: str) -> None:
    count = getattr(pruner, name)
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"{name}={count} gives nothing to score by. Use a whole number of at least 1.")


def _check_twice(value: Tensor) -> None:
    """Raises RuntimeError where a `once_differentiable` function made the value: its part would silently count as 0."""
    seen, left = set(), [value.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            if node.name() == "torch::autograd::Error":
                raise RuntimeError("it is marked once_differentiable")
            seen.add(node)
            left += [following for following, _ in node.next_functions]


def _check_loss(pruner: Pruner, value: Any, number: int) -> None:
    """Raises TypeError, ValueError or FloatingPointError where a loss has no gradient to score by."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise TypeError(
            f"The loss of batch {number} is a {type(value).__name__}{shape}, but {pruner} needs one number that "
            "remembers how it was made. Return a mean, such as loss=torch.nn.functional.cross_entropy gives."
        )
    if not value.requires_grad:
        raise ValueError(
            f"The loss of batch {number} has no gradient, so {pruner} has nothing to score by: it does not depend on "
            "the model's weights, or was cut off from them by detach() or argmax(). Make it from the model's output, "
            "such as loss=torch.nn.functional.cross_entropy."
        )
    if not bool(value.isfinite()):
        raise FloatingPointError(
            f"The loss of batch {number} is {value.item()}, so its gradient ranks nothing for {pruner}. Look for "
            "inputs or initial weights that overflow, or give other batches."
        )
