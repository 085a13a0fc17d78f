"""Any folder of images, one sub-folder a class. The one place that uses Pillow."""

import os
from pathlib import Path

import torch
from torch import Tensor

from rewire.tasks.data import Dataset, channel_statistics, held_out

SUFFIXES = (".png", ".jpg", ".jpeg")
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
    classes = _classes(folder / "train")
    images, labels = _read(folder / "train", classes, size)
    held = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if held is None:
        test = held_out(labels, 0.2, seed=0)
        test_images, test_labels = images[test], labels[test]
        images, labels = images[~test], labels[~test]
        note = "no test folder: the test set is a fixed fifth of train"
    else:
        unknown = sorted(set(_classes(held)) - set(classes))
        if unknown:
            raise ValueError(
                f"{held} has classes that {folder / 'train'} has not: {', '.join(unknown)}. A network cannot "
                f"name what it was never shown. Give both the same class folders."
            )
        test_images, test_labels = _read(held, classes, size)
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
    )


def _classes(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _read(folder: Path, classes: list[str], size: int) -> tuple[Tensor, Tensor]:
    """Images and labels in the order of their class and file names."""
    files = [
        (path, label)
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for path in sorted((folder / name).iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise FileNotFoundError(f"No images in {folder}: no class folder holds a {', '.join(SUFFIXES)} file. {LAYOUT}.")
    needed, there = len(files) * 3 * size**2, _physical_memory()
    if needed > there:
        raise ValueError(
            f"{folder} holds {len(files):,} images, which take {needed / 1e9:.1f} GB at {size} pixels, and this "
            f"machine has {there / 1e9:.1f} GB; all images of a folder are held in memory. Use smaller images "
            "(--image-size 64, say) or fewer of them."
        )
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    for image, (path, _) in zip(images, files, strict=True):
        image.copy_(_square(path, size))
    return images, torch.tensor([label for _, label in files])


def _physical_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _square(path: Path, size: int) -> Tensor:
    """One image as uint8 (3, size, size)."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            "An image folder cannot be read: that is the work of Pillow, which is not installed. "
            'Type: pip install "rewire[cli]"'
        ) from error
    try:
        with Image.open(path) as picture:
            square = ImageOps.fit(picture.convert("RGB"), (size, size), method=Image.Resampling.BICUBIC)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read as an image: {error}. Replace it or take it out of its folder."
        ) from error
    content = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)
    return content.reshape(size, size, 3).permute(2, 0, 1)
