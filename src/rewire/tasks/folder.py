"""Any folder of images, one sub-folder a class, held in memory."""

import os
from pathlib import Path

import torch
from torch import Tensor

from rewire.tasks.data import Dataset, channel_statistics, held_out
from rewire.tasks.image_files import Files, check_classes, classes_in, files_in, fingerprint_of
from rewire.tasks.pictures import square

LAYOUT = "Lay the images out as train/CLASS/*.png (or .jpg, .jpeg), with test/CLASS/ beside train/ if you have it"


def image_folder(folder: str | Path, size: int = 32) -> Dataset:
    """The images under train/CLASS/ and test/CLASS/ (or val/CLASS/), as uint8 RGB of size x size pixels.

    Each is cropped in its middle to a square and resized. Classes are numbered by name. Without test/ and
    val/ a fixed fifth of each class of train/ is the test set, and the data set's `note` says so.
    """
    folder = Path(folder)
    if size < 1:
        raise ValueError(f"Images of {size} pixels hold nothing. Type a size of at least 1, like: --size 32")
    if not (folder / "train").is_dir():
        raise FileNotFoundError(
            f"No images: there is no folder {folder / 'train'}. {LAYOUT}, and type: --data {folder}"
        )
    classes = classes_in(folder / "train")
    read = [files_in(folder / "train", classes)]
    images, labels = _decoded(read[0], size)
    held = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if held is None:
        test = held_out(labels, 0.2, seed=0)
        test_images, test_labels = images[test], labels[test]
        images, labels = images[~test], labels[~test]
        note = "no test folder: the test set is a fixed fifth of train"
    else:
        check_classes(held, folder / "train")
        read.append(files_in(held, classes))
        test_images, test_labels = _decoded(read[1], size)
        note = ""
    mean, std = channel_statistics(images)
    return Dataset(
        folder.resolve().name,
        images,
        labels,
        test_images,
        test_labels,
        len(classes),
        mean=mean,
        std=std,
        note=note,
        files=fingerprint_of(*((files.folder, files.names) for files in read)),
    )


def _decoded(files: Files, size: int) -> tuple[Tensor, Tensor]:
    """Images and labels in the order of their class and file names."""
    needed, there = len(files) * 3 * size**2, _physical_memory()
    if needed > there:
        raise ValueError(
            f"{files.folder} holds {len(files):,} images, which take {needed / 1e9:.1f} GB at {size} pixels, and this "
            f"machine has {there / 1e9:.1f} GB; all images of a folder are held in memory. Use smaller images "
            "(--image-size 64, say) or fewer of them."
        )
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    for number, image in enumerate(images):
        image.copy_(square(files[number], size))
    return images, files.labels


def _physical_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
