"""Exploration, churn and overlap: tables worked by hand, and what ties them together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rewire.metrics.exploration import churn, exploration_degree, overlap

MEASURES = [churn, overlap]


def masks(**layers: str) -> dict[str, Tensor]:
    """Returns masks from strings of 0 and 1."""
    return {name: torch.tensor([bit == "1" for bit in bits]) for name, bits in layers.items()}


@pytest.mark.parametrize(
    ("ever_active", "degree"),
    [
        (masks(a="0000"), 0),
        (masks(a="1000", b="11"), 0.5),
        (masks(a="1111", b="10"), 5 / 6),
        (masks(a="1"), 1),
        ({}, 0),
    ],
)
def test_exploration_is_the_share_over_all_layers_together(ever_active, degree: float) -> None:
    assert exploration_degree(ever_active) == degree


@pytest.mark.parametrize(
    ("before", "after", "moved", "common"),
    [
        (masks(a="1100"), masks(a="1100"), 0, 1),
        (masks(a="1100"), masks(a="0011"), 1, 0),
        (masks(a="1100"), masks(a="1010"), 1 / 2, 1 / 3),
        (masks(a="1100", b="11"), masks(a="1010", b="11"), 1 / 4, 3 / 5),
        (masks(a="1111"), masks(a="1000"), 3 / 4, 1 / 4),  # pruned: three of four are gone
        (masks(a="1000"), masks(a="1111"), 0, 1 / 4),  # grown only: nothing is gone
        (masks(a="0000"), masks(a="0000"), 0, 1),
        (masks(a="0000"), masks(a="1000"), 0, 0),
        ({}, {}, 0, 1),
    ],
)
def test_churn_and_overlap_worked_by_hand(before, after, moved: float, common: float) -> None:
    assert churn(before, after) == moved
    assert overlap(before, after) == common
    assert overlap(after, before) == common


@given(size=st.integers(1, 200), active=st.integers(1, 200), seed=st.integers(0, 99))
def test_at_a_constant_count_churn_and_overlap_say_the_same(size: int, active: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    before, after = ({"a": torch.randperm(size, generator=generator) < active} for _ in range(2))
    moved = churn(before, after)
    assert overlap(before, after) == pytest.approx((1 - moved) / (1 + moved))
    assert churn(after, before) == moved


def test_random_topologies_overlap_as_documented() -> None:
    first, second = ({"a": torch.rand(1_000_000) < 0.1} for _ in range(2))
    assert overlap(first, second) == pytest.approx(0.1 / 1.9, abs=0.002)


@pytest.mark.parametrize("measure", MEASURES)
def test_other_layers_cannot_be_compared(measure) -> None:
    with pytest.raises(ValueError, match="compared") as error:
        measure(masks(a="10", b="10"), masks(a="10", c="10"))
    assert str(error.value) == (
        "The two topologies cannot be compared, because only one of them has b, c. Give masks of the same layers."
    )


@pytest.mark.parametrize("measure", MEASURES)
def test_other_shapes_cannot_be_compared(measure) -> None:
    with pytest.raises(ValueError, match="compared") as error:
        measure(masks(a="10"), masks(a="100"))
    assert str(error.value) == (
        "The two topologies cannot be compared, because a has shape (2,) in one and (3,) in the other. "
        "Give masks of the same model."
    )
