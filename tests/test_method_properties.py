"""Random runs of every method beside its rule, which is told once more in plain Python.

Weights and gradients are small whole numbers, so that ties are everywhere: they go to the lower place.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import pytest
import torch
from by_hand import FIRST, SECOND, Run, draws, gumbels
from core.test_topological import by_enumeration
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rewire

torch.set_num_threads(1)

STEPS, SHAPES = 7, {FIRST: (3, 4), SECOND: (2, 3)}
few = settings(max_examples=12)
seeds = st.integers(0, 10_000)


class Seen(NamedTuple):
    """What one update of a layer found, and the places that are active after it."""

    active: set[int]
    weight: list[float]
    gradient: list[float]
    draw: list[float]
    buffers: dict[str, list[float]]
    after: set[int]


def traced(method: rewire.Method, seed: int, **options: object) -> Iterator[tuple[int, Run, dict[str, Seen]]]:
    """A run of random gradients, with lr 1: every step with what its update found, the buffers as before the step."""
    generator = torch.Generator().manual_seed(seed)

    def whole(shape: tuple[int, int]) -> Tensor:
        return torch.randint(-2, 3, shape, generator=generator).double()

    weights = [" / ".join(" ".join(map(str, row)) for row in whole(shape).tolist()) for shape in SHAPES.values()]
    run = Run(method, (weights[0], weights[1]), **{"sparsity": 0.5, **options})
    for step in range(1, STEPS + 1):
        gradients = {name: whole(shape) for name, shape in SHAPES.items()}
        before, buffers = run.sparsifier.masks, run.sparsifier.state_dict()["layers"]
        stepped = [w - g for w, g in zip(run.weights, gradients.values(), strict=True)]
        run.step(*gradients.values())
        yield (
            step,
            run,
            {
                name: Seen(
                    set(places(before[name])),
                    torch.where(before[name], weight, 0).flatten().tolist(),
                    gradients[name].flatten().tolist(),
                    draws(name, step, shape).flatten().tolist(),
                    {key: buffer.flatten().tolist() for key, buffer in buffers[name]["buffers"].items()},
                    set(places(run.sparsifier.masks[name])),
                )
                for (name, shape), weight in zip(SHAPES.items(), stepped, strict=True)
            },
        )


def places(mask: Tensor) -> list[int]:
    return [place for place, active in enumerate(mask.flatten().tolist()) if active]


def best(scores: Sequence[float], candidates: Iterable[int], count: int) -> set[int]:
    return set(sorted(candidates, key=lambda place: (-scores[place], place))[:count])


def grown(scores: Sequence[float], kept: set[int], end: int, never: frozenset[int] = frozenset()) -> set[int]:
    return kept | best(scores, set(range(len(scores))) - kept - never, end - len(kept))


def sizes(values: Iterable[float]) -> list[float]:
    return [abs(value) for value in values]


# ---- a budget for every layer

WITHIN: dict[str, tuple[rewire.Method, Callable[[Seen], list[float]], Callable[[Seen], list[float]]]] = {
    "set": (rewire.set_(STEPS, every=1), lambda seen: sizes(seen.weight), lambda seen: seen.draw),
    "set_itop": (rewire.set_itop(STEPS, every=1), lambda seen: sizes(seen.weight), lambda seen: seen.draw),
    "rigl": (rewire.rigl(STEPS, every=1), lambda seen: sizes(seen.weight), lambda seen: sizes(seen.gradient)),
    "rigl_itop": (rewire.rigl_itop(STEPS, every=2), lambda seen: sizes(seen.weight), lambda seen: sizes(seen.gradient)),
    "mest": (
        rewire.mest(STEPS, every=1, penalty=0.5),
        lambda seen: [abs(w) + 0.5 * abs(g) for w, g in zip(seen.weight, seen.gradient, strict=True)],
        lambda seen: seen.draw,
    ),
}


@pytest.mark.parametrize("name", WITHIN)
@few
@given(seed=seeds)
def test_drop_and_grow(name: str, seed: int) -> None:
    method, drop, grow = WITHIN[name]
    for step, _, layers in traced(method, seed):
        for seen in layers.values():
            moved = math.ceil(method.fraction(step) * len(seen.active)) if method.due(step) else 0
            kept = best(drop(seen), seen.active, len(seen.active) - moved)
            assert seen.after == grown(grow(seen), kept, len(seen.active))


@few
@given(seed=seeds, c=st.sampled_from([0.0, 0.5, 2.0]))
def test_dst_ee(seed: int, c: float) -> None:
    method = rewire.dst_ee(STEPS, every=1, c=c, eps=0.5)
    visits: dict[str, list[int]] = {}
    for step, _, layers in traced(method, seed):
        for name, seen in layers.items():
            held = visits.setdefault(name, [int(place in seen.active) for place in range(len(seen.weight))])
            if not method.due(step):
                assert seen.after == seen.active
                continue
            bonus = [c * math.log(step) / (count + 0.5) for count in held]
            scores = [abs(g) + b for g, b in zip(seen.gradient, bonus, strict=True)]
            moved = math.ceil(method.fraction(step) * len(seen.active))
            kept = best(sizes(seen.weight), seen.active, len(seen.active) - moved)
            assert seen.after == grown(scores, kept, len(seen.active))
            visits[name] = [count + (place in seen.after) for place, count in enumerate(held)]


@few
@given(seed=seeds)
def test_chts(seed: int) -> None:
    method = rewire.chts(STEPS, every=1, power=1.0, end_power=3.0)
    for step, _, layers in traced(method, seed):
        for name, seen in layers.items():
            if not method.due(step):
                assert seen.after == seen.active
                continue
            shape, size = SHAPES[name], len(seen.active)
            spared, lots = (gumbels(name, step, shape, stream=stream).flatten().tolist() for stream in (0, 1))
            power = 1 + 2 * step / STEPS
            strength = [
                power * math.log(abs(w)) + g if w else g - 1e3 for w, g in zip(seen.weight, spared, strict=True)
            ]
            kept = best(strength, seen.active, size - math.ceil(0.3 * size))
            links = [[row * shape[1] + column in kept for column in range(shape[1])] for row in range(shape[0])]
            paths = [score for row in by_enumeration(links) for score in row]
            draw = [math.log(score) + g if score else g - 1e3 for score, g in zip(paths, lots, strict=True)]
            assert seen.after == grown(draw, kept, size)


@few
@given(seed=seeds)
def test_top_kast(seed: int) -> None:
    method = rewire.top_kast(STEPS, every=2, trained=1.5, penalty=0.25)
    before: dict[str, list[float]] = {}
    for step, run, layers in traced(method, seed):
        for (name, seen), weight in zip(layers.items(), run.weights, strict=True):
            trained = places(run.sparsifier.trained[name])
            stored = (weight + run.kept(name, "reservoir")).flatten().tolist()  # either is 0
            if method.due(step):
                assert seen.after == best(sizes(stored), range(len(stored)), len(seen.active))
                assert set(trained) == best(sizes(stored), range(len(stored)), math.ceil(1.5 * len(seen.active)))
            elif step > 1:
                assert all(stored[place] == before[name][place] for place in range(len(stored)) if place not in trained)
            before[name] = stored
        assert sum(run.counts) == 9


@few
@given(seed=seeds)
def test_soft_mest(seed: int) -> None:
    method = rewire.mest(STEPS, every=1, penalty=0.0, soft=True)
    for step, run, layers in traced(method, seed, distribution="uniform"):
        for seen, planned in zip(layers.values(), (6, 3), strict=True):
            end = planned + math.ceil(method.fraction(step) * planned) if step < STEPS else planned
            assert seen.after == grown(seen.draw, best(sizes(seen.weight), seen.active, planned), end)
        assert step < STEPS - 1 or run.counts == (6, 3)


@few
@given(seed=seeds)
def test_srigl_gives_all_living_neurons_the_same_fan_in(seed: int) -> None:
    for _, run, layers in traced(rewire.srigl(STEPS, every=1, stop=1.0, ablation=0.6), seed, distribution="uniform"):
        for (name, mask), planned in zip(run.sparsifier.masks.items(), (6, 2), strict=True):
            fan_in = [count for count in mask.sum(1).tolist() if count]
            assert len(set(fan_in)) == 1, name
            assert planned - len(fan_in) < sum(fan_in) <= planned
        for (_, inputs), seen in zip(SHAPES.values(), layers.values(), strict=True):
            for place in seen.after - seen.active:  # what a neuron grew is of no smaller gradient than what it left
                neuron = set(range(place // inputs * inputs, (place // inputs + 1) * inputs))
                assert all(abs(seen.gradient[place]) >= abs(seen.gradient[other]) for other in neuron - seen.after)


# ---- a budget that moves between layers


@few
@given(seed=seeds)
def test_snfs(seed: int) -> None:
    method = rewire.snfs(STEPS, every=1, decay=0.5)
    for step, run, layers in traced(method, seed):
        assert sum(run.counts) == 9
        for name, seen in layers.items():
            full = len(seen.active) == len(seen.weight)
            moved = 0 if full or not method.due(step) else math.ceil(method.fraction(step) * len(seen.active))
            kept = best(sizes(seen.weight), seen.active, len(seen.active) - moved)
            mean = sizes(run.kept(name, "gradient_mean_0.5").flatten().tolist())
            assert seen.after == grown(mean, kept, len(seen.after))
            assert seen.after


@few
@given(seed=seeds)
def test_dsr(seed: int) -> None:
    threshold = 1.5
    for step, run, layers in traced(rewire.dsr(STEPS, every=1, fraction=0.3, threshold=threshold), seed):
        assert sum(run.counts) == 9
        gone = 0
        for seen in layers.values():
            above = {place for place in seen.active if abs(seen.weight[place]) >= threshold}
            kept = above or best(sizes(seen.weight), seen.active, 1)
            if step < STEPS:
                gone += len(seen.active) - len(kept)
                assert seen.after == grown(seen.draw, kept, len(seen.after))
        if step < STEPS:
            threshold *= 2 if gone < 0.9 * 0.3 * 9 else 0.5 if gone > 1.1 * 0.3 * 9 else 1
        assert run.sparsifier.state_dict()["memory"] == {"threshold": threshold}


@few
@given(seed=seeds)
def test_deep_r(seed: int) -> None:
    for step, run, layers in traced(rewire.deep_r(STEPS, decay=0.5), seed):
        assert sum(run.counts) == 9
        assert min(run.counts) >= 1
        for name, seen in layers.items():
            signs = seen.buffers["sign_at_birth"]
            held = {place for place in seen.active if (seen.weight[place] - 0.5 * signs[place]) * signs[place] >= 0}
            if step < STEPS:
                assert held <= seen.after
                if len(seen.active) < len(seen.weight):
                    assert not seen.after & (seen.active - held)
                assert seen.after == grown(seen.draw, seen.after & seen.active, len(seen.after), frozenset(seen.active))
            now = run.kept(name, "sign_at_birth").flatten().tolist()
            assert all(now[place] == signs[place] for place in seen.active)


# ---- a density that moves


@pytest.mark.filterwarnings("ignore:The budget would leave")
@few
@given(seed=seeds)
def test_granet(seed: int) -> None:
    method = rewire.granet(STEPS, every=1, initial_sparsity=0.25)
    last = int(0.75 * STEPS)
    for step, run, layers in traced(method, seed, sparsity=0.75):
        assert sum(run.counts) == round(18 * (1 - (0.75 - 0.5 * (1 - min(step, last) / last) ** 3)))
        if not method.due(step):
            continue
        ranked = {}
        for name, seen in layers.items():
            end = len(seen.after)
            kept = best(sizes(seen.weight), seen.active, end - math.ceil(method.fraction(step) * end))
            assert seen.after == grown(sizes(seen.gradient), kept, end)
            ranked[name] = sorted((abs(seen.weight[place]) for place in seen.active), reverse=True)
        for name, seen in layers.items():  # the last that stays of one layer is no smaller than the first to go of all
            for other, theirs in layers.items():
                if len(seen.after) > 1 and len(theirs.after) < len(ranked[other]):
                    assert ranked[name][len(seen.after) - 1] >= ranked[other][len(theirs.after)]


@pytest.mark.parametrize("name", ["gmp", "ac_dc", "admm"])
@few
@given(seed=seeds)
def test_the_largest_of_each_layer_stay(name: str, seed: int) -> None:
    options = {"admm": {"rho": 1e-9, "reweight": 0.2, "prune": 0.5}}.get(name, {})
    method = getattr(rewire, name)(STEPS, every=1, **options)
    for step, run, layers in traced(method, seed, sparsity=0.75):
        assert sum(run.counts) == round(18 * method.density(step, 0.25))
        for seen in layers.values():
            if len(seen.after) < len(seen.weight) and name != "admm":
                assert seen.after == best(sizes(seen.weight), seen.active, len(seen.after))
            elif len(seen.after) < len(seen.active):  # the pull is too weak to change the order, but not ties
                least = min(abs(seen.weight[place]) for place in seen.after)
                assert all(abs(seen.weight[place]) <= least + 1e-6 for place in seen.active - seen.after)


@few
@given(seed=seeds, sparsity=st.sampled_from([0.0, 0.3, 0.5, 0.8]))
def test_str_ends_with_the_budget_and_the_largest_values(seed: int, sparsity: float) -> None:
    method = rewire.str_(STEPS, fold=0.5)
    for step, run, _ in traced(method, seed, sparsity=sparsity):
        assert sum(run.counts) == (18 if step < 3 else round(18 * (1 - sparsity)))
