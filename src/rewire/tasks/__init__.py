"""Data sets, plain models, and what the training loop asks of them. Nothing here knows of sparsity."""

from pathlib import Path

from rewire.tasks.data import Dataset

IMAGES = ("digits", "cifar10", "cifar100", "folder")  # in memory
STREAMED = ("imagenet",)  # images that are decoded as they are needed
TEXTS = ("shakespeare",)
GRAPHS = ("linkpred", "gnn")  # of the graph that follows a hyphen
TASKS = (*IMAGES, *STREAMED, *TEXTS, *(f"{kind}-GRAPH" for kind in GRAPHS))


def kind(task: str) -> str:
    """Returns what a task is about: images, text, linkpred or gnn; ValueError for a name that is no task.

    >>> kind("cifar10"), kind("linkpred-collegemsg")
    ('images', 'linkpred')
    """
    family, _, graph = task.partition("-")
    if family in GRAPHS and graph:
        return family
    if task not in (*IMAGES, *STREAMED, *TEXTS):
        raise ValueError(
            f'task="{task}" is unknown. Use one of {", ".join(TASKS)}, where GRAPH is the name of an edge list without '
            "its ending, such as linkpred-USAir."
        )
    return "text" if task in TEXTS else "images"


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
            raise ValueError(f"Unknown task {name!r}. Known: {', '.join(IMAGES)}.")
