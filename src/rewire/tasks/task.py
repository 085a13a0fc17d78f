"""What the training loop asks of a task: a model, batches, a loss, and figures that say how good the model is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from rewire.measures import Measure

Batch = tuple[Any, Any]  # what the model takes: a Tensor, a tuple or a dict of arguments; what the loss compares with
Part = Literal["validation", "test"]


class Source(Protocol):
    """The batches of any epoch, each determined by (seed, epoch, position) alone, so that a run can go on anywhere."""

    def __len__(self) -> int:
        """Batches, that is optimizer steps, in an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of that epoch, from batch `start` on."""


class Task(ABC):
    """A data set, a model for it, and how well the model does.

    note: a remark that belongs beside every figure. batch_size: samples of an optimizer step, over all processes; unit:
    what they are, in the plural. measures: the first is the one that runs are compared by.
    """

    note: str = ""
    unit: str = "samples"
    batch_size: int
    measures: tuple[Measure, ...]

    @property
    def fingerprint(self) -> str:
        """Stands for the data, whatever seed divides it: other data has another one; "" where it is not known."""
        return ""

    @abstractmethod
    def model(self) -> nn.Module:
        """Returns the network with its initial weights, on the CPU."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Optimizer steps in an epoch."""

    @abstractmethod
    def source(self, device: torch.device | str, rank: int = 0, world_size: int = 1) -> Source:
        """Returns the batches to learn from, of several processes each its part."""

    @abstractmethod
    def loss(self, output: Any, target: Any) -> Tensor:
        """Returns the number that training lowers, the mean over a batch."""

    @abstractmethod
    def score(self, model: nn.Module, part: Part, device: torch.device | str) -> dict[str, float]:
        """Returns the measures of a part by name, of the model in the mode and precision that it is in.

        "validation" is for every choice; "test" is read once, at the end.
        """

    @abstractmethod
    def example(self, count: int) -> Batch:
        """Returns a batch of `count` samples of the shape that training has, but made up: to measure what it costs."""

    @abstractmethod
    def sample(self, batches: int, device: torch.device | str) -> Iterable[Batch]:
        """Returns some of the training data in batches, not augmented, the same at every call."""
