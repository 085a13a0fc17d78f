"""Selection: exactly k, ties by index, one group and many alike."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from rewire.core.select import top


@given(st.data())
def test_exactly_count_of_the_best_by_sorting(data: st.DataObject) -> None:
    groups, units = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    values = st.sampled_from([-torch.inf, -1.0, 0.0, 0.5, 1.0, torch.inf])  # few values, so many ties
    score = torch.tensor(
        data.draw(st.lists(st.lists(values, min_size=units, max_size=units), min_size=groups, max_size=groups))
    )
    flags = st.lists(st.booleans(), min_size=units, max_size=units)
    candidates = torch.tensor(data.draw(st.lists(flags, min_size=groups, max_size=groups)))
    counts = data.draw(st.lists(st.integers(0, units), min_size=groups, max_size=groups))
    chosen = top(score, candidates, torch.tensor(counts))
    for g in range(groups):
        ranked = sorted(candidates[g].nonzero()[:, 0].tolist(), key=lambda i, g=g: (-score[g, i].item(), i))
        assert sorted(ranked[: counts[g]]) == chosen[g].nonzero()[:, 0].tolist()


def test_all_equal_scores_give_exactly_k_of_lowest_index() -> None:
    chosen = top(torch.zeros(1, 1000), torch.ones(1, 1000, dtype=torch.bool), torch.tensor([37]))
    assert chosen[0].nonzero()[:, 0].tolist() == list(range(37))


def test_a_candidate_beats_a_non_candidate_even_at_minus_infinity() -> None:
    score = torch.tensor([[5.0, -torch.inf]])
    chosen = top(score, torch.tensor([[False, True]]), torch.tensor([1]))
    assert chosen.tolist() == [[False, True]]


def test_the_scores_are_left_as_they_were() -> None:
    score = torch.tensor([[1.0, 2.0, 3.0]])
    top(score, torch.tensor([[True, False, True]]), torch.tensor([1]))
    assert score.tolist() == [[1.0, 2.0, 3.0]]
