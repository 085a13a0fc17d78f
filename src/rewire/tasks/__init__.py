"""Data sets and plain models. Nothing here knows of sparsity."""

from pathlib import Path

from rewire.tasks.data import Dataset

TASKS = ("digits", "cifar10", "cifar100", "folder")


def load(name: str, folder: str | Path | None = None, size: int = 32) -> Dataset:
    """The data set of that name: "digits", "cifar10", "cifar100", or "folder" for any folder of images.

    `folder` is where its files are (see `cifar10` and `image_folder`). `size`, in pixels, counts for "folder"
    only: the others have one of their own.

    >>> load("digits")
    Dataset(digits: 1438 training and 359 test images 1x8x8, 10 classes)
    """
    # Imported here, so that naming a task loads neither scikit-learn nor Pillow for another one.
    match name:
        case "digits":
            from rewire.tasks.digits import digits

            return digits()
        case "cifar10" | "cifar100":
            from rewire.tasks import cifar

            return cifar.cifar10(folder) if name == "cifar10" else cifar.cifar100(folder)
        case "folder":
            from rewire.tasks.folder import image_folder

            if folder is None:
                raise ValueError("The task folder has no images yet: no folder was given. Type: --data DIR")
            return image_folder(folder, size)
        case _:
            raise ValueError(f"Unknown task {name!r}. Known: {', '.join(TASKS)}.")
