"""A folder of images that stay in their files until they are needed: train/CLASS/*.jpg, val/CLASS/*.jpg."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from rewire.tasks.data import fingerprint, held_out
from rewire.tasks.pictures import Picture, pillow
from rewire.tasks.task import Part

SUFFIXES = (".png", ".jpg", ".jpeg")
LAYOUT = "Lay the images out as train/CLASS/*.jpg (or .jpeg, .png), with val/CLASS/ (or test/CLASS/) beside train/"
READ = 100  # files of a part, at most, whose content is in the fingerprint; of ImageNet's some 10 MB
PARTS = (("train",), ("val", "test"))  # to learn from, and to measure by at the end; the first of each that is there


@dataclass(frozen=True, eq=False)
class Files:
    """Image files below a folder, and their classes."""

    folder: Path
    names: Sequence[str]
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> Picture:
        return Picture(f"{self.folder}/{self.names[number]}", None, int(self.labels[number]))

    def chosen(self, which: Bool[Tensor, " n"]) -> Files:
        return Files(self.folder, list(compress(self.names, which.tolist())), self.labels[which])


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """The images of a folder in three parts, each within reach: a run that goes on reads nothing twice.

    seed: of the sample.
    """

    train: Files
    validation: Files
    test: Files
    classes: int
    seed: int = 0
    note: str = ""

    @property
    def count(self) -> int:
        return len(self.train)

    @property
    def fingerprint(self) -> str:
        to_learn_from = (self.train.folder, sorted([*self.train.names, *self.validation.names]))  # as before the split
        return fingerprint_of(to_learn_from, (self.test.folder, self.test.names))

    def learn(
        self, numbers: Iterable[list[int]], epoch: int, skip: int, rank: int, world_size: int
    ) -> Iterator[list[tuple[int, Picture]]]:
        return ([(number, self.train[number]) for number in batch] for batch in numbers)

    def measure(self, part: Part, rank: int, world_size: int) -> Iterator[Picture]:
        files = self.test if part == "test" else self.validation
        return (files[number] for number in range(rank, len(files), world_size))

    def sample(self, count: int) -> Iterator[Picture]:
        chosen = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.seed))
        return (self.train[number] for number in chosen[:count].tolist())


def image_files(folder: str | Path, validation: float, seed: int) -> ImageFiles:
    """The images below train/CLASS/ and val/CLASS/ (or test/CLASS/), of which only the names are read here.

    Classes are numbered by name. The share `validation` of train/ is held out, stratified and drawn by the seed (see
    `held_out`); val/ is the test part. Raises FileNotFoundError where a folder is missing or has no image, ValueError
    where val/ has a class that train/ has not, or no image is held out.
    """
    pillow()  # so that it is missed now, and not in the first batch
    folder = Path(folder)
    train_folder, test_folder = (_place(folder, names) for names in PARTS)
    check_classes(test_folder, train_folder)
    classes = classes_in(train_folder)
    train, test = files_in(train_folder, classes), files_in(test_folder, classes)
    held = held_out(train.labels, validation, seed)
    if not held.any():
        raise ValueError(
            f"validation={validation:g} of {len(train)} training images is not one image, so nothing could be chosen "
            f"by it. Use at least validation={math.ceil(1000 / len(train)) / 1000:g}, or more images."
        )
    return ImageFiles(train.chosen(~held), train.chosen(held), test, len(classes), seed)


def fingerprint_of(*parts: tuple[Path, Sequence[str]]) -> str:
    """The fingerprint of folders with the names of their images: of all names, and of the content of some files."""
    found: list[str | bytes] = []
    for folder, names in parts:
        some = names[:: math.ceil(len(names) / READ)]
        found += ["\n".join(names), *((folder / name).read_bytes() for name in some)]
    return fingerprint(*found)


def _place(folder: Path, names: Sequence[str]) -> Path:
    places = [folder / name for name in names]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"No images: there is no folder {' or '.join(map(str, places))}. {LAYOUT}, and type: --data {folder}"
    )


def classes_in(folder: Path) -> list[str]:
    """The class folders by name, which is how classes are numbered."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def check_classes(test_folder: Path, train_folder: Path) -> None:
    """Raises ValueError where there is a class to measure by that there is not to learn from."""
    if unknown := sorted(set(classes_in(test_folder)) - set(classes_in(train_folder))):
        raise ValueError(
            f"{test_folder} has classes that {train_folder} has not: {', '.join(unknown)}. A network cannot name what "
            "it was never shown. Give both the same class folders."
        )


def files_in(folder: Path, classes: Sequence[str]) -> Files:
    """Every image of these classes, in the order of class and file names; FileNotFoundError where there is none."""
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if (folder / name).is_dir():
            found = sorted(file for file in os.listdir(folder / name) if file.lower().endswith(SUFFIXES))
            names += [f"{name}/{file}" for file in found]
            labels += [label] * len(found)
    if not names:
        raise FileNotFoundError(f"No images in {folder}: no class folder holds a {', '.join(SUFFIXES)} file. {LAYOUT}.")
    return Files(folder, names, torch.tensor(labels))
