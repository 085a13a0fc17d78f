"""ImageNet, or any folder of images like it: decoded as they are needed, never in memory as a whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn

from rewire.measures import Measure
from rewire.tasks import hub
from rewire.tasks.image_files import Files, ImageFiles, image_files
from rewire.tasks.pictures import pillow
from rewire.tasks.stream import Images, Loader, Stream
from rewire.tasks.task import Part, Task

HUB = "ILSVRC/imagenet-1k"
TRAINING_IMAGES, CLASSES = 1_281_167, 1000  # O. Russakovsky et al. 2015, table 2, https://arxiv.org/abs/1409.0575
EVALUATION_BATCH = 256  # images


@dataclass(frozen=True, eq=False)
class StreamedImages(Task):
    """Images that are decoded as they are needed, a network that gives a score for each class, and cross-entropy.

    make: returns the network. size: of the images, in pixels. label_smoothing: share of the target that is spread over
    all classes. seed: of the order and the crops. workers: processes that decode; None shares out the cores.
    """

    images: Images
    make: Callable[[], nn.Module]
    batch_size: int
    size: int
    label_smoothing: float = 0.0
    seed: int = 0
    workers: int | None = None
    channels_last: bool = False
    measures: tuple[Measure, ...] = (Measure("accuracy"),)
    unit: str = "images"

    @property
    def note(self) -> str:  # type: ignore[override]
        return self.images.note

    @property
    def fingerprint(self) -> str:
        return self.images.fingerprint

    def model(self) -> nn.Module:
        return self.make()

    @property
    def steps(self) -> int:
        return self.images.count // self.batch_size

    def source(self, device: torch.device | str, rank: int = 0, world_size: int = 1) -> Stream:
        loader = self._loader(device)
        return Stream(self.images, loader, batch_size=self.batch_size, seed=self.seed, rank=rank, world_size=world_size)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, label_smoothing=self.label_smoothing)

    def score(self, model: nn.Module, part: Part, device: torch.device | str) -> dict[str, float]:
        """As of every task; of several processes each measures its share, with the running statistics of the first."""
        several = distributed.is_available() and distributed.is_initialized()
        rank, world_size = (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)
        if several:  # as DistributedDataParallel does at the next step
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)
        counts = torch.zeros(2, dtype=torch.int64, device=device)
        pictures = self.images.measure(part, rank, world_size)
        for images, labels in self._loader(device).in_order(pictures, EVALUATION_BATCH):
            counts[0] += (model(images).argmax(1) == labels).sum()
            counts[1] += len(labels)
        if several:
            distributed.all_reduce(counts)
        right, seen = counts.tolist()
        return {"accuracy": right / seen}

    def example(self, count: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn((count, 3, self.size, self.size), generator=generator)
        labels = torch.randint(0, self.images.classes, (count,), generator=generator)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images, labels

    def sample(self, batches: int, device: torch.device | str) -> list[tuple[Tensor, Tensor]]:
        pictures = self.images.sample(self.batch_size * min(batches, self.steps))
        return list(self._loader(device).in_order(pictures, self.batch_size))

    def _loader(self, device: torch.device | str) -> Loader:
        workers = share_of_cores() if self.workers is None else self.workers
        return Loader(self.size, torch.device(device), workers, self.channels_last)


def images_of(folder: Path | None, validation: float, seed: int, *, outline: bool = False) -> Images:
    """Those of a folder, see `image_files`; without one ImageNet by name, or of an `outline` their number alone."""
    if folder is not None:
        return image_files(folder, validation, seed)
    return without_images(validation) if outline else by_name(validation, seed)


def by_name(validation: float, seed: int) -> hub.HubImages:
    """ImageNet from the hub: nothing is stored, and every epoch fetches its 140 GB again.

    The labels of its test images are not public, so that its validation part is the test part here, as in the papers.
    """
    pillow()
    advice = (
        "Type: --data DIR, with the images as train/CLASS/ and val/CLASS/; or accept the terms on "
        f"https://huggingface.co/datasets/{HUB} and type: hf auth login"
    )
    parts = hub.load(HUB, "ImageNet", advice, streaming=True)
    note = f"by name, {HUB}"
    return hub.HubImages(
        parts["train"], parts["validation"], count=TRAINING_IMAGES, validation=validation, seed=seed, note=note
    )


def without_images(validation: float) -> ImageFiles:
    """ImageNet without its images: a plan needs their number only."""
    held = round(validation * TRAINING_IMAGES)
    train, validated, test = (
        Files(Path(), ("",) * count, torch.zeros(1, dtype=torch.int64).expand(count))
        for count in (TRAINING_IMAGES - held, held, 0)
    )
    return ImageFiles(train, validated, test, CLASSES)


def share_of_cores() -> int:
    """The cores that this process may use, shared out among those that torchrun started on this machine; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
