"""Where training starts: budgets as the user says them, first topologies, masks of the user's own."""

import re
import warnings

import pytest
import torch
from torch import nn

import rewire
from rewire.core.budget import CubicDensity
from rewire.core.method import Method
from rewire.core.schedule import Constant, Every
from rewire.core.score import Gradient, GradientMean, Magnitude, Random
from rewire.core.share import Keep, Proportional, Ranked
from rewire.core.structure import NM, Block, FanIn, Neuron, Unstructured

torch.set_num_threads(1)


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10))


def sparsify(model: nn.Module | None = None, method: Method | None = None, **options) -> rewire.Sparsifier:
    model = network() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return rewire.sparsify(model, optimizer, method or rewire.static(), **options)


def active(sparsifier: rewire.Sparsifier) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in sparsifier.masks.items()}


# ---- budgets


def test_uniform_er_and_erk_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 5), nn.Conv2d(8, 16, 1))  # 800 and 128 weights; density 0.25: 232
    assert active(sparsify(model, sparsity=0.75, distribution="uniform")) == {"0.weight": 200, "1.weight": 32}
    # er: (4 + 8) / 32 = 0.375 and (8 + 16) / 128 = 0.1875; 0.375 * 800 + 0.1875 * 128 = 324; times 232 / 324
    assert active(sparsify(model_like(model), sparsity=0.75, distribution="er")) == {"0.weight": 215, "1.weight": 17}
    # erk: 22 and 26 for each weight of the whole layer, so 232 in the ratio 22 : 26
    assert active(sparsify(model_like(model), sparsity=0.75)) == {"0.weight": 106, "1.weight": 126}


def model_like(model: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 8, 5), nn.Conv2d(8, 16, 1))


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.777, 0.9, 0.95, 0.98, 0.99])
@pytest.mark.parametrize("distribution", ["uniform", "er", "erk", "global"])
def test_the_total_is_exact(distribution: str, sparsity: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparsifier = sparsify(sparsity=sparsity, distribution=distribution, start=Magnitude())
    assert sum(active(sparsifier).values()) == round((1 - sparsity) * 2800)
    assert all(mask.any() for mask in sparsifier.masks.values())


def test_overrides_by_glob() -> None:
    sparsifier = sparsify(sparsity={"*": 0.9, "2": 0.5, "4.weight": 0})
    assert active(sparsifier) == {"0.weight": 80, "2.weight": 800, "4.weight": 400}


def test_global_keeps_the_best_of_all_layers() -> None:
    model = network()
    with torch.no_grad():
        model[4].weight.mul_(1.3)
    weights = {name: p.detach().abs().clone() for name, p in model.named_parameters() if p.ndim > 1}
    everything = torch.cat([weight.flatten() for weight in weights.values()])
    least = everything.sort(descending=True).values[559]
    sparsifier = sparsify(model, sparsity=0.8, distribution="global", start=Magnitude())
    assert all(torch.equal(mask, weights[name] >= least) for name, mask in sparsifier.masks.items())


def test_global_ranks_float64_scores_as_float64() -> None:
    """Scores that float32 cannot tell apart."""
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10)).double()
    with torch.no_grad():
        steps = 1e-12 * torch.arange(200, dtype=torch.float64).reshape(2, 10, 10)
        model[0].weight.copy_(1 + steps[0])
        model[1].weight.copy_(1 + steps[1])
    sparsifier = sparsify(model, sparsity=0.45, distribution="global", start=Magnitude())
    assert active(sparsifier) == {"0.weight": 10, "1.weight": 100}


def test_magnitude_keeps_the_best_weights_of_a_trained_model() -> None:
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sparsifier = sparsify(model, sparsity=0.8, start=Magnitude())
    for name, mask in sparsifier.masks.items():
        assert before[name][mask].abs().min() >= before[name][~mask].abs().max()
        assert torch.equal(model.get_parameter(name), before[name] * mask)  # and does not rescale them


def test_random_starts_by_the_seed() -> None:
    first, again, other = (sparsify(sparsity=0.9, seed=seed).masks for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in first)
    assert {name: int(mask.sum()) for name, mask in first.items()} == {name: int(m.sum()) for name, m in other.items()}


def test_a_structure_that_fixes_its_density_needs_no_sparsity() -> None:
    for sparsity in (None, 0.5):
        sparsifier = sparsify(sparsity=sparsity, structure=NM(2, 4), exclude=[])
        assert sparsifier.sparsity == 0.5
    model = nn.Linear(9, 4)
    assert active(sparsify(model, sparsity=2 / 3, structure=NM(1, 3))) == {"weight": 12}  # 1 - 1/3 is not 2/3 in floats


def test_the_floor_is_said() -> None:
    model = nn.Sequential(nn.Linear(100, 100), nn.Linear(4, 4), nn.Linear(100, 10))
    with pytest.warns(UserWarning, match="without an active weight") as said:
        sparsifier = sparsify(model, sparsity=0.98, distribution="uniform")
    assert [str(warning.message) for warning in said] == [
        "The budget would leave 1.weight without an active weight; each keeps the floor of one unit per group (1). "
        'Lower the sparsity, or leave them dense with exclude=["1.weight"].'
    ]
    assert active(sparsifier)["1.weight"] == 1
    with torch.no_grad():
        model = network()
        model[0].weight.mul_(1e-3)
    with pytest.warns(UserWarning, match="leave 0.weight without an active weight"):
        sparsifier = sparsify(model, sparsity=0.9, distribution="global", start=Magnitude())
    assert active(sparsifier)["0.weight"] == 1
    with warnings.catch_warnings():  # a layer that gets one weight by its own right is no news
        warnings.simplefilter("error")
        sparsify(nn.Sequential(nn.Linear(1000, 1000), nn.Linear(2, 2)), sparsity=0.9997)


# ---- masks of the user's own


def test_masks_are_taken_as_they_are() -> None:
    torch.manual_seed(5)
    masks = {name: torch.rand(p.shape) < 0.3 for name, p in network().named_parameters() if p.ndim > 1}
    sparsifier = sparsify(start=masks)
    assert all(torch.equal(sparsifier.masks[name], mask) for name, mask in masks.items())
    assert sparsifier.density == sum(int(mask.sum()) for mask in masks.values()) / 2800


@pytest.mark.parametrize("structure", [Unstructured(), NM(2, 4), Block(2, 5), FanIn(), Neuron()], ids=str)
def test_masks_of_one_run_start_another(structure) -> None:
    dense = isinstance(structure, NM)
    first = sparsify(sparsity=None if dense else 0.7, structure=structure)
    again = sparsify(start=first.masks, structure=structure, method=rewire.dst_ee(100, every=4))
    assert all(torch.equal(again.masks[name], mask) for name, mask in first.masks.items())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda masks: masks.pop("2.weight"),
            "start lacks 2.weight: masks must name exactly the sparse layers. These are 0.weight, 2.weight, 4.weight.",
        ),
        (
            lambda masks: masks.update({"0.bias": torch.ones(40, dtype=torch.bool)}),
            "start has 0.bias: masks must name exactly the sparse layers. These are 0.weight, 2.weight, 4.weight.",
        ),
        (
            lambda masks: masks.update({"4.weight": masks["4.weight"].float()}),
            "The mask of 4.weight is torch.float32 (10, 40), but must be torch.bool (10, 40), True where active. "
            "Use mask.bool(), of the weight's shape.",
        ),
        (
            lambda masks: masks.update({"4.weight": masks["4.weight"].t()}),
            "The mask of 4.weight is torch.bool (40, 10), but must be torch.bool (10, 40), True where active. "
            "Use mask.bool(), of the weight's shape.",
        ),
        (
            lambda masks: masks["0.weight"].zero_(),
            "The mask of 0.weight has no active weight, so nothing passes. Keep at least one.",
        ),
    ],
)
def test_masks_that_do_not_fit_are_refused_and_nothing_changes(change, text: str) -> None:
    model = network()
    masks = {name: p.detach() > 0 for name, p in model.named_parameters() if p.ndim > 1}
    change(masks)
    refused(model, text, start=masks)


@pytest.mark.parametrize("structure", [NM(2, 4), Block(2, 5), FanIn(), Neuron()], ids=str)
def test_masks_that_do_not_hold_the_structure_are_refused(structure) -> None:
    model = network()
    masks = {name: p.detach() > 0 for name, p in model.named_parameters() if p.ndim > 1}
    refused(
        model,
        f"The mask of 0.weight does not hold {structure}: its units or groups are not whole. Use "
        "structure=Unstructured(), or masks made with the same structure.",
        start=masks,
        structure=structure,
    )


def test_one_of_four_is_not_two_of_four() -> None:
    masks = sparsify(structure=NM(1, 4)).masks
    refused(network(), "The mask of 0.weight does not hold NM(n=2, m=4)", start=masks, structure=NM(2, 4))


def test_rows_of_unequal_fan_in_are_refused() -> None:
    model = nn.Linear(4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]], dtype=torch.bool)
    refused(model, "The mask of weight does not hold FanIn()", start={"weight": mask}, structure=FanIn())


# ---- scores of the user's own


@pytest.mark.parametrize("distribution", ["uniform", "erk", "global"])
def test_scores_of_the_users_own_pick_the_highest(distribution: str) -> None:
    model = network()
    scores = {name: p.detach().abs() for name, p in model.named_parameters() if p.ndim > 1}
    given = sparsify(network(), sparsity=0.8, distribution=distribution, start=scores).masks
    expected = sparsify(model, sparsity=0.8, distribution=distribution, start=Magnitude()).masks
    assert all(torch.equal(given[name], mask) for name, mask in expected.items())


@pytest.mark.parametrize("structure", [NM(2, 4), Block(2, 5), FanIn(), Neuron()], ids=str)
def test_scores_of_the_users_own_hold_structures(structure) -> None:
    sparsity = None if isinstance(structure, NM) else 0.7
    scores = {name: p.detach().double().square() for name, p in network().named_parameters() if p.ndim > 1}
    first = sparsify(sparsity=sparsity, structure=structure, start=scores)
    assert first.masks.keys() == sparsify(start=first.masks, structure=structure).masks.keys()
    for name, mask in first.masks.items():
        if not isinstance(structure, Block):  # each group keeps its highest
            rows = (-1, 4) if isinstance(structure, NM) else (mask.shape[0], -1)
            lost = scores[name].masked_fill(mask, -1).reshape(rows).amax(1)
            kept = scores[name].masked_fill(~mask, 2).reshape(rows).amin(1)
            assert bool((lost <= kept).all())


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (
            lambda scores: scores.pop("2.weight"),
            ValueError,
            "start lacks 2.weight: scores must name exactly the sparse layers. These are 0.weight, 2.weight, 4.weight.",
        ),
        (
            lambda scores: scores.update({"4.weight": scores["4.weight"].t()}),
            ValueError,
            "start gives 4.weight scores of shape (40, 10), but its weights are (10, 40). Give one number per weight.",
        ),
        (
            lambda scores: scores["0.weight"][3].fill_(float("nan")),
            FloatingPointError,
            "start gives 0.weight scores that are NaN or infinite, which have no place in an order. Look for an "
            'overflow in the model or the loss, or leave the layer dense with exclude=["0.weight"].',
        ),
    ],
)
def test_scores_that_do_not_fit_are_refused_and_nothing_changes(change, kind: type[Exception], text: str) -> None:
    model = network()
    scores = {name: p.detach().clone() for name, p in model.named_parameters() if p.ndim > 1}
    change(scores)
    refused(model, text, kind, start=scores, sparsity=0.5)


def test_scores_do_not_fix_the_sparsity() -> None:
    model = network()
    scores = {name: p.detach().clone() for name, p in model.named_parameters() if p.ndim > 1}
    refused(model, "sparsity is missing, and nothing else says how many weights may stay.", start=scores)


# ---- what contradicts itself


def refused(model: nn.Module, text: str, kind: type[Exception] = ValueError, method: Method | None = None, **options):
    """Asserts that `sparsify` raises with the text, changes nothing, and leaves the model free for another try."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(kind, match=re.escape(text)):
        rewire.sparsify(model, optimizer, method or rewire.static(), **options)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    assert not optimizer._optimizer_step_post_hooks
    rewire.sparsify(model, optimizer, rewire.static(), sparsity=0.1)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 2, float("nan"), {"*": 0.5, "0": 1.0}])
def test_sparsity_outside_0_to_1(sparsity) -> None:
    refused(network(), "is outside [0, 1): it is the share of weights that are zero", sparsity=sparsity)


GRANET = Method("granet", Magnitude(), Gradient(), Constant(0.3), Every(1, 9), share=Ranked())
SNFS = Method("snfs", Magnitude(), GradientMean(), Constant(0.3), Every(1, 9), share=Proportional(GradientMean()))
RELATIVE = rewire.dst_ee(10, every=2, relative=True)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("sparsity is missing, and nothing else says how many weights may stay. Add for example sparsity=0.95.", {}),
        (
            "sparsity=0.9 contradicts NM(n=2, m=4), which fixes the sparsity at 0.5. Leave sparsity out, or choose "
            "another structure.",
            {"sparsity": 0.9, "structure": NM(2, 4)},
        ),
        (
            "sparsity names 'head', which matches no sparse layer. The sparse layers are: 0.weight, 2.weight, 4.wei",
            {"sparsity": {"*": 0.5, "head": 0.1}},
        ),
        (
            "The budget leaves 2 active weights for 3 layers, and each needs at least one unit (0.weight: 1, "
            "2.weight: 1, 4.weight: 1), so a layer would be cut off. Lower the sparsity or leave small layers dense "
            "with exclude=[...].",
            {"sparsity": 0.9994},
        ),
        (
            "The budget leaves 84 active weights for 3 layers, and each needs at least one unit (0.weight: 40",
            {"sparsity": 0.97, "structure": FanIn()},
        ),
        (
            "0.weight has 20 input channels, not a multiple of M=8, so 2:8 cannot hold there. Leave it dense with "
            'exclude=["0.weight"] or choose an M that divides 20.',
            {"structure": NM(2, 8)},
        ),
        (
            "0.weight is a matrix of 40 x 20, which blocks of 4 x 3 do not tile. Leave it dense with "
            'exclude=["0.weight"] or choose sides that divide 40 and 20.',
            {"sparsity": 0.5, "structure": Block(4, 3)},
        ),
        (
            "start gives masks, which fix the sparsity, so sparsity= would be ignored. Leave one out.",
            {"sparsity": 0.5, "start": {}},
        ),
        (
            "start=Gradient(signed=False) needs gradient, which does not exist before training. Use Random() or "
            "Magnitude(), or give masks.",
            {"sparsity": 0.5, "start": Gradient()},
        ),
        (
            "dense() keeps every weight, but sparsity=0.5. Use sparsity=0, or static() for a fixed mask.",
            {"sparsity": 0.5, "method": rewire.dense()},
        ),
        (
            "distribution=\"global\" ranks all layers together, so sparsity={'*': 0.5, '0': 0.1} cannot fix single "
            'layers. Use one number, or distribution="erk".',
            {"sparsity": {"*": 0.5, "0": 0.1}, "distribution": "global"},
        ),
        (
            "granet moves weights between layers (Ranked()), but NM(n=2, m=4) fixes the density of every layer. Use "
            "share=Keep(), or another structure.",
            {"structure": NM(2, 4), "method": GRANET},
        ),
        ("snfs moves weights between layers (Proportional(", {"structure": NM(2, 4), "method": SNFS}),
        (
            "granet moves single weights between layers (Ranked()), but FanIn() gives each of the 40 groups of "
            "0.weight the same number. Use structure=Unstructured(), or a method that keeps the count of every "
            "layer, such as rigl.",
            {"sparsity": 0.5, "structure": FanIn(), "method": GRANET},
        ),
        (
            "granet moves units between layers (Ranked()), but Neuron() makes units of 20 weights in 0.weight and of "
            "40 in 2.weight, so the total would not stay. Use another structure, or a method that keeps the count of "
            "every layer, such as rigl.",
            {"sparsity": 0.5, "structure": Neuron(), "method": GRANET},
        ),
        *(
            (
                "dst_ee grows by gradients times the norm of an output, which is 0 for outputs that are off, "
                f"and {structure} switches those of 0.weight as a whole, so the gradient would not say which to "
                "grow. Use relative=False, or another structure.",
                {"sparsity": 0.5, "structure": structure, "method": RELATIVE},
            )
            for structure in (Neuron(), Block(2, 20))
        ),
        (
            "dense() keeps every weight, but NM(n=2, m=4) fixes the sparsity at 0.5. Leave the structure out, or use "
            "static() for a fixed mask.",
            {"structure": NM(2, 4), "method": rewire.dense()},
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_contradicts_itself_is_refused_and_nothing_changes(text: str, options) -> None:
    refused(network(), text, **options)


def test_dense_needs_no_sparsity() -> None:
    assert sparsify(method=rewire.dense(), sparsity=None).sparsity == 0


# ---- densities that move


@pytest.mark.parametrize("sparsity", [0.8, 0.9, 0.95])
def test_gmp_ends_with_the_neurons_that_it_planned(sparsity: float) -> None:
    model = nn.Sequential(nn.Linear(27, 32), nn.ReLU(), nn.Linear(32, 300), nn.ReLU(), nn.Linear(300, 40))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = rewire.sparsify(
        model, optimizer, rewire.gmp(10, every=1), sparsity=sparsity, structure=Neuron(), distribution="uniform"
    )
    planned = sparsifier.budget
    for _ in range(10):
        model(torch.randn(4, 27)).square().mean().backward()
        optimizer.step()
    assert active(sparsifier) == planned
    for name, mask in sparsifier.masks.items():
        assert abs(planned[name] - (1 - sparsity) * mask.numel()) < mask.shape[1]


def test_gmp_goes_from_dense_to_its_target() -> None:
    gmp = Method("gmp", Magnitude(), due=Every(2, 8), density=CubicDensity(0.0, 0, 8), share=Keep())
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = rewire.sparsify(model, optimizer, gmp, sparsity={"*": 0.9, "4": 0.5})
    seen = [sparsifier.sparsity]
    for _ in range(10):
        model(torch.randn(4, 20)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(sparsifier.sparsity)
    assert seen[0] == seen[1] == 0
    assert seen == sorted(seen)
    assert active(sparsifier)["4.weight"] == 200
    assert sum(active(sparsifier).values()) == 440
    assert seen[2] == pytest.approx(1 - seen_density(2), abs=1e-3)


def seen_density(step: int) -> float:
    """By hand: each layer's sparsity is s (1 - (1 - step / 8)^3)."""
    share = 1 - (1 - step / 8) ** 3
    return 1 - (0.9 * share * 2400 + 0.5 * share * 400) / 2800


def test_gmp_reaches_two_of_four() -> None:
    gmp = Method("gmp", Magnitude(), due=Every(2, 8), density=CubicDensity(0.0, 0, 8))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = rewire.sparsify(model, optimizer, gmp, structure=NM(2, 4))
    for _ in range(8):
        model(torch.randn(4, 20)).square().sum().backward()
        optimizer.step()
        for mask in sparsifier.masks.values():
            assert mask.reshape(-1, 4).sum(1).unique().numel() == 1
        optimizer.zero_grad()
    assert all((mask.reshape(-1, 4).sum(1) == 2).all() for mask in sparsifier.masks.values())


def test_a_random_start_is_uniform_over_places() -> None:
    counts = sum(
        sparsify(sparsity=0.5, seed=seed, distribution="uniform").masks["4.weight"].int() for seed in range(60)
    )
    assert 15 < counts.min() < counts.max() < 45
    assert Random() == Random()


@pytest.mark.parametrize(
    ("method", "sparsity"),
    [
        (rewire.gmp(100, every=10, initial_sparsity=0.9), 0.8),
        (rewire.granet(100, every=10, initial_sparsity=0.9), 0.8),
        (rewire.granet(100, every=10, initial_sparsity=0.9), {"*": 0.95, "0": 0.8}),
    ],
)
def test_a_density_that_would_rise_where_it_must_fall_is_refused(method, sparsity) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    with pytest.raises(ValueError, match="would have to be added") as error:
        rewire.sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), method, sparsity=sparsity)
    assert str(error.value) == (
        f"{method.name} begins at sparsity 0.9 and should end at 0.8, so weights would have to be added, but it only "
        "takes some away. Use an initial_sparsity of at most 0.8."
    )


@pytest.mark.parametrize("share", [rewire.Threshold(), rewire.SignChange()])
def test_a_share_that_replaces_what_it_drops_is_refused_where_the_density_falls(share) -> None:
    method = rewire.Method("mine", Magnitude(), Random(), Constant(0.3), Every(2, 8), CubicDensity(0.0, 0, 8), share)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    with pytest.raises(ValueError, match=r"mine grows as many weights as it drops .* Use share=Keep"):
        rewire.sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), method, sparsity=0.5)


def test_a_dense_phase_is_refused_under_ddp(monkeypatch) -> None:
    monkeypatch.setattr("rewire.checks.distributed_processes", lambda: 2)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    with pytest.raises(ValueError, match="str changes the model's parameters in the middle of training"):
        rewire.sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), rewire.str_(100), sparsity=0.5)
    assert list(dict(model.named_parameters())) == ["0.weight", "0.bias", "1.weight", "1.bias"]
