import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewire.tasks.graphs.edges import Edges
from rewire.tasks.graphs.split import split


def graph(count, times=None):
    pairs = torch.stack([torch.arange(count), torch.arange(count) + 1], 1)
    names = tuple(str(node) for node in range(count + 1))
    return Edges("toy", pairs, times, names, directed=times is not None)


def test_the_latest_edges_are_the_test_by_hand():
    times = torch.tensor([9.0, 1.0, 5.0, 7.0, 2.0, 7.0, 3.0, 4.0, 6.0, 0.0], dtype=torch.float64)
    parts = split(graph(10, times), validation=0.2, test=0.2)
    assert parts.test.tolist() == [0, 5]  # of the two at 7 the one further down
    assert len(parts.validation) == 2
    assert sorted(parts.train.tolist() + parts.validation.tolist()) == [1, 2, 3, 4, 6, 7, 8, 9]


@given(
    count=st.integers(10, 60),
    validation=st.floats(0.1, 0.4),
    test=st.floats(0.1, 0.4),
    seed=st.integers(0, 2**40),
    timed=st.booleans(),
)
def test_sets_are_disjoint_and_have_their_exact_sizes(count, validation, test, seed, timed):
    times = torch.randint(5, (count,)).double() if timed else None
    parts = split(graph(count, times), validation=validation, test=test, seed=seed)
    sets = (parts.train, parts.validation, parts.test)
    assert torch.equal(torch.cat(sets).sort().values, torch.arange(count))
    assert len(parts.validation) == round(validation * count)
    assert len(parts.test) == round(test * count)
    assert all(torch.equal(part, part.sort().values) for part in sets)
    if timed:
        assert times[parts.test].min() >= times[torch.cat(sets[:2])].max()
    assert parts.note == ("split by time" if timed else "split at random")


def test_the_seed_draws_validation_and_without_times_the_test_too():
    timed = graph(50, torch.arange(50).double())
    a, again, b = (split(timed, validation=0.2, test=0.2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.validation, again.validation)
    assert not torch.equal(a.validation, b.validation)
    assert torch.equal(a.test, b.test)
    plain = graph(50)
    a, again, b = (split(plain, validation=0.2, test=0.2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.test, again.test)
    assert not torch.equal(a.test, b.test)


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole text is compared)
        split(graph(4), validation=0.1, test=0.5)
    assert str(caught.value) == (
        "toy has 4 edges, and fractions of 0.1 for validation and 0.5 for the test make sets of 2, 0 and 2: none may "
        "be empty. Use a larger graph, or fractions like 0.2 and 0.2."
    )
    with pytest.raises(ValueError, match="make sets of 0, 2 and 2"):
        split(graph(4), validation=0.5, test=0.5)
