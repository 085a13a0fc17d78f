"""CIFAR-10 and CIFAR-100 from their standard python files, or by name through the `datasets` library."""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewire.tasks import hub
from rewire.tasks.data import Dataset, channel_statistics
from rewire.tasks.unpickle import unpickle

SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    """What one of the two data sets calls its things; `train` and `test` map a file to its official MD5."""

    name: str
    title: str
    folder: str
    archive: str
    train: dict[str, str]
    test: dict[str, str]
    labels: str
    classes: int
    hub: str
    hub_labels: str


_CIFAR10 = _Layout(
    name="cifar10",
    title="CIFAR-10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    labels="labels",
    classes=10,
    hub="uoft-cs/cifar10",
    hub_labels="label",
)
_CIFAR100 = _Layout(
    name="cifar100",
    title="CIFAR-100",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    labels="fine_labels",
    classes=100,
    hub="uoft-cs/cifar100",
    hub_labels="fine_label",
)


def cifar10(folder: str | Path | None = None) -> Dataset:
    """CIFAR-10: 50 000 training and 10 000 test images 3x32x32 of 10 classes.

    `folder` is `cifar-10-batches-py` or the folder that holds it; None asks the `datasets` library by name.
    Where the files are not the official ones, byte for byte, the data set's `note` says so.

    Reference: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html
    """
    return _load(_CIFAR10, folder)


def cifar100(folder: str | Path | None = None) -> Dataset:
    """CIFAR-100 with its 100 fine labels: 50 000 training and 10 000 test images 3x32x32.

    `folder` is `cifar-100-python` or the folder that holds it; otherwise as `cifar10`.
    """
    return _load(_CIFAR100, folder)


def _load(layout: _Layout, folder: str | Path | None) -> Dataset:
    if folder is None:
        train, test, note = *_by_name(layout), f"by name, {layout.hub}"
    else:
        place = _place(layout, Path(folder))
        (train, train_official), (test, test_official) = (
            _files(layout, place, layout.train),
            _files(layout, place, layout.test),
        )
        note = "" if train_official and test_official else "not the official files (checksum differs)"
    mean, std = channel_statistics(train[0])
    return Dataset(layout.name, *train, *test, classes=layout.classes, mean=mean, std=std, note=note)


def _place(layout: _Layout, folder: Path) -> Path:
    """The folder with all the files: the one given, or the standard one inside it."""
    advice = (
        f"Unpack {layout.archive} from {SOURCE} and type: --data DIR, "
        f"where DIR is {layout.folder} or the folder that holds it."
    )
    if not folder.is_dir():
        raise FileNotFoundError(f"No {layout.title}: there is no folder {folder}. {advice}")
    place = folder / layout.folder if (folder / layout.folder).is_dir() else folder
    missing = [name for name in (*layout.train, *layout.test) if not (place / name).is_file()]
    if missing:
        raise FileNotFoundError(f"No whole {layout.title} in {place}: {', '.join(missing)} missing. {advice}")
    return place


def _files(layout: _Layout, place: Path, files: dict[str, str]) -> tuple[tuple[Tensor, Tensor], bool]:
    """Images and labels of these files one after the other, and whether each has its official checksum."""
    images, labels, official = [], [], True
    for name, checksum in files.items():
        content = (place / name).read_bytes()
        official &= hashlib.md5(content, usedforsecurity=False).hexdigest() == checksum
        try:
            file_images, file_labels = _images_and_labels(unpickle(content), layout)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{place / name} cannot be read as a file of {layout.title}: {error}. "
                f"Unpack {layout.archive} from {SOURCE} again, then type: --data {place}"
            ) from error
        images.append(file_images)
        labels.append(file_labels)
    return (torch.cat(images), torch.cat(labels)), official


def _images_and_labels(batch: Any, layout: _Layout) -> tuple[Tensor, Tensor]:
    """The two tensors of one unpickled file, checked; its keys are str or bytes."""
    if not isinstance(batch, dict):
        raise pickle.UnpicklingError(f"it holds a {type(batch).__name__} in place of a dict")
    batch = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    absent = [key for key in ("data", layout.labels) if key not in batch]
    if absent:
        raise pickle.UnpicklingError(f"it has no {' and no '.join(map(repr, absent))}")
    data, labels = batch["data"], batch[layout.labels]
    if not isinstance(labels, list) or not all(type(n) is int and 0 <= n < layout.classes for n in labels):
        raise pickle.UnpicklingError(f"{layout.labels!r} is not a list of classes from 0 to {layout.classes - 1}")
    if not labels:
        raise pickle.UnpicklingError("it holds no image")
    if getattr(data, "shape", None) != (len(labels), PIXELS) or data.dtype != "uint8":
        raise pickle.UnpicklingError(
            f"'data' is not a uint8 array of {len(labels)} rows, one a label, and {PIXELS} columns"
        )
    return torch.tensor(data).reshape(-1, 3, 32, 32), torch.tensor(labels)


def _by_name(layout: _Layout) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test images and labels from the hub, downloaded once into the library's own cache."""
    advice = f"Type: --data DIR, with the folder into which {layout.archive} from {SOURCE} was unpacked"
    parts = hub.load(layout.hub, layout.title, advice)

    def tensors(part: Any) -> tuple[Tensor, Tensor]:
        columns = part.with_format("numpy")[:]
        images = torch.tensor(columns["img"]).permute(0, 3, 1, 2).contiguous()
        return images, torch.tensor(columns[layout.hub_labels], dtype=torch.int64)

    return tensors(parts["train"]), tensors(parts["test"])
