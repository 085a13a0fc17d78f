from itertools import combinations

import torch

from rewire.tasks.graphs.edges import Edges, read_edges
from rewire.tasks.graphs.graph_data import graph_data
from rewire.tasks.graphs.seeds import generator


def random_graph(seed=0):
    draws = torch.Generator().manual_seed(seed)
    pairs = torch.randint(30, (150, 2), generator=draws)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]].sort(dim=1).values.unique(dim=0)
    return Edges("toy", pairs, None, tuple(str(node) for node in range(30)), directed=False)


def unordered(pairs):
    return [tuple(sorted(pair)) for pair in pairs.tolist()]


def test_sets_are_disjoint_edges_and_non_edges_one_to_one():
    graph = random_graph()
    data = graph_data(graph)
    parts = (data.train, data.validation, data.test)
    assert sorted(pair for part in parts for pair in unordered(part.positive)) == sorted(unordered(graph.pairs))
    count = len(graph)
    assert [len(part.positive) for part in parts[1:]] == [round(0.05 * count), round(0.1 * count)]
    for part in parts:
        assert part.negative.shape == part.positive.shape
        assert not set(unordered(part.negative)) & set(unordered(graph.pairs))
        assert (part.negative[:, 0] != part.negative[:, 1]).all()
    negatives = [set(unordered(part.negative)) for part in parts]
    assert len(set.union(*negatives)) == sum(map(len, negatives))


def test_messages_pass_along_training_edges_only():
    data = graph_data(random_graph())
    arcs = data.edge_index_train.T
    assert len(arcs) == 2 * len(data.train.positive)
    assert {tuple(arc) for arc in arcs.tolist()} == {tuple(arc) for arc in arcs.flip(1).tolist()}
    assert set(unordered(arcs)) == set(unordered(data.train.positive))
    held_out = unordered(data.validation.positive) + unordered(data.test.positive)
    assert not set(unordered(arcs)) & set(held_out)


def test_events_become_one_undirected_edge_and_the_latest_are_the_test():
    pairs = torch.tensor([(u, v) for u in range(6) for v in range(6) if u != v])
    pairs = pairs[(pairs.sum(1) != 5) & (pairs.sum(1) != 4)]  # 12 undirected edges, each in both directions
    times = torch.arange(len(pairs)).double().flip(0)
    data = graph_data(Edges("toy", pairs, times, tuple("abcdef"), directed=True), validation=0.1, test=0.2)
    first = {}
    for pair, time in zip(unordered(pairs), times.tolist(), strict=True):
        first[pair] = min(time, first.get(pair, time))
    latest = sorted(first, key=first.get)[-len(data.test.positive) :]
    assert sorted(unordered(data.test.positive)) == sorted(latest)
    merged = len(pairs) - len(first)
    assert data.note == (
        f"{merged} edges between nodes already joined left out; directions dropped; split by time; no held-out edge or "
        "non-edge is trained on"
    )
    counts = [len(part.positive) for part in (data.train, data.validation, data.test)]
    assert repr(data) == (
        f"GraphData(toy: 6 nodes; {counts[0]} training, {counts[1]} validation and {counts[2]} test edges, as many "
        f"non-edges, {data.note})"
    )


def test_the_seed_is_the_only_randomness():
    a, again, b = (graph_data(random_graph(), seed=seed) for seed in (1, 1, 2))
    for name in ("train", "validation", "test"):
        assert torch.equal(getattr(a, name).positive, getattr(again, name).positive)
        assert torch.equal(getattr(a, name).negative, getattr(again, name).negative)
    assert not torch.equal(a.edge_index_train, b.edge_index_train)


def test_other_negatives_for_every_epoch_until_none_but_the_held_out_are_left():
    graph = random_graph()
    data = graph_data(graph)
    drawn = [data.non_edges.corrupt(data.train.positive, generator(0, "epoch", epoch)) for epoch in range(200)]
    assert not torch.equal(drawn[0], drawn[1])
    held_out = set(unordered(data.validation.negative)) | set(unordered(data.test.negative))
    rest = set(combinations(range(30), 2)) - set(unordered(graph.pairs)) - held_out
    assert set(unordered(torch.cat(drawn))) == rest


def test_a_real_graph(graphs_folder):
    data = graph_data(read_edges(graphs_folder / "seal-USAir.txt"))
    assert repr(data) == (
        "GraphData(seal-USAir: 332 nodes; 1807 training, 106 validation and 213 test edges, as many non-edges, "
        "split at random; no held-out edge or non-edge is trained on)"
    )
