"""A data set of images held as tensors, its split into training, validation and test examples, and fingerprints.

A fingerprint stands for the data of a run in its record and its checkpoints. It tells data of one name apart; it is no
protection against someone who wants it to be the same.
"""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images in memory, channels first, in the units they are stored in (grey levels for uint8).

    `mean` and `std` are of the training images, a channel each, in those same units: a network sees
    `(image - mean) / std`. `note` is a remark that belongs beside every figure measured on this data. `files` is the
    fingerprint of the files where a decoder made the pixels, which another version of it may make otherwise.
    """

    name: str
    train_images: Shaped[Tensor, "train channels height width"]
    train_labels: Int64[Tensor, " train"]
    test_images: Shaped[Tensor, "test channels height width"]
    test_labels: Int64[Tensor, " test"]
    classes: int
    mean: Float[Tensor, " channels"]
    std: Float[Tensor, " channels"]
    note: str = ""
    files: str = ""

    def __repr__(self) -> str:
        shape = "x".join(str(extent) for extent in self.train_images.shape[1:])
        note = f", {self.note}" if self.note else ""
        return (
            f"Dataset({self.name}: {len(self.train_images)} training and {len(self.test_images)} test images "
            f"{shape}, {self.classes} classes{note})"
        )

    @property
    def channels(self) -> int:
        return self.train_images.shape[1]

    @property
    def size(self) -> int:
        """Height and width of an image, in pixels."""
        return self.train_images.shape[2]

    @property
    def fingerprint(self) -> str:
        """Of the files, else of all images and labels."""
        return self.files or fingerprint(self.train_images, self.train_labels, self.test_images, self.test_labels)


@dataclass(frozen=True, eq=False)
class Examples:
    """Images with their labels."""

    images: Shaped[Tensor, "n channels height width"]
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Split:
    """Three disjoint parts: learn from `train`, choose by `validation`, read `test` once, at the end."""

    train: Examples
    validation: Examples
    test: Examples


def split(dataset: Dataset, validation: float, seed: int = 0) -> Split:
    """Take the fraction `validation` of the training images out for every choice that is made on the way.

    Stratified and deterministic, see `held_out`; both parts keep the order of the data set.

    >>> from rewire.tasks.digits import digits
    >>> parts = split(digits(), validation=0.1)
    >>> len(parts.train), len(parts.validation), len(parts.test)
    (1294, 144, 359)
    """
    taken = held_out(dataset.train_labels, validation, seed)
    return Split(
        train=Examples(dataset.train_images[~taken], dataset.train_labels[~taken]),
        validation=Examples(dataset.train_images[taken], dataset.train_labels[taken]),
        test=Examples(dataset.test_images, dataset.test_labels),
    )


def held_out(labels: Int64[Tensor, " n"], fraction: float, seed: int) -> Bool[Tensor, " n"]:
    """True for exactly round(fraction * n) examples, every class within one of its share.

    The examples are shuffled, sorted by class, and of that row every (n / count)-th one is taken.
    The seed is the only source of randomness.

    >>> held_out(torch.tensor([0, 1, 0, 1, 0, 1, 0, 1]), 0.5, seed=0).sum().item()
    4
    """
    count = round(fraction * len(labels))
    if not 0 <= fraction < 1 or count == len(labels):
        raise ValueError(
            f"A fraction of {fraction} cannot be held out of {len(labels)} training images: something must be "
            f"left to train on. Use a fraction from 0 to well below 1, like 0.1."
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    position = torch.arange(len(labels))
    taken = torch.zeros(len(labels), dtype=torch.bool)
    taken[by_class] = (position + 1) * count // len(labels) > position * count // len(labels)
    return taken


def channel_statistics(
    images: Shaped[Tensor, "n channels height width"],
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Mean and (population) standard deviation of each channel, 1 in place of a deviation of 0.

    For uint8 images both come from a histogram: exact sums, and no copy of the images in float.

    >>> channel_statistics(torch.tensor([0, 0, 4, 4], dtype=torch.uint8).reshape(1, 1, 2, 2))
    (tensor([2.]), tensor([2.]))
    """
    if images.dtype == torch.uint8:
        grey = torch.arange(256, dtype=torch.float64)
        counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
        share = counts.double() / counts.sum(1, keepdim=True)
        mean = share @ grey
        variance = (share * (grey - mean[:, None]).square()).sum(1)
    else:
        variance, mean = torch.var_mean(images.double(), dim=(0, 2, 3), correction=0)
    std = torch.where(variance > 0, variance.sqrt(), 1.0)
    return mean.float(), std.float()


def fingerprint(*parts: Tensor | bytes | str) -> str:
    """Returns 16 hexadecimal digits that depend on the content and the order of the parts alone.

    >>> fingerprint("ab", "c") == fingerprint("a", "bc"), fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(2))
    (False, True)
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        kind = f"{part.dtype} {tuple(part.shape)}" if isinstance(part, Tensor) else f"{len(part)}"
        digest.update(f"{kind};".encode())
        if isinstance(part, Tensor):
            digest.update(part.contiguous().numpy().data)
        else:
            digest.update(part.encode(errors="surrogateescape") if isinstance(part, str) else part)
    return digest.hexdigest()
