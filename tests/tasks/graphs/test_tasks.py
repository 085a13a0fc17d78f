"""Link prediction as tasks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rewire.metrics.flops import forward_flops
from rewire.tasks.graphs import Edges, graph_data
from rewire.tasks.graphs.link_data import LinkData, LinkExamples
from rewire.tasks.graphs.message_passing import gcn, graphsage
from rewire.tasks.graphs.pair_mlp import pair_mlp
from rewire.tasks.graphs.tasks import HITS, LinkPrediction, MessagePassing
from rewire.tasks.models.mlp import mlp

torch.set_num_threads(1)

HELD_OUT = ("validation", "test")
REPOSITORY = Path(__file__).parents[3]


def examples(count: int, first: int = 0) -> LinkExamples:
    """Every other pair is an edge; the label is the head's parity, and no two pairs are alike."""
    numbers = torch.arange(first, first + count)
    return LinkExamples(torch.stack([numbers, numbers + 1], 1), numbers % 2)


def pairs_task(**options) -> LinkPrediction:
    data = LinkData("made", examples(40), examples(10), examples(20), torch.randn(41, 2), edges=35, note="by hand")
    return LinkPrediction(data, lambda: pair_mlp(data.embeddings, [4]), **{"batch_size": 8, **options})


class First(nn.Module):
    """Knows the label, but calls the pairs of `wrong` the other way round."""

    def __init__(self, wrong: int = 0) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        logits = 4.0 * (pairs[:, :1] % 2) - 2
        logits[: self.wrong] *= -1
        return logits


def test_scores_of_pairs_are_accuracy_and_auc() -> None:
    task = pairs_task()
    assert [measure.name for measure in task.measures] == ["accuracy", "auc"]
    assert task.score(First(), "test", "cpu") == {"accuracy": 1.0, "auc": 1.0}
    # Of 10 pairs, 5 of them edges, the first two (a non-edge and an edge) swap: each loses against 4 and ties none.
    found = task.score(First(wrong=2), "validation", "cpu")
    assert found == {"accuracy": 0.8, "auc": pytest.approx((16 + 4 * 0.5 + 4 * 0.5 + 0) / 25)}


def test_batches_of_pairs_hold_every_pair_once_in_an_order_of_their_epoch() -> None:
    task = pairs_task()
    assert task.steps == len(task.source("cpu")) == 5
    seen = list(task.source("cpu").epoch(0))
    assert all(torch.equal(pairs[:, 0] % 2, labels) for pairs, labels in seen)
    assert sorted(int(head) for pairs, _ in seen for head in pairs[:, 0]) == list(range(40))
    assert not torch.equal(seen[0][0], next(iter(task.source("cpu").epoch(1)))[0])
    assert not torch.equal(seen[0][0], next(iter(pairs_task(seed=1).source("cpu").epoch(0)))[0])
    loss = task.loss(torch.tensor([[0.0], [0.0]]), torch.tensor([0, 1]))
    assert float(loss) == pytest.approx(0.6931, abs=1e-4)


def test_an_epoch_of_pairs_goes_on_anywhere_and_leaves_no_part_of_a_batch() -> None:
    source = pairs_task(batch_size=7).source("cpu")
    whole, rest = list(source.epoch(3)), list(source.epoch(3, start=2))
    assert [len(labels) for _, labels in whole] == [7] * 5
    assert all(
        torch.equal(a, b) for one, other in zip(whole[2:], rest, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_processes_share_a_batch_of_pairs() -> None:
    task = pairs_task()
    parts = [list(task.source("cpu", rank=rank, world_size=2).epoch(0)) for rank in (0, 1)]
    for whole, *shares in zip(task.source("cpu").epoch(0), *parts, strict=True):
        assert torch.equal(whole[0], torch.cat([pairs for pairs, _ in shares]))
        assert torch.equal(whole[1], torch.cat([labels for _, labels in shares]))
    with pytest.raises(ValueError, match=r"A batch of 8 pairs has no equal parts for 3 processes\. Use batch_size=6\."):
        task.source("cpu", rank=0, world_size=3)


def test_a_sample_of_pairs_is_the_same_at_every_call() -> None:
    first, again = pairs_task().sample(2, "cpu"), pairs_task().sample(2, "cpu")
    assert [len(y) for _, y in first] == [8, 8]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], pairs_task(seed=1).sample(2, "cpu")[0][0])


def test_an_example_of_pairs_is_one_the_network_takes() -> None:
    task = pairs_task()
    pairs, labels = task.example(6)
    assert task.model()(pairs).shape == (6, 1)
    assert labels.shape == (6,)


def test_the_vectors_are_in_the_model_but_not_trained_and_the_note_says_so() -> None:
    task = pairs_task()
    model = task.model()
    assert sum(parameter.numel() for parameter in model.parameters()) == 41 * 2 + 4 * 4 + 4 + 4 + 1
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["embedding.weight"]
    model.embedding.weight.data.zero_()  # which other runs on this data must not notice
    assert task.data.embeddings.any()
    assert task.note == (
        "by hand; the word2vec vectors of the 41 nodes are part of the model, dense, counted in size on disk, not "
        "among the active weights, which are those of the sparse layers"
    )


def test_the_network_is_the_mlp_on_both_vectors_one_after_the_other() -> None:
    embeddings, pairs = torch.randn(5, 3), torch.tensor([[4, 0], [1, 1]])
    expected = mlp(6, [7], 1, seed=2)(torch.cat([embeddings[[4, 1]], embeddings[[0, 1]]], 1))
    assert torch.equal(pair_mlp(embeddings, [7], seed=2)(pairs), expected)


def ring(nodes: int = 60) -> Edges:
    here = torch.arange(nodes)
    pairs = torch.cat([torch.stack([here, (here + step) % nodes], 1) for step in (1, 2)])
    return Edges("ring", pairs.sort(1).values, None, tuple(map(str, range(nodes))), directed=False)


def graph_task(seed: int = 0) -> MessagePassing:
    data = graph_data(ring(), validation=0.2, test=0.2, seed=0)
    return MessagePassing(data, lambda: gcn(data.num_nodes, width=8), seed)


def test_a_step_sees_the_whole_graph_with_new_non_edges() -> None:
    task = graph_task()
    source = task.source("cpu")
    assert task.steps == len(source) == 1
    ((index, pairs), labels), *rest = source.epoch(0)
    assert not rest
    assert list(source.epoch(0, start=1)) == []
    count = len(task.data.train.positive)
    assert labels.tolist() == [1.0] * count + [0.0] * count
    assert torch.equal(pairs[:count], task.data.train.positive)
    assert torch.equal(index, task.data.edge_index_train)
    (((_, again), _),) = source.epoch(0)
    (((_, other), _),) = source.epoch(1)
    assert torch.equal(pairs, again)
    assert not torch.equal(pairs, other)
    (((_, resumed), _),) = task.source("cpu").epoch(1)  # by a source that drew no epoch before
    assert torch.equal(other, resumed)


def test_no_epoch_trains_on_what_is_held_out() -> None:
    task = graph_task()
    seen = torch.cat([pairs for epoch in range(300) for (_, pairs), _ in task.source("cpu").epoch(epoch)])
    trained = {tuple(sorted(pair)) for pair in seen.tolist()}
    held_out = torch.cat([pairs for part in HELD_OUT for pairs in vars(getattr(task.data, part)).values()])
    assert len(held_out) == 2 * 2 * 24
    assert not trained & {tuple(sorted(pair)) for pair in held_out.tolist()}
    assert len(trained) == 60 * 59 // 2 - len({tuple(sorted(pair)) for pair in held_out.tolist()})  # all others


WAITS = """
import json, sys
import torch
sys.path[:0] = ["tests", "tests/tasks/graphs"]
import far
import test_tasks

task = test_tasks.graph_task()
far.register()
with far.Watched() as watched:
    source, found = task.source(far.NAME), []
    for epoch in range(3):
        watched.waits.clear()
        (((_, pairs), labels),) = source.epoch(epoch)
        found.append([dict(watched.waits), pairs.near.tolist()])
print(json.dumps(found))
"""


def test_a_step_copies_its_random_numbers_to_the_device_and_waits_for_nothing_else() -> None:
    """On a GPU not even for these, which are pinned."""
    done = subprocess.run([sys.executable, "-c", WAITS], check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    source = graph_task().source("cpu")
    for epoch, (waits, pairs) in enumerate(json.loads(done.stdout)):
        (((_, expected), _),) = source.epoch(epoch)
        assert pairs == expected.tolist()
        if epoch:  # tables of non-edges are made in the first
            assert waits == {"_to_copy": 1}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_a_step_waits_for_nothing_and_has_the_pairs_of_the_cpu() -> None:
    source, there = graph_task().source("cpu"), graph_task().source("cuda")
    list(there.epoch(0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [next(there.epoch(epoch)) for epoch in range(20)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for epoch, ((_, pairs), _) in enumerate(found):
        assert torch.equal(pairs.cpu(), next(source.epoch(epoch))[0][1])


def test_messages_learn_a_ring() -> None:
    """Over eight seeds the AUC came to 0.81 on average, with a standard deviation of 0.05."""
    task = graph_task()
    model = task.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    before = task.score(model.eval(), "test", "cpu")
    for epoch in range(60):
        for inputs, labels in task.source("cpu").epoch(epoch):
            task.loss(model(*inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    after = task.score(model.eval(), "test", "cpu")
    assert set(after) == {"auc", f"hits_at_{HITS}"}
    assert after["auc"] > max(0.7, before["auc"])


@pytest.mark.parametrize(("share", "names"), [(1 / 6, ["auc", "hits_at_20"]), (19 / 120, ["auc"])])
def test_hits_are_left_out_where_a_held_out_part_has_too_few_non_edges(share: float, names: list[str]) -> None:
    """Of 120 edges one sixth are 20."""
    for shares in ({"validation": share, "test": 0.3}, {"validation": 0.3, "test": share}):
        data = graph_data(ring(), **shares)
        task = MessagePassing(data, lambda data=data: gcn(data.num_nodes, width=8))
        assert [measure.name for measure in task.measures] == names
        for part in HELD_OUT:
            assert list(task.score(task.model(), part, "cpu")) == names
        assert ("; no hits@20, as validation or test has only 19 non-edges; " in task.note) == (len(names) == 1)


def test_a_graph_is_not_shared_by_processes() -> None:
    with pytest.raises(ValueError, match=r"which 2 processes cannot share\. Use one process"):
        graph_task().source("cpu", rank=0, world_size=2)


def test_the_flops_of_messages_belong_to_the_layers() -> None:
    task = graph_task()
    for make, layers in ((gcn, ["lin"]), (graphsage, ["lin_l", "lin_r"])):
        flops = forward_flops(make(60, width=8), task.example(1)[0])
        names = [f"layers.{number}.{layer}.weight" for number in (0, 1) for layer in layers]
        assert flops == {"": 0, "embedding.weight": 0} | dict.fromkeys(names, 2 * 60 * 8 * 8)


def test_the_note_of_message_passing_says_what_is_held_out_and_what_stands_for_features() -> None:
    assert graph_task().note == (
        "split at random; no held-out edge or non-edge is trained on; the edge list has no features: vectors of the 60 "
        "nodes are learned, dense, counted in size on disk, not among the active weights, which are those of the "
        "sparse layers; not comparable with published figures from node features"
    )
