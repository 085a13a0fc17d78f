"""Batches of images, drawn, augmented and normalised as whole tensors on the device."""

import hashlib
from collections.abc import Iterator
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

Augmentation = Literal["none", "flip", "crop_flip"]
PADDING = 4  # pixels of black on each side before the crop, as He et al. 2016, section 4.2


class Batches:
    """The batches of any epoch, each determined by (seed, epoch, position) alone.

    All randomness of an epoch (order, crops, flips) is drawn at once on the CPU and moved to the device; a
    batch is a slice of it. So `epoch(e, start=k)` equals skipping k batches, bit for bit; every device gives
    the same batches; and rank r of `world_size` gets the r-th part of each batch that one process would get.

    Args:
        images: uint8 or float, kept as they are on `device`.
        labels: class of each image.
        batch_size: of the global batch, over all ranks.
        mean, std: a channel each, in the units of `images`.
        augment: "flip" mirrors the image half of the time, "crop_flip" also takes a random crop of it padded by 4.
        shuffle: False gives the order of `images`, as an evaluation wants it.
        drop_last: leave the images of an incomplete last batch out of the epoch.
        channels_last: memory format of the images given out.

    >>> images, labels = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1), torch.arange(6)
    >>> batches = Batches(images, labels, batch_size=2, mean=torch.zeros(1), std=torch.ones(1), seed=3)
    >>> len(batches), [y.tolist() for _, y in batches.epoch(0)] == [y.tolist() for _, y in batches.epoch(0)]
    (3, True)
    """

    def __init__(
        self,
        images: Shaped[Tensor, "n channels height width"],
        labels: Int64[Tensor, " n"],
        *,
        batch_size: int,
        mean: Float[Tensor, " channels"],
        std: Float[Tensor, " channels"],
        augment: Augmentation = "none",
        device: torch.device | str = "cpu",
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        channels_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if augment not in get_args(Augmentation):
            raise ValueError(f"Unknown augmentation {augment!r}. Known: {', '.join(get_args(Augmentation))}.")
        if batch_size < 1 or (drop_last and batch_size > len(images)):
            raise ValueError(
                f"batch_size {batch_size} gives no batch: there are {len(images)} images to draw from. "
                f"Use a batch_size from 1 to {len(images)}."
            )
        if batch_size % world_size:
            raise ValueError(
                f"batch_size {batch_size} is not a multiple of the {world_size} processes, so their parts "
                f"would differ and their mean gradient would not be that of the batch. "
                f"Use batch_size {batch_size - batch_size % world_size or world_size}."
            )
        self.images = images.to(device).contiguous()
        self.labels = labels.to(device)
        self.batch_size = batch_size
        self.augment = augment
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.rank, self.world_size = rank, world_size
        self._shift = mean.to(device).reshape(-1, 1, 1)
        self._scale = std.to(device).reshape(-1, 1, 1)
        height, width = images.shape[2:]
        self._stride = width + 2 * PADDING  # pixels in a row of the padded image
        pixels = torch.arange(height)[:, None] * self._stride + torch.arange(width)
        self._pixels = torch.stack([pixels, pixels.flip(1)]).flatten(1).to(device)  # of an image in it, and mirrored

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole + (0 if self.drop_last or not rest else 1)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"]]]:
        """This rank's normalised images and labels of each batch of that epoch, from batch `start` on.

        Without `drop_last` the parts of the last batch may differ by one image between ranks, or be empty.
        """
        generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
        count = len(self.images)
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        down, right = torch.full((2, count), PADDING)  # the image itself
        if self.augment == "crop_flip":
            down, right = torch.randint(2 * PADDING + 1, (2, count), generator=generator)
        mirrored = torch.randint(2, (count,), generator=generator)
        drawn = torch.stack([order, down * self._stride + right, mirrored]).to(self.images.device)  # one copy an epoch
        order, corners, mirrored = drawn
        for batch in range(start, len(self)):
            part = self._part(batch)
            chosen = order[part]
            images = self.images.index_select(0, chosen)
            if self.augment != "none":
                images = self._crop_flip(images, corners[part], mirrored[part])
            # Normalised while contiguous: on channels_last the broadcast is three times as slow.
            images = images.to(torch.float32).sub_(self._shift).div_(self._scale)
            yield images.contiguous(memory_format=self.memory_format), self.labels.index_select(0, chosen)

    def _part(self, batch: int) -> slice:
        """Positions in the epoch of this rank's part of a batch."""
        first = batch * self.batch_size
        size = min(self.batch_size, len(self.images) - first)
        return slice(first + size * self.rank // self.world_size, first + size * (self.rank + 1) // self.world_size)

    def _crop_flip(
        self,
        images: Shaped[Tensor, "b channels height width"],
        corners: Int64[Tensor, " b"],
        mirrored: Int64[Tensor, " b"],
    ) -> Shaped[Tensor, "b channels height width"]:
        """Each padded image read from its own corner on, mirrored or not: one gather over the flattened pixels."""
        padded = F.pad(images, (PADDING, PADDING, PADDING, PADDING)).flatten(2)
        pixels = self._pixels.index_select(0, mirrored) + corners[:, None]
        return padded.gather(2, pixels[:, None].expand(-1, images.shape[1], -1)).reshape(images.shape)


def seed_of(*parts: int) -> int:
    """A 63-bit seed from several integers; neighbouring ones share nothing."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1
