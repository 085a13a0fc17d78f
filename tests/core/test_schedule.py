"""Schedules against tables worked by hand, and the errors for values that cannot be."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewire.core.schedule import (
    Constant,
    Cosine,
    Cubic,
    Due,
    Every,
    Exponential,
    Linear,
    Never,
    Schedule,
)

values = st.floats(-10, 10)
steps = st.integers(1, 10_000)


@pytest.mark.parametrize(
    ("schedule", "table"),
    [
        (Constant(0.3), {0: 0.3, 1: 0.3, 10**9: 0.3}),
        (Linear(0.5, 0.1, steps=4), {0: 0.5, 1: 0.4, 2: 0.3, 3: 0.2, 4: 0.1, 5: 0.1}),
        (Linear(0.0, 2.0, steps=4), {0: 0.0, 1: 0.5, 4: 2.0, 9: 2.0}),
        # cos(pi/3) = 1/2, cos(pi/2) = 0, cos(2 pi/3) = -1/2
        (Cosine(0.5, 0.1, steps=6), {0: 0.5, 2: 0.4, 3: 0.3, 4: 0.2, 6: 0.1, 7: 0.1}),
        # RigL: alpha = 0.3 falls to 0; a quarter of the way is 0.15 (1 + sqrt(1/2))
        (Cosine(0.3, 0.0, steps=100), {0: 0.3, 25: 0.15 * (1 + math.sqrt(0.5)), 50: 0.15, 100: 0.0}),
        # GMP's sparsity: s_i = 0, s_f = 0.8, t_0 = 10, n Delta t = 20
        (Cubic(0.0, 0.8, begin=10, steps=30), {0: 0.0, 10: 0.0, 15: 0.4625, 20: 0.7, 30: 0.8, 31: 0.8}),
        (Exponential(1e-2, 0.9, every=1000), {0: 1e-2, 999: 1e-2, 1000: 9e-3, 2000: 8.1e-3, 2999: 8.1e-3}),
    ],
)
def test_values_worked_by_hand(schedule: Schedule, table: dict[int, float]) -> None:
    assert {step: schedule(step) for step in table} == pytest.approx(table, abs=1e-15)


@given(start=values, end=values, length=steps)
def test_both_ends_are_exact(start: float, end: float, length: int) -> None:
    for schedule in (Linear(start, end, length), Cosine(start, end, length), Cubic(start, end, 0, length)):
        assert schedule(0) == start
        assert schedule(length) == schedule(length + 1) == end


@given(start=values, end=values, length=steps, step=st.integers(0, 20_000), begin=st.integers(0, 100))
def test_moves_one_way_and_stays_between_its_ends(start, end, length, step, begin) -> None:
    schedules = (
        Linear(start, end, length),
        Cosine(start, end, length),
        Cubic(start, end, begin, begin + length),
    )
    low, high = sorted((start, end))
    for schedule in schedules:
        now, later = schedule(step), schedule(step + 1)
        assert low - 1e-12 <= now <= high + 1e-12
        assert (later - now) * (end - start) >= -1e-12


@given(every=st.integers(1, 50), until=st.integers(0, 300), length=st.integers(0, 300))
def test_count_is_the_number_of_due_steps(every: int, until: int, length: int) -> None:
    due = Every(every, until)
    assert due.count(length) == sum(due(step) for step in range(1, length + 1))


def test_due_at_multiples_up_to_and_with_the_last() -> None:
    assert [step for step in range(-5, 30) if Every(5, until=20)(step)] == [5, 10, 15, 20]
    assert [step for step in range(30) if Every(5, until=19)(step)] == [5, 10, 15]
    assert not any(Every(5, until=4)(step) for step in range(30))
    assert Every(5, until=4).count(1000) == 0
    assert not any(Never()(step) for step in range(30))
    assert Never().count(1000) == 0


@pytest.mark.parametrize(
    "value",
    [
        Constant(0.5),
        Linear(1.0, 0.0, steps=5),
        Cosine(0.5, 0.005, steps=7),
        Cubic(0.0, 0.9, begin=1, steps=9),
        Exponential(1e-2, 0.9, every=1000),
        Every(100, until=900),
        Never(),
    ],
)
def test_a_schedule_is_a_value(value: Schedule | Due) -> None:
    assert eval(repr(value)) == value
    assert hash(eval(repr(value))) == hash(value)


def test_two_kinds_with_the_same_numbers_differ() -> None:
    assert Linear(0.5, 0.1, 10) != Cosine(0.5, 0.1, 10)


@pytest.mark.parametrize(
    ("make", "given", "name", "least", "suggestion"),
    [
        (lambda: Linear(0.5, 0.0, steps=22500.0), "Linear(steps=22500.0)", "steps", 1, 22500),
        (lambda: Cosine(0.5, 0.0, steps=0), "Cosine(steps=0)", "steps", 1, 1),
        (lambda: Cubic(0.0, 0.9, begin=-3, steps=9), "Cubic(begin=-3)", "begin", 0, 0),
        (lambda: Exponential(1.0, 0.9, every=0), "Exponential(every=0)", "every", 1, 1),
        (lambda: Every(every=0, until=10), "Every(every=0)", "every", 1, 1),
        (lambda: Every(every=5, until=-1), "Every(until=-1)", "until", 0, 0),
        (lambda: Every(every=5, until=math.inf), "Every(until=inf)", "until", 0, 0),
    ],
)
def test_steps_are_whole_numbers(make, given, name, least, suggestion) -> None:
    with pytest.raises(ValueError, match="whole number") as error:
        make()
    assert str(error.value) == (
        f"{given} is not possible, because {name} counts optimizer steps: a whole number of at least "
        f"{least}. Give one as an int, such as {name}={suggestion}."
    )


@pytest.mark.parametrize(
    ("make", "given", "name"),
    [
        (lambda: Constant(math.nan), "Constant(value=nan)", "value"),
        (lambda: Linear(0.5, math.inf, steps=10), "Linear(end=inf)", "end"),
        (lambda: Cosine(-math.inf, 0.0, steps=10), "Cosine(start=-inf)", "start"),
        (lambda: Cubic(0.0, math.nan, begin=0, steps=10), "Cubic(end=nan)", "end"),
        (lambda: Exponential(math.nan, 0.9, every=10), "Exponential(start=nan)", "start"),
    ],
)
def test_values_are_finite(make, given, name) -> None:
    with pytest.raises(ValueError, match="finite") as error:
        make()
    assert str(error.value) == (
        f"{given} is not possible, because a schedule passes through its {name} and gives numbers. "
        f"Give a finite {name}."
    )


def test_a_cubic_needs_room() -> None:
    with pytest.raises(ValueError, match="no step") as error:
        Cubic(0.0, 0.9, begin=10, steps=10)
    assert str(error.value) == (
        "Cubic(start=0.0, end=0.9, begin=10, steps=10) has no step to change in, because it begins at 10 and "
        "ends at 10. Give a last step after the first: steps=11 or more."
    )


@pytest.mark.parametrize("factor", [1.5, 0.0, -0.9])
def test_an_exponential_decays(factor: float) -> None:
    with pytest.raises(ValueError, match="decay") as error:
        Exponential(1.0, factor, every=10)
    assert str(error.value) == (
        f"Exponential(factor={factor}) does not decay, because its value is multiplied by {factor} every 10 "
        "steps. Give a factor in (0, 1], such as factor=0.9."
    )
