"""Classification of images: one of several classes for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewire.measures import Measure
from rewire.tasks.batches import Augmentation, Batches
from rewire.tasks.data import Dataset, Examples, Split
from rewire.tasks.task import Part, Task

# Training images, channels, side in pixels, classes.
SHAPES = {"cifar10": (50_000, 3, 32, 10), "cifar100": (50_000, 3, 32, 100)}
EVALUATION_BATCH = 1000  # images; no gradients are kept, so it can be larger than in training


@dataclass(frozen=True, eq=False)
class ImageClassification(Task):
    """Images with labels, a network that gives a score for each class, and cross-entropy.

    make: returns the network. label_smoothing: share of the target that is spread over all classes. seed: of the order
    of images and their augmentation. channels_last: memory format of the batches.
    """

    dataset: Dataset
    split: Split
    make: Callable[[], nn.Module]
    batch_size: int
    augment: Augmentation = "none"
    label_smoothing: float = 0.0
    seed: int = 0
    channels_last: bool = False
    measures: tuple[Measure, ...] = (Measure("accuracy"),)
    unit: str = "images"

    @property
    def note(self) -> str:  # type: ignore[override]
        return self.dataset.note

    @property
    def fingerprint(self) -> str:
        return self.dataset.fingerprint

    def model(self) -> nn.Module:
        return self.make()

    @property
    def steps(self) -> int:
        return len(self.split.train) // self.batch_size

    def source(self, device: torch.device | str, rank: int = 0, world_size: int = 1) -> Batches:
        return self._batches(self.split.train, device, self.augment, rank=rank, world_size=world_size)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, label_smoothing=self.label_smoothing)

    def score(self, model: nn.Module, part: Part, device: torch.device | str) -> dict[str, float]:
        examples = self.split.test if part == "test" else self.split.validation
        right = torch.zeros((), dtype=torch.int64, device=device)
        for images, labels in self._in_order(examples, device).epoch(0):
            right += (model(images).argmax(1) == labels).sum()
        return {"accuracy": right.item() / len(examples)}

    def example(self, count: int) -> tuple[Tensor, Tensor]:
        shape, generator = (count, *self.dataset.train_images.shape[1:]), torch.Generator().manual_seed(0)
        images = torch.randn(shape, generator=generator)
        labels = torch.randint(0, self.dataset.classes, (count,), generator=generator)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images, labels

    def sample(self, batches: int, device: torch.device | str) -> list[tuple[Tensor, Tensor]]:
        examples = self.split.train
        count = self.batch_size * min(batches, len(examples) // self.batch_size)
        chosen = torch.randperm(len(examples), generator=torch.Generator().manual_seed(self.seed))[:count]
        some = Examples(examples.images[chosen], examples.labels[chosen])
        return list(self._batches(some, device, "none", shuffle=False).epoch(0))

    def _in_order(self, examples: Examples, device: torch.device | str) -> Batches:
        return self._batches(examples, device, "none", size=EVALUATION_BATCH, shuffle=False, drop_last=False)

    def _batches(
        self, examples: Examples, device: torch.device | str, augment: Augmentation, size: int = 0, **options: Any
    ) -> Batches:
        return Batches(
            examples.images,
            examples.labels,
            batch_size=size or self.batch_size,
            mean=self.dataset.mean,
            std=self.dataset.std,
            augment=augment,
            device=device,
            seed=self.seed,
            channels_last=self.channels_last,
            **options,
        )


def outline(name: str, validation: float) -> tuple[Dataset, Split]:
    """Returns a data set of SHAPES and its split, of the right sizes and without content: a plan needs no images."""
    count, channels, side, classes = SHAPES[name]
    blank = torch.zeros((1, channels, side, side), dtype=torch.uint8)
    mean, std = torch.zeros(channels), torch.ones(channels)

    def examples(images: int) -> Examples:
        return Examples(blank.expand(images, -1, -1, -1), torch.zeros(1, dtype=torch.int64).expand(images))

    held, none = round(validation * count), examples(0)
    dataset = Dataset(
        name, examples(count).images, examples(count).labels, none.images, none.labels, classes, mean, std
    )
    return dataset, Split(examples(count - held), examples(held), none)
