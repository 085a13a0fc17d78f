"""Batches of images that are decoded as they are needed, in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader

from rewire.tasks.batches import Batches, seed_of
from rewire.tasks.pictures import Picture, centre_crop, random_crop
from rewire.tasks.task import Part

# Of red, green and blue over ImageNet's training images, in grey levels; as torchvision and RigL's code have them.
MEAN = torch.tensor((0.485, 0.456, 0.406)) * 255
STD = torch.tensor((0.229, 0.224, 0.225)) * 255

Numbered = tuple[int, Picture]
Decoded = tuple[Float[Tensor, "b 3 size size"], Int64[Tensor, " b"]]


class Images(Protocol):
    """Labelled images that are still encoded, in three parts; there are `count` to learn from."""

    @property
    def classes(self) -> int: ...

    @property
    def count(self) -> int: ...

    @property
    def note(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """As of every task, and cheap: it reads a small part of the data."""

    def learn(
        self, numbers: Iterable[list[int]], epoch: int, skip: int, rank: int, world_size: int
    ) -> Iterator[list[Numbered]]:
        """An image for each number of the batches of a process, which are its own; `skip` had their turn already."""

    def measure(self, part: Part, rank: int, world_size: int) -> Iterator[Picture]:
        """A process's share of a part, in order."""

    def sample(self, count: int) -> Iterator[Picture]:
        """Some of the images to learn from, the same at every call."""


@dataclass(frozen=True)
class Loader:
    """Decodes batches, and puts them on the device as a network wants them.

    size: of the images given out, in pixels. workers: processes that decode; 0 leaves it to this one, and any number
    gives the same batches.
    """

    size: int
    device: torch.device
    workers: int = 0
    channels_last: bool = False

    def batches(self, batches: Iterator[list[Numbered]], seed: tuple[int, ...] | None) -> Iterator[Decoded]:
        """Images normalised by ImageNet's channels, and labels, in the order given.

        seed: of the random crops, with the number of the image; None for centre crops. Raises ValueError with the name
        of an image that cannot be read.
        """
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        mean, std = (values.to(self.device).reshape(-1, 1, 1) for values in (MEAN, STD))
        loader: DataLoader[Any] = DataLoader(
            _Decoder(self.size, seed),  # type: ignore[arg-type]
            # Names and numbers travel to the workers with each batch, so that none of them holds a list of all.
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            worker_init_fn=_begin_worker,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # torch's own would be changed
        )
        for found in loader:
            if isinstance(found, ValueError):
                raise found
            images, labels = (part.to(self.device, non_blocking=True) for part in found)
            images = images.to(torch.float32).sub_(mean).div_(std)
            yield images.contiguous(memory_format=memory_format), labels

    def in_order(self, pictures: Iterator[Picture], batch_size: int) -> Iterator[Decoded]:
        """Pictures cropped in their middle, with their labels; the last batch may be smaller."""
        numbered = enumerate(pictures)
        return self.batches(iter(lambda: list(islice(numbered, batch_size)), []), None)


class Stream:
    """The batches of any epoch, each determined by (seed, epoch, position) alone, as those of `Batches` are."""

    def __init__(
        self, images: Images, loader: Loader, *, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.images, self.loader = images, loader
        self.seed, self.rank, self.world_size = seed, rank, world_size
        # What an epoch is made of, and what cannot be a batch, is as in memory: there of images, here of their numbers.
        self._numbers = Batches(
            torch.empty(images.count, 0, 1, 1, dtype=torch.uint8),
            torch.arange(images.count),
            batch_size=batch_size,
            mean=torch.zeros(0),
            std=torch.ones(0),
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._numbers)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Decoded]:
        """This rank's augmented and normalised images and labels of each batch of that epoch, from `start` on."""
        numbers = (chosen.tolist() for _, chosen in self._numbers.epoch(epoch, start))
        skip = start * self._numbers.batch_size // self.world_size
        batches = self.images.learn(numbers, epoch, skip, self.rank, self.world_size)
        return self.loader.batches(batches, (self.seed, epoch))


@dataclass(frozen=True)
class _Decoder:
    """What a worker does with a batch. seed: of the crops, with the image's number; None for centre crops."""

    size: int
    seed: tuple[int, ...] | None

    def __getitems__(
        self, batch: list[Numbered]
    ) -> tuple[UInt8[Tensor, "b 3 size size"], Int64[Tensor, " b"]] | ValueError:
        """Images and labels, or what is wrong: if a worker raised it, its words would hold a traceback."""
        try:
            images = [self._decoded(*numbered) for numbered in batch]
        except ValueError as error:
            return error
        return torch.stack(images), torch.tensor([picture.label for _, picture in batch])

    def _decoded(self, number: int, picture: Picture) -> UInt8[Tensor, "3 size size"]:
        if self.seed is None:
            return centre_crop(picture, self.size)
        return random_crop(picture, self.size, Random(seed_of(*self.seed, number)))


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin_worker(number: int) -> None:
    # Ctrl-C and torchrun's SIGTERM go to a whole group of processes. The training process finishes its step first, and
    # then ends its workers itself; by SIGTERM if it has to, so that they cannot just ignore it.
    if hasattr(os, "setpgrp"):
        os.setpgrp()
