"""Link prediction as tasks: by an MLP that sees pairs of embeddings, and by message passing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewire.measures import MEASURES, Measure
from rewire.tasks.batches import seed_of
from rewire.tasks.graphs.edges import remarks
from rewire.tasks.graphs.graph_data import GraphData, LabelledPairs
from rewire.tasks.graphs.link_data import LinkData, LinkExamples
from rewire.tasks.graphs.metrics import accuracy, auc, hits
from rewire.tasks.graphs.seeds import generator
from rewire.tasks.task import Batch, Part, Task

HITS = 20
COUNTED = "dense, counted in size on disk, not among the active weights, which are those of the sparse layers"


@dataclass(frozen=True, eq=False)
class LinkPrediction(Task):
    """Is this pair of nodes an edge? A network gives a logit, from the vectors of both nodes, which it holds.

    In a graph with times the test edges are the latest; in one without, any: the seed draws them (see `split`).

    make: returns the network, called with pairs of nodes. seed: of the order of pairs.
    """

    data: LinkData
    make: Callable[[], nn.Module]
    batch_size: int
    seed: int = 0
    measures: tuple[Measure, ...] = (MEASURES["accuracy"], MEASURES["auc"])
    unit: str = "pairs"

    @property
    def note(self) -> str:  # type: ignore[override]
        vectors = f"the word2vec vectors of the {self.data.nodes:,} nodes are part of the model, {COUNTED}"
        return remarks(self.data.note, vectors)

    @property
    def fingerprint(self) -> str:
        return self.data.fingerprint

    def model(self) -> nn.Module:
        return self.make()

    @property
    def steps(self) -> int:
        return len(self.data.train) // self.batch_size

    def source(self, device: torch.device | str, rank: int = 0, world_size: int = 1) -> PairBatches:
        return PairBatches(self.data.train, self.batch_size, device, self.seed, rank, world_size)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output.squeeze(1).float(), target.float())

    def score(self, model: nn.Module, part: Part, device: torch.device | str) -> dict[str, float]:
        examples = self.data.test if part == "test" else self.data.validation
        logits = model(examples.pairs.to(device)).squeeze(1).float().cpu()
        return {"accuracy": accuracy(logits.sigmoid(), examples.labels), "auc": auc(logits, examples.labels)}

    def example(self, count: int) -> Batch:
        draws = torch.Generator().manual_seed(0)
        pairs = torch.randint(0, self.data.nodes, (count, 2), generator=draws)
        return pairs, torch.randint(0, 2, (count,), generator=draws)

    def sample(self, batches: int, device: torch.device | str) -> list[Batch]:
        some = torch.randperm(len(self.data.train), generator=generator(self.seed, "sample"))
        pairs, labels = self.data.train.pairs.to(device), self.data.train.labels.to(device)
        return [(pairs[chosen], labels[chosen]) for chosen in some.to(device).split(self.batch_size)[:batches]]


class PairBatches:
    """The batches of any epoch, each determined by (seed, epoch, position) alone; the last pairs may not fill one.

    Rank r of `world_size` gets the r-th part of each batch that one process would get.
    """

    def __init__(
        self,
        examples: LinkExamples,
        batch_size: int,
        device: torch.device | str,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(
                f"A batch of {batch_size} pairs has no equal parts for {world_size} processes. Use "
                f"batch_size={batch_size - batch_size % world_size or world_size}."
            )
        self.pairs, self.labels = examples.pairs.to(device), examples.labels.to(device)
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed_of(self.seed, epoch)))
        batches = order[: len(self) * self.batch_size].reshape(len(self), self.world_size, -1)[start:, self.rank]
        for chosen in batches.to(self.pairs.device):
            yield self.pairs[chosen], self.labels[chosen]


@dataclass(frozen=True, eq=False)
class MessagePassing(Task):
    """Which pairs of nodes are edges? A network passes messages along the training edges and gives each pair a logit.

    A step sees the whole graph: all training edges and as many non-edges, others in every step, but none that is held
    out for validation or test. Its test edges are those of `LinkPrediction`, of the graph made simple.

    Hits@20 needs 20 non-edges. Where validation or test has fewer, it is left out, and the note says so: with another k
    it would be another measure under its name, and the AUC, by which runs are compared, needs no more than one.

    make: returns the network, called with the edge index and the pairs. seed: of the non-edges.
    """

    data: GraphData
    make: Callable[[], nn.Module]
    seed: int = 0
    batch_size: int = 1
    unit: str = "graphs"
    steps: int = 1

    @property
    def measures(self) -> tuple[Measure, ...]:  # type: ignore[override]
        both = (MEASURES["auc"], MEASURES[f"hits_at_{HITS}"])
        return both if self._held_out >= HITS else both[:1]

    @property
    def note(self) -> str:  # type: ignore[override]
        few = f"no hits@{HITS}, as validation or test has only {self._held_out} non-edges"
        vectors = f"the edge list has no features: vectors of the {self.data.num_nodes:,} nodes are learned, {COUNTED}"
        published = "not comparable with published figures from node features"
        return remarks(self.data.note, few if self._held_out < HITS else "", vectors, published)

    @property
    def _held_out(self) -> int:
        """Non-edges of the smaller of the held-out parts."""
        return min(len(part.negative) for part in (self.data.validation, self.data.test))

    @property
    def fingerprint(self) -> str:
        return self.data.fingerprint

    def model(self) -> nn.Module:
        return self.make()

    def source(self, device: torch.device | str, rank: int = 0, world_size: int = 1) -> WholeGraph:
        if world_size > 1:
            raise ValueError(
                f"A step of message passing sees the whole graph, which {world_size} processes cannot share. Use one "
                "process."
            )
        return WholeGraph(self.data, self.seed, device)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output.float(), target)

    def score(self, model: nn.Module, part: Part, device: torch.device | str) -> dict[str, float]:
        inputs, labels = _batch(self.data, self.data.test if part == "test" else self.data.validation, device)
        logits, edge = model(*inputs).float().cpu(), labels.cpu() > 0
        found = {"auc": auc(logits, edge)}
        if self._held_out >= HITS:
            found[f"hits_at_{HITS}"] = hits(logits[edge], logits[~edge], HITS)
        return found

    def example(self, count: int) -> Batch:
        return _batch(self.data, self.data.train, "cpu")

    def sample(self, batches: int, device: torch.device | str) -> list[Batch]:
        return [_batch(self.data, self.data.train, device)]


class WholeGraph:
    """One batch an epoch, whose non-edges are drawn anew by (seed, epoch); all else is on the device from the start."""

    def __init__(self, data: GraphData, seed: int, device: torch.device | str) -> None:
        (self.edge_index, pairs), self.labels = _batch(data, data.train, device)
        self.positive, self.non_edges, self.seed = pairs[: len(data.train.positive)], data.non_edges.to(device), seed

    def __len__(self) -> int:
        return 1

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        if start == 0:
            negative = self.non_edges.corrupt(self.positive, generator(self.seed, "epoch", epoch))
            yield (self.edge_index, torch.cat([self.positive, negative])), self.labels


def _batch(data: GraphData, pairs: LabelledPairs, device: torch.device | str) -> Batch:
    both = torch.cat([pairs.positive, pairs.negative])
    labels = (torch.arange(len(both)) < len(pairs.positive)).float()
    return (data.edge_index_train.to(device), both.to(device)), labels.to(device)
