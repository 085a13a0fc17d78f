"""engine="auto": what is measured, and the choice that follows from the figures."""

import copy
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import rewire
from rewire.engine import choice, library
from rewire.engine.choice import Sample, calls_of, cheapest, choose_engines

torch.set_num_threads(1)

pytestmark = pytest.mark.skipif(library.load() is None, reason="no kernels for this machine")

COSTS = st.tuples(st.integers(0, 20), st.integers(0, 20))


def cost(path: tuple[int, ...], nodes: list[tuple[int, int]], edges: list[tuple[int, int]]) -> int:
    borders = zip((0, *path), (*path, 0), edges, strict=True)
    converted = sum(edge[before] for before, now, edge in borders if before != now)
    return converted + sum(node[state] for node, state in zip(nodes, path, strict=True))


@given(st.lists(COSTS, min_size=1, max_size=6), st.data())
def test_no_path_is_cheaper(nodes: list[tuple[int, int]], data: st.DataObject) -> None:
    edges = data.draw(st.lists(COSTS, min_size=len(nodes) + 1, max_size=len(nodes) + 1))
    best = min(cost(path, nodes, edges) for path in product((0, 1), repeat=len(nodes)))
    assert cost(cheapest(nodes, edges), nodes, edges) == best


@pytest.mark.parametrize(
    ("layers", "conversion", "expected"),
    [
        ([(3.0, 1.0), (1.0, 2.0), (3.0, 1.0)], 0.0, "cpu masked cpu"),
        ([(3.0, 1.0), (1.0, 2.0), (3.0, 1.0)], 0.4, "cpu masked cpu"),
        ([(3.0, 1.0), (1.0, 2.0), (3.0, 1.0)], 0.6, "cpu cpu cpu"),  # leaving and coming back costs more than it gives
        ([(1.0, 2.0), (3.0, 1.0), (1.0, 2.0)], 0.9, "masked cpu masked"),
        ([(1.0, 2.0), (3.0, 1.0), (1.0, 2.0)], 1.1, "masked masked masked"),  # two conversions for one layer
    ],
)
def test_conversions_count(
    layers: list[tuple[float, float]], conversion: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 10), nn.ReLU(), nn.Linear(10, 11))
    figures = dict(zip((model[0].weight.shape, model[2].weight.shape, model[4].weight.shape), layers, strict=True))
    monkeypatch.setattr(choice, "layer_milliseconds", lambda module, mask, sample: figures[mask.shape])
    monkeypatch.setattr(choice, "conversion_milliseconds", lambda sample: (conversion, conversion))
    modules = {f"{place}.weight": model[place] for place in (0, 2, 4)}
    masks = {name: torch.ones_like(module.weight, dtype=torch.bool) for name, module in modules.items()}
    found = choose_engines(model, modules, masks, torch.zeros(4, 8))
    assert " ".join(made.engine for made in found.values()) == expected
    for made, (masked, packed) in zip(found.values(), layers, strict=True):
        assert (made.masked_ms, made.engine_ms) == (masked, packed)
        assert (made.engine == "cpu") == (packed + made.converting_ms <= masked)
        assert ("masked:" in str(made)) == (made.engine == "masked")
    states = [made.engine == "cpu" for made in found.values()]
    crossings = sum(before != now for before, now in zip([False, *states], [*states, False], strict=True))
    assert sum(made.paid_ms for made in found.values()) == pytest.approx(crossings * conversion)


class Branches(nn.Module):
    """A convolution of fixed engine, a layer used twice, one that is never used, dropout and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, groups=1)
        self.norm = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)
        self.unused = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.twice(self.twice(x))
        return self.head(nn.functional.dropout(x, 0.5, self.training).mean((2, 3)) * scale)


def test_the_calls_are_those_of_a_training_step_and_nothing_is_changed() -> None:
    model, images = Branches(), torch.randn(5, 3, 6, 6)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modules = {"twice.weight": model.twice, "head.weight": model.head, "unused.weight": model.unused}
    for example in (images, (images, 2.0), {"x": images}):
        calls = calls_of(model, modules, example)
        assert [call.name for call in calls] == [None, "twice.weight", "twice.weight", "head.weight"]
        assert [call.first.shape for call in calls] == [(5, 3, 6, 6), (5, 4, 6, 6), (5, 4, 6, 6), (5, 4)]
        assert [call.first.differentiable for call in calls] == [False, True, True, True]
        assert calls[-1].last.shape == (5, 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_is_used_twice_has_one_choice_and_one_that_is_not_used_stays_masked() -> None:
    model = Branches()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = rewire.sparsify(
        model, optimizer, rewire.static(), sparsity=0.5, engine="auto", example=torch.randn(5, 3, 6, 6)
    )
    assert sparsifier.engines["unused.weight"] == "masked: the example does not reach it"
    assert set(sparsifier.choices) == {"first.weight", "twice.weight", "head.weight"}
    for name, made in sparsifier.choices.items():
        assert sparsifier.engines[name] == str(made)
        assert min(made.masked_ms, made.engine_ms) > 0
    model(torch.randn(5, 3, 6, 6)).sum().backward()
    optimizer.step()


def test_a_choice_is_repeated_by_its_mapping() -> None:
    def sparse(engine: object) -> rewire.Sparsifier:
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return rewire.sparsify(model, optimizer, rewire.static(), sparsity=0.5, engine=engine)  # type: ignore[arg-type]

    assert sparse({"0.weight": "masked"}).engines == {"0.weight": "masked: chosen", "2.weight": "cpu"}
    assert sparse({"0.weight": "masked", "2.weight": "masked"}).engines == {"0.weight": "masked", "2.weight": "masked"}
    with pytest.raises(ValueError, match=r"engine names 1.weight, which is no sparse layer.* are 0.weight, 2.weight"):
        sparse({"1.weight": "cpu"})
    with pytest.raises(ValueError, match=r"engine=\{'0.weight': 'auto'\} is unknown"):
        sparse({"0.weight": "auto"})
    with pytest.raises(ValueError, match="engine='gpu' is unknown"):
        sparse("gpu")
    with pytest.raises(ValueError, match=r"measures every layer on one batch, and none was given. Say sparsify\("):
        sparse("auto")


def test_what_is_measured_follows_the_cost_of_a_layer() -> None:
    """Of 1024 x 1024 weights one in a hundred is active: no machine multiplies the zeros faster than it skips them."""
    layer, mask = nn.Linear(1024, 1024), torch.rand(1024, 1024) < 0.01
    masked, packed = choice.layer_milliseconds(layer, mask, Sample((256, 1024), torch.float32, False, True))
    assert packed < masked
    assert layer.weight.grad is None
    assert layer.weight.shape == (1024, 1024)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_kinds_of_inputs(autocast: bool, last: bool) -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1)
    dtype = torch.bfloat16 if autocast else torch.float32
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        sample = Sample((3, 4, 5, 5), dtype, last, True)
        assert Sample.of(sample.draw()) == sample
        assert min(choice.layer_milliseconds(layer, torch.rand(4, 4, 3, 3) < 0.5, sample)) > 0
        assert min(choice.conversion_milliseconds(sample)) > 0
