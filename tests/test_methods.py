"""The methods by name, and DST-EE traced against a numpy implementation of its formulas."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from reference import dst_ee_numpy
from torch import nn
from torch.nn import functional as F

import rewire
from rewire.core.acquisition import Exploration
from rewire.core.method import Method
from rewire.core.schedule import Cosine, Every, Exponential
from rewire.core.score import Gradient, GradientMean, Magnitude, Random
from rewire.core.share import Proportional
from rewire.methods.registry import GROUP, Registry

torch.set_num_threads(1)
FIXED = ["dense", "static", "magnitude", "snip", "grasp", "synflow"]
DYNAMIC = [
    "set",
    "set_itop",
    "rigl",
    "rigl_itop",
    "dst_ee",
    "mest",
    "top_kast",
    "srigl",
    "chts",
    "snfs",
    "deep_r",
    "dsr",
]
FALLING = ["gmp", "granet", "ac_dc"]
ONCE = ["admm", "str"]
FRACTION = [name for name in DYNAMIC if name not in ("top_kast", "deep_r")]
STEPS, EVERY = 200, 8


# ---- DST-EE, by hand


def traced(
    method: Method | None = None, *, c: float = 1e-3, eps: float = 1.0, **options
) -> tuple[nn.Sequential, rewire.Sparsifier]:
    """A run of 200 steps next to its numpy twin; every mask, visit and weight is compared at every step.

    method: in the place of `dst_ee` with these options. Where nothing reads visits they are kept as one bit.
    """
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(12, 16, bias=False), nn.Tanh(), nn.Linear(16, 6, bias=False)).double()
    initial = [model[place].weight.detach().numpy().copy() for place in (0, 2)]
    masks = {
        f"{place}.weight": torch.rand(model[place].weight.shape) < density for place, density in ((0, 0.2), (2, 0.4))
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    counted = method is None
    method = method or rewire.dst_ee(STEPS, every=EVERY, c=c, eps=eps, fraction=0.4, end_fraction=0.01, **options)
    sparsifier = rewire.sparsify(model, optimizer, method, start=masks)
    twin = dst_ee_numpy.Network(initial, [mask.numpy() for mask in masks.values()], lr=0.3, momentum=0.9)
    generator = np.random.default_rng(7)
    for step in range(1, STEPS + 1):
        x, y = generator.standard_normal((32, 12)), generator.standard_normal((32, 6))
        F.mse_loss(model(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        optimizer.step()
        optimizer.zero_grad()
        gradients = twin.gradients(x, y)
        twin.step(gradients)
        if step % EVERY == 0 and step <= STEPS - EVERY:
            twin.update(
                gradients,
                fraction=dst_ee_numpy.cosine(step, 0.4, 0.01, STEPS),
                c=c,
                eps=eps,
                signed=options.get("signed", False),
                regrow=options.get("regrow", True),
                by_layer=options.get("scale") == "layer",
            )
        saved = sparsifier.state_dict()["layers"]
        for place, name in enumerate(("0.weight", "2.weight")):
            assert (sparsifier.masks[name].numpy() == twin.masks[place]).all(), (step, name)
            if counted:
                assert (saved[name]["visits"].reshape(twin.visits[place].shape).numpy() == twin.visits[place]).all()
            weight = model.get_parameter(name)
            np.testing.assert_allclose(weight.detach().numpy(), twin.weights[place], atol=1e-10)
            momentum = optimizer.state[weight]["momentum_buffer"].numpy()
            np.testing.assert_allclose(momentum, twin.velocity[place], atol=1e-10)
        assert sparsifier.exploration == sum((visits > 0).sum() for visits in twin.visits) / (12 * 16 + 16 * 6)
    assert sparsifier.updates == STEPS // EVERY - 1
    return model, sparsifier


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"c": 0.0},
        {"c": 0.5, "eps": 0.1},
        {"signed": True, "c": 1e-2},
        {"regrow": False},
        {"scale": "layer", "c": 2.0},
        {"scale": "layer", "c": 1.0, "signed": True, "regrow": False},
    ],
    ids=str,
)
def test_dst_ee_makes_the_masks_of_its_formulas(options) -> None:
    _, sparsifier = traced(**options)
    assert sparsifier.exploration > 1.2 * sparsifier.density  # something moved


def test_rigl_itop_makes_the_masks_of_its_formulas() -> None:
    _, sparsifier = traced(rewire.rigl_itop(STEPS, every=EVERY, fraction=0.4, end_fraction=0.01), c=0.0)
    assert sparsifier.method.name == "rigl_itop"
    assert sparsifier.exploration > 1.2 * sparsifier.density


def test_the_options_of_dst_ee_are_not_the_same_run() -> None:
    options = [{}, {"c": 0.0}, {"signed": True, "c": 1e-2}, {"regrow": False}, {"scale": "layer", "c": 2.0}]
    runs = [traced(**option)[1].masks for option in options]
    for first, second in itertools.combinations(runs, 2):
        assert any(not torch.equal(first[name], second[name]) for name in first)


def small_run(method: rewire.core.method.Method) -> tuple[nn.Module, rewire.Sparsifier, list[rewire.Update]]:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    updates: list[rewire.Update] = []
    sparsifier = rewire.sparsify(model, optimizer, method, sparsity=0.8, on_update=updates.append)
    for _ in range(60):
        F.cross_entropy(model(torch.randn(16, 20)), torch.randint(0, 5, (16,))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, sparsifier, updates


@pytest.mark.parametrize("scale", ["none", "layer"])
def test_c_0_is_rigl_itop_exactly(scale: str) -> None:
    ours, mine, our_updates = small_run(rewire.dst_ee(60, every=4, c=0, scale=scale))
    theirs, other, their_updates = small_run(rewire.rigl_itop(60, every=4))
    assert our_updates == their_updates
    assert all(torch.equal(mask, other.masks[name]) for name, mask in mine.masks.items())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_c_may_be_a_schedule() -> None:
    falling = Exponential(start=1e-1, factor=0.5, every=8)
    _, scheduled, _ = small_run(rewire.dst_ee(60, every=4, c=falling))
    _, fixed, _ = small_run(rewire.dst_ee(60, every=4, c=1e-1))
    assert any(not torch.equal(mask, fixed.masks[name]) for name, mask in scheduled.masks.items())


def test_a_large_bonus_explores_more() -> None:
    explored = [small_run(rewire.dst_ee(60, every=4, c=c))[1].exploration for c in (0, 10.0)]
    assert explored[1] > explored[0]


# ---- what each name means


def test_every_method_by_name() -> None:
    assert list(rewire.METHODS) == [*FIXED, *DYNAMIC, *FALLING, *ONCE]
    for name, make in rewire.METHODS.items():
        given = {} if name in FIXED else {"steps": 1000} if name == "str" else {"steps": 1000, "every": 100}
        method = make(**given)
        assert method.name == str(method) == name
        assert method.dynamic == (name not in FIXED)
        assert (method.updates(1000) == 1) == (name in ONCE)


def test_what_the_methods_drop_and_grow() -> None:
    made = {name: rewire.METHODS[name](steps=1000, every=100) for name in DYNAMIC}
    others = ("mest", "top_kast", "chts", "deep_r")
    assert {method.drop for name, method in made.items() if name not in others} == {Magnitude()}
    assert made["mest"].drop == Magnitude() + 0.01 * Gradient()
    assert made["mest"].grow == Random()
    assert made["snfs"].grow == GradientMean(0.9)
    assert made["snfs"].share == Proportional(GradientMean(0.9))
    assert made["set"].grow == made["set_itop"].grow == Random()
    assert made["rigl"].grow == made["rigl_itop"].grow == Gradient()
    assert made["dst_ee"].grow == Gradient() + Exploration(1e-5, eps=1.0)
    assert made["srigl"].grow == made["rigl"].grow
    assert made["srigl"].structure == rewire.FanIn()
    assert made["top_kast"].start == Magnitude()
    assert made["dsr"].grow == made["deep_r"].grow == Random()
    assert all(method.regrow == (name != "deep_r") for name, method in made.items())


def test_the_fraction_over_a_run() -> None:
    assert rewire.set_(1000, every=100).fraction(900) == 0.3
    rigl = rewire.rigl(1000, every=100)
    assert rigl.fraction(0) == 0.3
    assert rigl.fraction(375) == pytest.approx(0.15)
    assert rigl.fraction(750) == 0
    for make in (rewire.set_itop, rewire.rigl_itop, rewire.dst_ee):
        fraction = make(1000, every=100).fraction
        assert fraction == Cosine(0.5, 0.005, 1000)
        assert fraction(500) == pytest.approx((0.5 + 0.005) / 2)


@pytest.mark.parametrize("name", DYNAMIC)
def test_no_update_in_the_last_interval(name: str) -> None:
    method = rewire.METHODS[name](steps=1000, every=100)
    due = [step for step in range(1, 1001) if method.due(step)]
    stops = name in ("rigl", "srigl")
    assert due == list(range(100, 701 if stops else 901, 100))
    assert method.updates(1000) == len(due)
    assert rewire.METHODS[name](steps=1050, every=100).due == Every(100, 787 if stops else 950)


def test_rigl_stops_with_its_fraction() -> None:
    assert rewire.rigl(1000, every=100, stop=1.0).updates(1000) == 9
    assert rewire.rigl(1000, every=100, stop=0.5).updates(1000) == 5


# ---- methods whose density moves


def test_the_density_of_gmp_and_granet_falls_by_the_cubic() -> None:
    gmp = rewire.gmp(1000, every=100)
    assert [step for step in range(1001) if gmp.due(step)] == list(range(100, 701, 100))
    assert gmp.density(0, 0.1) == 1.0
    assert gmp.density(350, 0.1) == pytest.approx(0.1 + 0.9 * 0.5**3)
    assert gmp.density(700, 0.1) == gmp.density(1000, 0.1) == 0.1
    granet = rewire.granet(1000, every=100)
    assert granet.density(0, 0.1) == 0.5
    assert granet.density(350, 0.1) == pytest.approx(0.1 + 0.4 * 0.5**3)
    assert granet.due == Every(100, 900)  # it goes on moving weights at the density that it has reached
    assert rewire.granet(1000, every=100, initial_sparsity=0.0).density(0, 0.1) == 1.0


@pytest.mark.parametrize(
    ("steps", "last"), [(1000, 700), (1058, 700), (1059, 900), (1100, 900), (1294, 900), (1295, 1100), (200, 100)]
)
def test_ac_dc_begins_dense_and_ends_sparse(steps: int, last: int) -> None:
    method = rewire.ac_dc(steps, every=100)
    phases = [method.density(step, 0.1) for step in range(steps + 1)]
    assert phases[:100] == [1.0] * 100
    assert phases[100:200] == [0.1] * 100
    assert phases[last:] == [0.1] * (steps - last + 1)
    switches = [step for step in range(1, steps + 1) if phases[step] != phases[step - 1]]
    assert switches == [step for step in range(1, steps + 1) if method.due(step)] == list(range(100, last + 1, 100))


def test_the_last_switch_of_ac_dc_leaves_an_interval() -> None:
    assert rewire.ac_dc(1300, every=100, end=1.0).due == Every(100, 1100)
    with pytest.raises(ValueError, match=r"would never update: .* the last may be at step 0"):
        rewire.ac_dc(199, every=100)


@pytest.mark.parametrize("name", ["gmp", "granet", "ac_dc"])
@pytest.mark.parametrize("end", [0.0, 1.5, math.nan])
def test_an_end_outside_the_run_is_refused(name: str, end: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"end={end} is outside (0, 1]") + ".* Use end=0.75"):
        getattr(rewire, name)(steps=1000, every=100, end=end)


# ---- the registry


def test_every_method_says_what_it_is() -> None:
    for card in rewire.list_methods():
        assert card.make is rewire.METHODS[card.name]
        assert all((card.idea, card.paper, card.keeps, card.costs))
        assert "https://" in card.paper or card.name == "dense"
        assert card.idea.count("\n") == 0
    assert [card.name for card in rewire.list_methods()] == list(rewire.METHODS)
    (card,) = (card for card in rewire.list_methods() if card.name == "rigl")
    assert card.options == ("every", "fraction", "stop")


@rewire.method("mine", paper="https://example.org", keeps="all", costs="nothing")
def mine(steps: int = 0) -> rewire.Method:
    """Returns a method of a stranger."""
    return rewire.static()


class Point:
    """An entry point."""

    def __init__(self, name: str, loaded: object) -> None:
        self.name, self.value, self.dist, self.loaded = name, f"package:{name}", None, loaded

    def load(self) -> object:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


def registry_with(monkeypatch: pytest.MonkeyPatch, *points: Point) -> Registry:
    monkeypatch.setattr("rewire.methods.registry.entry_points", lambda group: points if group == GROUP else ())
    registry = Registry()
    registry.add(rewire.rigl)
    return registry


def test_a_method_of_another_package_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = registry_with(monkeypatch, Point("mine", mine))
    assert registry["mine"] is mine
    assert list(registry) == ["rigl", "mine"]
    assert "absent" not in registry
    assert registry.cards["mine"].idea == "a method of a stranger"


@pytest.mark.parametrize(
    ("point", "text"),
    [
        (Point("broken", ImportError("no module named gone")), "no module named gone"),
        (Point("plain", print), "is not decorated with rewire.method"),
        (Point("rigl", rewire.rigl), 'there is a method "rigl" already, of rewire.methods.drop_and_grow'),
    ],
)
def test_a_package_that_cannot_join_is_left_out_with_one_warning(point, text: str, monkeypatch) -> None:
    registry = registry_with(monkeypatch, point)
    with pytest.warns(RuntimeWarning, match=re.escape(text)) as caught:
        assert list(registry) == ["rigl"]
    assert len(caught) == 1
    assert list(registry) == ["rigl"]  # without another


# ---- bad input


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_method_that_would_never_update_is_refused(name: str) -> None:
    make = "set_" if name == "set" else name
    with pytest.raises(ValueError, match="would never update") as error:
        rewire.METHODS[name](steps=150, every=100)
    assert str(error.value) == (
        f"{make}(steps=150, every=100) would never update: the first update would be at step 100, and the last may be "
        "at step 50. Use a shorter interval, such as every=6, or static() for a fixed mask."
    )
    assert rewire.METHODS[name](steps=150, every=6).updates(150) > 15


@pytest.mark.parametrize("name", DYNAMIC)
def test_steps_must_be_given(name: str) -> None:
    make = "set_" if name == "set" else name
    with pytest.raises(ValueError, match=re.escape(f"{make}() does not know how long the run is (steps=0)")) as error:
        rewire.METHODS[name]()
    assert f"Say how many optimizer steps it takes: {make}(steps=epochs * len(loader))." in str(error.value)


def test_what_a_method_does_not_take_is_refused_with_what_it_does() -> None:
    with pytest.raises(TypeError, match=r"^rigl\(\) takes no c\. It takes steps, every, fraction, stop\.$"):
        rewire.rigl(100, c=1)
    with pytest.raises(TypeError, match=r"^dense\(\) takes no steps\. It takes nothing\.$"):
        rewire.dense(steps=3)
    with pytest.raises(KeyError, match='there is no method "riggl"; use one of dense, static, '):
        rewire.METHODS["riggl"]
    assert "riggl" not in rewire.METHODS


@pytest.mark.parametrize("name", FRACTION)
@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_a_fraction_outside_0_to_1_is_refused(name: str, fraction: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"fraction={fraction} is outside [0, 1]") + ".* Use fraction=0.5"):
        rewire.METHODS[name](steps=1000, every=100, fraction=fraction)


@pytest.mark.parametrize("name", ["set_itop", "rigl_itop", "dst_ee"])
def test_an_end_fraction_outside_0_to_1_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape("end_fraction=2 is outside [0, 1]")):
        rewire.METHODS[name](steps=1000, every=100, end_fraction=2)


@pytest.mark.parametrize("name", DYNAMIC)
def test_an_interval_below_one_step_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"every=0 is not an interval in optimizer steps. Use every=100"):
        rewire.METHODS[name](steps=1000, every=0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"c": -1.0}, r"c=-1.0 is not a bonus: it must be finite and at least 0 \(0 is RigL-ITOP\). Use c=1e-5"),
        ({"c": math.inf}, "c=inf is not a bonus"),
        ({"eps": 0.0}, "eps=0.0 would divide by zero .* Use eps > 0, such as 1"),
    ],
)
def test_options_of_dst_ee_that_cannot_be(options, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        rewire.dst_ee(1000, every=100, **options)


@pytest.mark.parametrize("stop", [0.0, 1.5, -1.0])
def test_a_stop_outside_the_run_is_refused(stop: float) -> None:
    with pytest.raises(ValueError, match=r"stop=.* is outside \(0, 1\].*Use 0.75"):
        rewire.rigl(steps=1000, stop=stop)
