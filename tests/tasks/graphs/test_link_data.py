import pytest
import torch
import torch.nn.functional as F

from rewire.tasks.graphs.edges import Edges, read_edges
from rewire.tasks.graphs.link_data import LEAK, link_data
from rewire.tasks.graphs.metrics import accuracy, auc
from rewire.tasks.graphs.pair_mlp import pair_mlp
from rewire.tasks.graphs.split import split


def random_graph(events=400, nodes=40, timed=True, seed=0):
    draws = torch.Generator().manual_seed(seed)
    heads = torch.randint(nodes, (events,), generator=draws)
    tails = (heads + torch.randint(1, nodes, (events,), generator=draws)) % nodes
    pairs, times = torch.stack([heads, tails], 1), torch.arange(events).double()
    names = tuple(str(node) for node in range(nodes))
    if timed:
        return Edges("toy", pairs, times, names, directed=True)
    return Edges("toy", pairs.sort(dim=1).values.unique(dim=0), None, names, directed=False)


@pytest.mark.parametrize("timed", [True, False])
def test_pairs_are_one_to_one_and_begin_with_the_edges(timed):
    graph = random_graph(timed=timed)
    data = link_data(graph)
    parts = split(graph, validation=0.2, test=0.2)
    for name in ("train", "validation", "test"):
        examples, places = getattr(data, name), getattr(parts, name)
        count = len(places)
        assert examples.labels.tolist() == [1] * count + [0] * count
        assert examples.pairs.shape == (2 * count, 2)
        edges = examples.pairs[:count]  # of a graph without direction, either end may be the head
        assert torch.equal(edges if timed else edges.sort(dim=1).values, graph.pairs[places])
    assert (data.nodes, data.embeddings.shape, data.edges) == (40, (40, 8), len(graph))


@pytest.mark.parametrize("timed", [True, False])
def test_no_non_edge_is_in_two_sets(timed):
    data = link_data(random_graph(timed=timed))
    non_edges = []
    for examples in (data.train, data.validation, data.test):
        drawn = examples.pairs[examples.labels == 0]
        non_edges.append({tuple(pair) for pair in (drawn if timed else drawn.sort(dim=1).values).tolist()})
    assert len(set.union(*non_edges)) == sum(map(len, non_edges))
    assert f"split {'by time' if timed else 'at random'}; no held-out non-edge is trained on" in data.note


def altered(graph, places):
    """The graph with those edges led elsewhere, at their times."""
    pairs = graph.pairs.clone()
    pairs[places] = pairs[places].flip(1) if graph.directed else (pairs[places] + 1) % graph.nodes
    return Edges(graph.name, pairs, graph.times, graph.names, graph.directed)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_what_is_held_out_leaves_no_trace_in_what_is_learned_from(timed, part):
    graph = random_graph(timed=timed)
    parts = split(graph, validation=0.2, test=0.2)
    data, other = link_data(graph), link_data(altered(graph, getattr(parts, part)))
    count = len(parts.train)
    assert torch.equal(data.embeddings, other.embeddings)
    assert torch.equal(data.train.pairs[:count], other.train.pairs[:count])
    assert not torch.equal(getattr(data, part).pairs, getattr(other, part).pairs)
    train = link_data(altered(graph, parts.train))  # and the same change among training edges does show
    assert not torch.equal(data.embeddings, train.embeddings)


@pytest.mark.parametrize("timed", [True, False])
def test_walks_over_all_edges_let_the_test_into_the_vectors_and_say_so(timed):
    graph = random_graph(timed=timed)
    data, leaky = link_data(graph), link_data(graph, walk_over="all")
    other = link_data(altered(graph, split(graph, validation=0.2, test=0.2).test), walk_over="all")
    assert not torch.equal(leaky.embeddings, other.embeddings)
    for part in ("train", "validation", "test"):  # and nothing but the vectors is another
        assert torch.equal(getattr(data, part).pairs, getattr(leaky, part).pairs)
    assert not torch.equal(data.embeddings, leaky.embeddings)
    assert leaky.note == "; ".join(filter(None, [LEAK, data.note]))
    assert "leak" in LEAK


def test_a_node_that_only_the_future_knows_changes_no_other_vector():
    graph = random_graph()
    pairs = torch.cat([graph.pairs[:-1], torch.tensor([[40, 3]])])
    later = Edges("toy", pairs, graph.times, (*graph.names, "new"), directed=True)
    data, other = link_data(graph), link_data(later)
    assert torch.equal(data.embeddings, other.embeddings[:40])
    assert (other.embeddings[40] == 0).all()
    assert "2% of the nodes are on no walk and have the vector 0" in other.note  # 1 of 41


def test_the_seed_is_the_only_randomness():
    a, again, b = (link_data(random_graph(), seed=seed) for seed in (1, 1, 2))
    for name in ("train", "validation", "test"):
        assert torch.equal(getattr(a, name).pairs, getattr(again, name).pairs)
    assert torch.equal(a.embeddings, again.embeddings)
    assert not torch.equal(a.embeddings, b.embeddings)


def test_it_says_how_much_of_the_test_is_no_new_link():
    pairs = torch.tensor([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (2, 0), (3, 1), (0, 1), (2, 1)])
    graph = Edges("toy", pairs, torch.arange(10).double(), tuple("abcdef"), directed=True, note="read by hand")
    data = link_data(graph, validation=0.1)
    known = 50 if 0 in split(graph, validation=0.1, test=0.2).train else 0  # (0, 1) again, (2, 1) never before
    assert known == 50
    assert data.note == (
        "read by hand; split by time; no held-out non-edge is trained on; "
        "50% of the test edges join nodes that a training edge joins"
    )
    assert repr(data) == (
        "LinkData(toy: 14 training, 2 validation and 4 test pairs of 6 nodes, 10 edges, read by hand; split by time; "
        "no held-out non-edge is trained on; 50% of the test edges join nodes that a training edge joins)"
    )


def test_a_small_network_learns_real_messages(graphs_folder):
    data = link_data(read_edges(graphs_folder / "CollegeMsg-temporal.txt"))
    assert (data.nodes, data.edges, len(data.train)) == (1899, 59798, 2 * (59798 - 2 * 11960))
    model = pair_mlp(data.embeddings, [128])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for batch in torch.randperm(len(data.train)).split(1024):
        logits = model(data.train.pairs[batch]).squeeze(1)
        F.binary_cross_entropy_with_logits(logits, data.train.labels[batch].float()).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        for examples, floor in ((data.validation, 0.75), (data.test, 0.62)):
            probabilities = model(examples.pairs).squeeze(1).sigmoid()
            assert accuracy(probabilities, examples.labels) > floor
            assert auc(probabilities, examples.labels) > floor
