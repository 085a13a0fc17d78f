from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewire.tasks.graphs.edges import Edges
from rewire.tasks.graphs.negatives import NonEdges, held_out_first, oriented
from rewire.tasks.graphs.seeds import generator


def graph(pairs, nodes, directed=True):
    names = tuple(str(node) for node in range(nodes))
    return Edges("toy", torch.tensor(pairs).reshape(-1, 2), None, names, directed)


def free(pairs, nodes, directed):
    taken = set(pairs) | (set() if directed else {(v, u) for u, v in pairs})
    return set(permutations(range(nodes), 2)) - taken


def test_non_edges_by_hand():
    directed = NonEdges.of(graph([(0, 1), (1, 2)], 3))
    assert len(directed) == 4  # (0, 2), (1, 0), (2, 0), (2, 1)
    undirected = NonEdges.of(graph([(0, 1), (1, 2)], 3, directed=False))
    assert len(undirected) == 2
    drawn = undirected.corrupt(torch.tensor([[0, 1]] * 50), generator(0))
    assert {tuple(pair) for pair in drawn.tolist()} == {(0, 2), (2, 0)}


@st.composite
def graphs(draw):
    nodes = draw(st.integers(2, 8))
    node = st.integers(0, nodes - 1)
    pairs = draw(st.sets(st.tuples(node, node).filter(lambda pair: pair[0] != pair[1]), min_size=1, max_size=30))
    return sorted(pairs), nodes, draw(st.booleans())


@given(graphs(), st.integers(0, 2**40))
def test_negatives_are_one_to_one_and_never_edges(case, seed):
    pairs, nodes, directed = case
    others, allowed = NonEdges.of(graph(pairs, nodes, directed)), free(pairs, nodes, directed)
    assert len(others) == len(allowed)
    if not allowed:
        return
    positives = torch.tensor(pairs * 5)
    drawn = others.corrupt(positives, generator(seed))
    assert drawn.shape == positives.shape
    assert {tuple(pair) for pair in drawn.tolist()} <= allowed
    assert torch.equal(drawn, others.corrupt(positives, generator(seed)))


def test_every_non_edge_has_its_chance():
    pairs, nodes = [(0, 1), (0, 2), (1, 2), (3, 0)], 4
    others, allowed = NonEdges.of(graph(pairs, nodes)), sorted(free(pairs, nodes, True))
    count = 40_000
    drawn = others.corrupt(torch.tensor([(1, 2)]).repeat(count, 1), generator(5))
    seen = dict.fromkeys(allowed, 0)
    for pair in drawn.tolist():
        seen[tuple(pair)] += 1
    # Head 1 has two free tails, 0 and 3; of all 12 pairs 8 are free.
    for pair in allowed:
        chance = 0.5 / 8 + (0.5 / 2 if pair[0] == 1 else 0)
        assert seen[pair] / count == pytest.approx(chance, abs=0.01), pair


def test_a_head_joined_to_all_others_gets_any_non_edge():
    others = NonEdges.of(graph([(0, 1), (0, 2)], 3))
    drawn = others.corrupt(torch.tensor([(0, 1)] * 100), generator(0))
    assert {tuple(pair) for pair in drawn.tolist()} == {(1, 0), (1, 2), (2, 0), (2, 1)}


def test_a_complete_graph_has_none():
    complete = NonEdges.of(graph([(0, 1), (0, 2), (1, 2)], 3, directed=False))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole text is compared)
        complete.corrupt(torch.tensor([(0, 1)]), generator(0))
    assert str(caught.value) == (
        "No pair of the 3 nodes is left that is neither an edge nor held out as a non-edge, so there is nothing to "
        "tell edges from. Use a graph with more nodes or fewer edges."
    )


def test_non_edges_without_some_by_hand():
    directed = NonEdges.of(graph([(0, 1), (1, 2)], 3)).without(torch.tensor([(2, 0), (2, 0), (1, 0)]))
    assert directed.taken.tolist() == [0, 1, 3, 4, 5, 6, 8]  # of 9 pairs (0, 2) and (2, 1) are left
    undirected = NonEdges.of(graph([(0, 1)], 3, directed=False)).without(torch.tensor([(2, 0)]))
    assert undirected.taken.tolist() == [0, 1, 2, 3, 4, 6, 8]  # (1, 2) and (2, 1) are left


@given(graphs(), st.integers(0, 2**40))
def test_no_pair_is_in_two_sets_nor_left_for_training(case, seed):
    pairs, nodes, directed = case
    allowed = free(pairs, nodes, directed)
    count = len(allowed) // 4  # of an undirected graph each takes two
    shares = {"train": pairs, "validation": (pairs * count)[:count], "test": (pairs * count)[:count]}
    positives = {part: torch.tensor(some).reshape(-1, 2) for part, some in shares.items()}
    if not count:
        return
    drawn, left = held_out_first(graph(pairs, nodes, directed), positives, seed)

    def pairs_of(part):
        return {tuple(pair if directed else sorted(pair)) for pair in drawn[part].tolist()}

    for part, others in (("train", "validation"), ("validation", "test"), ("test", "train")):
        assert drawn[part].shape == positives[part].shape
        assert {tuple(pair) for pair in drawn[part].tolist()} <= allowed
        assert not pairs_of(part) & pairs_of(others)
    held_out = pairs_of("validation") | pairs_of("test")
    assert len(left) == len(allowed) - len(held_out) * (1 if directed else 2)
    again = left.corrupt(torch.tensor(pairs * 20), generator(seed, "again"))
    assert not held_out & {tuple(pair if directed else sorted(pair)) for pair in again.tolist()}


def test_those_of_the_test_are_drawn_first_and_validation_next():
    """What is held out is the same whoever trains; of what the test has taken, validation has none."""
    edges = graph([(u, v) for u in range(9) for v in range(u)], 12, directed=False)
    tested, chosen = edges.pairs[:3], edges.pairs[3:6]
    drawn, _ = held_out_first(edges, {"train": edges.pairs[6:], "validation": chosen, "test": tested}, seed=4)
    other, _ = held_out_first(edges, {"train": edges.pairs[6:9], "validation": chosen, "test": tested}, seed=4)
    everything = NonEdges.of(edges)
    assert torch.equal(drawn["test"], everything.corrupt(tested, generator(4, "negatives", "test")))
    rest = everything.without(drawn["test"])
    assert torch.equal(drawn["validation"], rest.corrupt(chosen, generator(4, "negatives", "validation")))
    assert torch.equal(drawn["validation"], other["validation"])


def test_where_all_non_edges_are_held_out_none_is_left_to_train_on():
    edges = graph([(0, 1), (1, 2), (0, 3), (1, 3), (2, 3)], 4, directed=False)  # all but (0, 2)
    positives = {"train": edges.pairs[2:], "validation": edges.pairs[:1], "test": edges.pairs[1:2]}
    with pytest.raises(ValueError, match=r"^No pair of the 4 nodes is left that is neither an edge nor held out as a "):
        held_out_first(edges, positives, seed=0)


def test_orientation_is_by_lot():
    pairs = torch.tensor([(0, 1)] * 1000)
    turned = oriented(pairs, generator(0))
    assert torch.equal(turned.sort(dim=1).values, pairs)
    assert 400 < turned[:, 0].sum() < 600
