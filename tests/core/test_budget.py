"""Budgets: tables by hand, exact totals, floors, overrides, densities over time."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewire.core.budget import (
    ConstantDensity,
    CubicDensity,
    allocate,
    layer_densities,
    match_overrides,
    rank,
)

SIZE = torch.Size


def test_erk_by_hand() -> None:
    # raw: a = (10 + 10) / 100 = 0.2, b = (10 + 40) / 400 = 0.125; budget 0.1 * 500 = 50 = scale * (20 + 50).
    densities = layer_densities({"a": SIZE([10, 10]), "b": SIZE([10, 40])}, 0.1, "erk")
    assert densities == pytest.approx({"a": 0.2 * 5 / 7, "b": 0.125 * 5 / 7})


def test_er_leaves_the_kernel_out_and_erk_counts_it() -> None:
    shapes = {"conv": SIZE([8, 8, 3, 3]), "fc": SIZE([8, 72])}
    er = layer_densities(shapes, 0.1, "er")
    erk = layer_densities(shapes, 0.1, "erk")
    assert er["conv"] / er["fc"] == pytest.approx((16 / 64) / (80 / 576))
    assert erk["conv"] / erk["fc"] == pytest.approx((22 / 576) / (80 / 576))


def test_a_layer_above_one_becomes_dense_and_the_rest_is_solved_again() -> None:
    shapes = {"tiny": SIZE([2, 2]), "big": SIZE([100, 100])}
    densities = layer_densities(shapes, 0.5, "erk")
    assert densities["tiny"] == 1.0
    assert densities["big"] == pytest.approx((0.5 * 10004 - 4) / 10000)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6),
    st.floats(0.0, 0.999),
    st.sampled_from(["uniform", "er", "erk"]),
)
def test_the_total_is_exact_and_every_layer_has_a_weight(
    sides: list[tuple[int, int]], sparsity: float, kind: str
) -> None:
    shapes = {str(i): SIZE(side) for i, side in enumerate(sides)}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total = round((1 - sparsity) * sum(sizes.values()))
    if total < len(shapes):
        with pytest.raises(ValueError, match="a layer would be cut off"):
            allocate(shapes, 1 - sparsity, kind)
        return
    counts = allocate(shapes, 1 - sparsity, kind)
    assert sum(counts.values()) == total
    assert all(1 <= counts[name] <= sizes[name] for name in shapes)


def test_largest_remainder_goes_first() -> None:
    shapes = {"a": SIZE([1, 13]), "b": SIZE([1, 16]), "c": SIZE([1, 11])}  # halves: 6.5, 8, 5.5; total 20
    assert allocate(shapes, 0.5, "uniform") == {"a": 7, "b": 8, "c": 5}


def test_counts_are_multiples_of_the_quantum() -> None:
    shapes = {"a": SIZE([8, 16]), "b": SIZE([8, 24])}
    counts = allocate(shapes, 0.3, "uniform", quanta={"a": 8, "b": 8})
    assert all(count % 8 == 0 for count in counts.values())
    assert abs(sum(counts.values()) - 0.3 * 320) < 8


def test_overrides_leave_the_solve() -> None:
    shapes = {"a": SIZE([10, 10]), "b": SIZE([10, 10]), "c": SIZE([10, 10])}
    assert allocate(shapes, 0.1, "erk", overrides={"b": 1.0}) == {"a": 10, "b": 100, "c": 10}


def test_rank_counts_the_best_over_all_layers() -> None:
    scores = {"a": torch.tensor([5.0, 1.0, 4.0]), "b": torch.tensor([3.0, 0.0])}
    assert rank(scores, 3) == {"a": 2, "b": 1}


def test_rank_never_empties_a_layer_and_keeps_the_total() -> None:
    scores = {"a": torch.tensor([5.0, 4.0, 3.0]), "b": torch.tensor([0.0, 0.0])}
    assert rank(scores, 3) == {"a": 2, "b": 1}


def test_rank_with_ties_keeps_the_total() -> None:
    assert rank({"a": torch.ones(5), "b": torch.ones(5)}, 7) == {"a": 5, "b": 2}


def test_an_unknown_distribution_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r'distribution="er_k" is unknown. Use one of "erk", "er", "uniform"'):
        layer_densities({"a": SIZE([2, 2])}, 0.5, "er_k")  # type: ignore[arg-type]


def test_the_last_matching_glob_wins_and_a_star_takes_back() -> None:
    names = ["conv1.weight", "layer1.0.conv1.weight", "fc.weight"]
    sparsity = {"*": 0.95, "*conv1": 0, "fc": 0.5, "layer1.*": 0.8}
    assert match_overrides(names, sparsity) == (
        0.95,
        {"conv1.weight": 0, "layer1.0.conv1.weight": 0.8, "fc.weight": 0.5},
    )
    assert match_overrides(names, {"fc": 0.5, "*": 0.9}) == (0.9, {})


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, float("nan")])
def test_sparsity_outside_the_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"sparsity={value}") + r".* is outside \[0, 1\).*sparsity=0.95"):
        match_overrides(["a.weight"], value)


def test_a_glob_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'head', which matches no sparse layer. The sparse layers are: a.weight"):
        match_overrides(["a.weight"], {"*": 0.9, "head": 0.5})


def test_a_mapping_that_leaves_a_layer_open_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sparsity says nothing about b.weight"):
        match_overrides(["a.weight", "b.weight"], {"a": 0.5})


def test_cubic_density_by_hand() -> None:
    density = CubicDensity(start=0.0, begin=0, end=10)
    assert density(0, 0.1) == 1.0
    assert density(5, 0.1) == pytest.approx(1 - 0.9 * (1 - 0.5**3))
    assert density(10, 0.1) == density(99, 0.1) == pytest.approx(0.1)
    assert ConstantDensity()(3, 0.1) == 0.1


@pytest.mark.parametrize(
    ("options", "text"), [((0.0, 5, 5), "has no step to change in"), ((1.0, 0, 5), r"in \[0, 1\)")]
)
def test_a_cubic_density_that_cannot_be_is_refused_when_it_is_made(options: tuple, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CubicDensity(*options)


def test_a_sparsity_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sparsity='0.9' is neither a number nor a mapping.*sparsity=0.95"):
        match_overrides(["a.weight"], "0.9")  # type: ignore[arg-type]


def test_near_gives_no_layer_what_the_steps_of_others_are_too_large_for() -> None:
    """Whole neurons: 64 of 27 weights beside layers of 576 and 4608 a neuron, of which the remainders are larger."""
    shapes = {
        "a": torch.Size([64, 3, 3, 3]),
        "b": torch.Size([64, 64, 3, 3]),
        "c": torch.Size([512, 512, 3, 3]),
    }
    quanta = {"a": 27, "b": 576, "c": 4608}
    for density in (0.05, 0.07, 0.11, 0.23):
        counts = allocate(shapes, density, "uniform", quanta=quanta, near=True)
        for name, shape in shapes.items():
            assert counts[name] % quanta[name] == 0
            assert abs(counts[name] - density * math.prod(shape)) < quanta[name]
        assert 0 <= round(density * sum(map(math.prod, shapes.values()))) - sum(counts.values()) < 4608
    fixed = allocate(shapes, 0.05, "uniform", overrides={"a": 0.25}, quanta=quanta, near=True)
    assert fixed["a"] == 16 * 27
