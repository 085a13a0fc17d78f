import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from rewire.report.statistics import Difference, Summary, holm, interval, paired, summary

probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_summary_by_hand() -> None:
    assert summary([2.0, 4.0, 9.0]) == Summary(mean=5.0, std=13**0.5, n=3)
    assert summary([0.25]) == Summary(mean=0.25, std=None, n=1)


def test_paired_uses_shared_seeds_only() -> None:
    found = paired({0: 0.75, 1: 0.5, 5: 1.0}, {1: 0.25, 0: 0.25, 7: 0.0})
    assert found is not None
    assert (found.mean, found.n) == (0.375, 2)
    assert paired({0: 0.5}, {1: 0.5}) is None


def test_paired_p_by_hand() -> None:
    """d = 1, 2, 3: t = 2 sqrt(3), and with 2 degrees p = 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14)."""
    found = paired({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0})
    assert found is not None
    assert found.p == pytest.approx(1 - (12 / 14) ** 0.5, abs=1e-12)


def test_interval_by_hand() -> None:
    """d = 1, 2, 3: the mean 2, give or take t / sqrt(3); with 2 degrees t(0.95) = 0.9 sqrt(2 / (1 - 0.9^2))."""
    found = paired({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0})
    assert found is not None
    half = 0.9 * (2 / (1 - 0.9**2)) ** 0.5 / 3**0.5
    assert interval(found, 0.9) == pytest.approx((2 - half, 2 + half), abs=1e-9)


def test_there_is_no_interval_where_no_test_can_speak() -> None:
    assert interval(Difference(0.1, None, 1, None), 0.9) is None
    assert interval(Difference(0.0, 0.0, 10, None), 0.9) is None


@given(seed=st.integers(0, 10_000), n=st.integers(2, 12))
def test_paired_agrees_with_the_t_test_of_scipy(seed: int, n: int) -> None:
    draw = random.Random(seed).random
    first, second = ({place: draw() for place in range(n)} for _ in range(2))
    found = paired(first, second)
    assert found is not None
    assert found.p == pytest.approx(ttest_rel(list(first.values()), list(second.values())).pvalue, rel=1e-9)


def test_no_p_value_without_a_second_seed_or_without_spread() -> None:
    assert paired({0: 0.75}, {0: 0.5}) == Difference(mean=0.25, std=None, n=1, p=None)
    assert paired({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.25}) == Difference(mean=0.25, std=0.0, n=2, p=None)
    rounding = paired({0: 0.3, 1: 0.7}, {0: 0.1, 1: 0.5})  # 0.2 twice, but for the last digit
    assert rounding is not None
    assert rounding.p is None


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04; none may fall below an earlier one."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(probabilities)
def test_holm_never_lowers_a_p_value_nor_changes_their_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= q <= min(1, len(p_values) * p) for p, q in zip(p_values, corrected, strict=True))
    assert sorted(corrected) == [q for _, q in sorted(zip(p_values, corrected, strict=True))]


@given(probabilities, st.randoms())
def test_holm_does_not_depend_on_the_order(p_values: list[float], shuffler: random.Random) -> None:
    order = list(range(len(p_values)))
    shuffler.shuffle(order)
    corrected = holm(p_values)
    assert holm([p_values[place] for place in order]) == [corrected[place] for place in order]
