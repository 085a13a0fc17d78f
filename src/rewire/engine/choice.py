"""engine="auto": each layer is measured once on this machine, and runs with the faster of masked and the CPU engine.

One forward pass of a copy of the model shows the inputs that each layer meets. Then every layer takes a few training
steps alone, both ways, in turns: forward, backward, and what its storage and SGD with momentum, which stands for the
optimizer, do behind it. Between a layer in the blocked layout and one outside, an activation is converted, which is
measured too: of all choices the one is taken whose layers and conversions together are fastest, the layers taken as a
chain in the order in which they run. Batch norm and the like between them, faster in the layout too, do not count.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from rewire.core.names import unwrap
from rewire.core.structure import Unstructured
from rewire.engine import blocked
from rewire.engine.modules import geometry
from rewire.engine.swap import pack_
from rewire.layers import SparseWeight
from rewire.masked import Masked

SECONDS, ROUNDS = 0.3, 100  # of one measurement, at most; a slow layer warms up once and is measured once


@dataclass(frozen=True)
class Choice:
    """What runs a layer, and why: milliseconds of a training step of it alone.

    converting_ms: what the conversions cost beside engine_ms where the layers around it run as they were chosen;
    below 0 where a masked layer would need more of them. paid_ms: the conversions before it, and behind the last layer,
    as all was chosen; milliseconds as chosen and these, over all layers, are the time of the whole.
    """

    engine: Literal["cpu", "masked"]
    masked_ms: float
    engine_ms: float
    converting_ms: float
    paid_ms: float

    def __str__(self) -> str:
        if self.engine == "cpu":
            return "cpu"
        return f"masked: {self.masked_ms:.2f} ms, cpu with conversions {self.engine_ms + self.converting_ms:.2f} ms"


@dataclass(frozen=True)
class Sample:
    """An activation as a layer meets it, without its content."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool
    differentiable: bool

    @classmethod
    def of(cls, x: Tensor) -> Sample:
        last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        return cls(tuple(x.shape), x.dtype, last, x.requires_grad)

    def draw(self) -> Tensor:
        """Returns a random tensor of this kind; it does not draw from torch's global state."""
        x = torch.randn(self.shape, generator=torch.Generator().manual_seed(0)).to(self.dtype)
        x = x.contiguous(memory_format=torch.channels_last) if self.channels_last else x
        return x.requires_grad_(self.differentiable)


@dataclass(frozen=True)
class Call:
    """One use of a module that has a weight: its name where the engine can run it, what comes in and what goes out."""

    name: str | None
    first: Sample
    last: Sample


def choose_engines(
    model: nn.Module, modules: Mapping[str, nn.Module], masks: Mapping[str, Bool[Tensor, "..."]], example: Any
) -> dict[str, Choice]:
    """Returns the choice for every layer that the example reaches, by the name of its weight.

    modules: Linear and Conv2d layers of the model that the engine can run, by the same names. masks: their active
    weights. example: one batch as training gives it to the model, a tuple or a dict for several arguments. Measured
    under the autocast, and on as many threads, as are set now. The model is not changed.
    """
    calls = calls_of(model, modules, example)
    uses = {name: [call for call in calls if call.name == name] for name in modules}
    known: dict[Any, tuple[float, float]] = {}
    costs: dict[str, tuple[float, float]] = {}
    for name, module in modules.items():
        for call in uses[name]:
            density = round(float(masks[name].float().mean()), 3)  # budgets of like layers may differ by one weight
            alike = (geometry(module), getattr(module, "bias", None) is None, density, call.first)
            known[alike] = found = known.get(alike) or layer_milliseconds(module, masks[name], call.first)
            before = costs.get(name, (0.0, 0.0))
            costs[name] = before[0] + found[0], before[1] + found[1]
    borders = [call.first for call in calls] + [call.last for call in calls[-1:]]
    converted = {sample: conversion_milliseconds(sample) for sample in dict.fromkeys(borders)} if costs else {}
    edges = [converted[sample] for sample in borders] if costs else []
    repeated = {
        name: costs[name][1] + sum(sum(converted[c.first]) for c in found) < costs[name][0]
        for name, found in uses.items()
        if len(found) > 1
    }
    nodes = []  # what each call costs masked and packed; a call whose engine is fixed has but one
    for call in calls:
        if call.name is None or call.name in repeated:
            packed = call.name is not None and repeated[call.name]
            nodes.append((float("inf"), 0.0) if packed else (0.0, float("inf")))
        else:
            nodes.append(costs[call.name])
    path = cheapest(nodes, edges)
    choices = {}
    for place, call in enumerate(calls):
        if call.name is not None:
            around = (0, *path, 0)[place], (0, *path, 0)[place + 2]
            converting = _crossing(edges, place, around, 1) - _crossing(edges, place, around, 0)
            paid = _edge(edges[place], around[0], path[place])
            if place == len(path) - 1:
                paid += _edge(edges[-1], path[-1], 0)
            choices[call.name] = Choice("cpu" if path[place] else "masked", *costs[call.name], converting, paid)
    return choices


def settled(
    engine: Any,
    model: nn.Module,
    modules: dict[str, nn.Module],
    engines: dict[str, str],
    masks: Mapping[str, Bool[Tensor, "..."]],
    example: Any,
) -> tuple[dict[str, nn.Module], dict[str, str], dict[str, Choice]]:
    """Returns the modules to pack and in words what runs every weight, after a choice where engine="auto"."""
    if engine != "auto" or not modules:
        return modules, engines, {}
    if example is None:
        raise ValueError(
            'engine="auto" measures every layer on one batch, and none was given. Say sparsify(..., engine="auto", '
            'example=images) with a batch as the model gets it in training, or engine="cpu" to measure nothing.'
        )
    choices = choose_engines(model, modules, {name: masks[name] for name in modules}, example)
    words = {name: str(choices.get(name, "masked: the example does not reach it")) for name in modules}
    return {name: module for name, module in modules.items() if words[name] == "cpu"}, engines | words, choices


def calls_of(model: nn.Module, modules: Mapping[str, nn.Module], example: Any) -> list[Call]:
    """Returns the uses of the modules, and of others that have a weight, in the order of one forward pass of a copy."""
    memo: dict[int, Any] = {}
    copied = copy.deepcopy(unwrap(model), memo)
    names = {memo[id(module)]: name for name, module in modules.items()}
    calls: list[Call] = []

    def seen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        first = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        if first is not None and isinstance(output, Tensor):
            calls.append(Call(names.get(module), Sample.of(first), Sample.of(output)))

    for module in copied.modules():
        if module in names or any(parameter.ndim > 1 for parameter in module.parameters(recurse=False)):
            module.register_forward_hook(seen, with_kwargs=True)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        if isinstance(example, Mapping):
            copied(**example)
        else:
            copied(*(example if isinstance(example, tuple) else (example,)))
    return calls


def layer_milliseconds(module: nn.Module, mask: Bool[Tensor, "..."], sample: Sample) -> tuple[float, float]:
    """Returns the time of a training step of a layer alone: masked, and packed with its activations in the layout."""
    dense, sparse = copy.deepcopy(module), copy.deepcopy(module)
    masked, optimizer = _storage(dense, mask)
    replaced, optimizer_of_packed = _storage(sparse, mask)
    pack_(sparse, replaced, optimizer_of_packed)
    x = sample.draw()
    image = isinstance(module, nn.Conv2d)
    rows = x.detach().unsqueeze(0) if image and x.ndim == 3 else x.detach()
    inner = blocked.inner(rows.float(), image=image).requires_grad_(sample.differentiable)
    gradients: dict[torch.Size, Tensor] = {}

    def step_masked() -> None:
        _backward(dense.forward(x), gradients)
        masked.after_gradient_(False)
        optimizer.step()
        masked.zero_inactive_(optimizer.state[masked.parameter])

    def step_packed() -> None:
        _backward(blocked.inner(sparse.forward(blocked.wrap(inner, rows.shape)), image=image), gradients)
        optimizer_of_packed.step()

    masked_ms, packed_ms = milliseconds(step_masked, step_packed)
    return masked_ms, packed_ms


def conversion_milliseconds(sample: Sample) -> tuple[float, float]:
    """Returns the time, there and its gradient back, of an activation's way into the layout, and out of it."""
    x = sample.draw().detach().float()
    image = x.ndim == 4
    inside = blocked.inner(x, image=image).requires_grad_(sample.differentiable)
    x.requires_grad_(sample.differentiable)
    gradients: dict[torch.Size, Tensor] = {}

    def enter() -> None:
        y = blocked.inner(x, image=image)
        if sample.differentiable:
            _backward(y, gradients)

    def leave() -> None:
        y = blocked.plain(blocked.wrap(inside, x.shape))
        if sample.differentiable:
            _backward(y, gradients)

    into, out = milliseconds(enter, leave, seconds=SECONDS / 4)
    return into, out


def milliseconds(*steps: Callable[[], None], seconds: float = SECONDS) -> list[float]:
    """Returns the median time of each step, after a first one; in turns, so that what else runs here hits all alike."""
    times: list[list[float]] = [[] for _ in steps]
    began = time.perf_counter()
    for step in steps:
        step()
    while not times[0] or (len(times[0]) < ROUNDS and time.perf_counter() < began + seconds):
        for step, found in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            found.append(1000 * (time.perf_counter() - start))
    return [statistics.median(found) for found in times]


def cheapest(nodes: Sequence[tuple[float, float]], edges: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Returns 0 (masked) or 1 (packed) for every node of a chain, so that nodes and edges cost least together.

    nodes: cost masked and packed. edges: cost, before every node and behind the last, of the way into the layout and
    out of it. What comes in and goes out is ordinary.

    >>> cheapest([(3, 1), (3, 1)], [(1, 1), (9, 9), (1, 1)]), cheapest([(3, 1)], [(1, 1), (1, 1)])
    ((1, 1), (0,))
    """
    paths: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for node, edge in zip((*nodes, (0.0, float("inf"))), edges, strict=True):
        paths = {
            now: min(
                (cost + node[now] + _edge(edge, before, now), (*path, now)) for before, (cost, path) in paths.items()
            )
            for now in (0, 1)
        }
    return paths[0][1][:-1]


def _edge(edge: tuple[float, float], before: int, now: int) -> float:
    return 0.0 if before == now else edge[before]


def _crossing(edges: Sequence[tuple[float, float]], place: int, around: tuple[int, int], state: int) -> float:
    return _edge(edges[place], around[0], state) + _edge(edges[place + 1], state, around[1])


def _storage(module: nn.Module, mask: Bool[Tensor, "..."]) -> tuple[Masked, torch.optim.Optimizer]:
    """Returns the masked storage of a layer of that topology, and an optimizer of it."""
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    weight.grad = None
    masked = Masked(SparseWeight("weight", weight), Unstructured(), ())
    masked.rewire_(masked.fold(mask)[..., 0], {})
    return masked, torch.optim.SGD([weight], lr=0.0, momentum=0.9)


def _backward(y: Tensor, gradients: dict[torch.Size, Tensor]) -> None:
    """Backward from a random gradient, in the output's own memory format, drawn once for each shape."""
    if y.shape not in gradients:
        gradients[y.shape] = torch.empty_like(y.detach()).normal_(generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", enabled=False):
        y.backward(gradients[y.shape])
