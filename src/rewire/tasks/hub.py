"""Data sets by name. The one place that uses the `datasets` library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from rewire.tasks.data import fingerprint
from rewire.tasks.pictures import Picture
from rewire.tasks.task import Part

BUFFER = 1000  # encoded images that wait, to be drawn from; of ImageNet's some 100 MB


def load(name: str, title: str, advice: str, **options: Any) -> Any:
    """The data set of that name, as `datasets.load_dataset` gives it.

    title: of the data set; advice: what to type instead, both for the message. Raises ImportError without the library,
    ConnectionError without a network or access.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"No {title}: no folder was given, and the datasets library, which fetches it by name, "
            f'is not installed. {advice}; or: pip install "rewire[data]"'
        ) from error
    try:
        return datasets.load_dataset(name, **options)
    except Exception as error:  # the library and its transports raise what they like; the way out is the same
        words = " ".join(str(error).split())  # of several lines, where access is refused
        raise ConnectionError(
            f"No {title}: no folder was given, and {name} could not be fetched by name "
            f"({type(error).__name__}: {words}). {advice}, or try again with a network."
        ) from error


class HubImages:
    """Images that arrive as they are needed, in shards, from the hub or a folder of Parquet files.

    Held out are whole shards, drawn by the seed, so that neither part fetches the other; classes must be mixed within
    them, as ImageNet's are. An epoch is in the order of `datasets`: shards shuffled by seed and epoch, and a buffer
    that images are drawn from; the same version of the library repeats it exactly. Of several processes each has shards
    of its own where their number is a multiple, else every second, third, ... image: they share none, but their batches
    together are not those of one process. To go on within an epoch fetches what came before again, without decoding it.
    A process whose shards hold fewer images than its steps need takes its first ones again.

    train, test: IterableDatasets with the columns image and label. count: images of `train`. validation: share to hold
    out. Raises ValueError where a part would have no shard.
    """

    def __init__(
        self, train: Any, test: Any, *, count: int, validation: float, seed: int, note: str = "", buffer: int = BUFFER
    ) -> None:
        from datasets import Image, concatenate_datasets

        shards = train.num_shards
        held = round(validation * shards)
        if not 0 < held < shards:
            raise ValueError(
                f"validation={validation:g} of {shards} shards of training images is not one shard, or all of them. "
                f"Use validation={max(1, min(held, shards - 1)) / shards:.3g}."
            )
        still_encoded = train.cast_column("image", Image(decode=False))
        parts = [still_encoded.shard(shards, number) for number in range(shards)]
        order = torch.randperm(shards, generator=torch.Generator().manual_seed(seed)).tolist()
        self._train = concatenate_datasets([parts[number] for number in sorted(order[held:])])
        self._measured = {
            "validation": concatenate_datasets([parts[number] for number in sorted(order[:held])]),
            "test": test.cast_column("image", Image(decode=False)),
        }
        self.count = count * (shards - held) // shards
        self.classes = train.features["label"].num_classes
        self.seed, self.note, self._buffer = seed, note, buffer
        self.fingerprint = fingerprint(note, f"{count} images in {shards} shards")  # to look into them is to fetch them

    def learn(
        self, numbers: Iterable[list[int]], epoch: int, skip: int, rank: int, world_size: int
    ) -> Iterator[list[tuple[int, Picture]]]:
        # Not the library's own skip(), after which a process would be given other images.
        stream = islice(self._endless(epoch, rank, world_size), skip, None)
        return (list(zip(batch, stream, strict=False)) for batch in numbers)

    def measure(self, part: Part, rank: int, world_size: int) -> Iterator[Picture]:
        from datasets.distributed import split_dataset_by_node

        return _pictures(split_dataset_by_node(self._measured[part], rank, world_size))

    def sample(self, count: int) -> Iterator[Picture]:
        return islice(_pictures(self._train), count)

    def _endless(self, epoch: int, rank: int, world_size: int) -> Iterator[Picture]:
        """The images of one process in the order of an epoch, again and again."""
        from datasets.distributed import split_dataset_by_node

        shuffled = self._train.shuffle(seed=self.seed, buffer_size=self._buffer)
        mine = split_dataset_by_node(shuffled, rank, world_size)
        mine.set_epoch(epoch)
        while True:
            yield from _pictures(mine)


def _pictures(rows: Any) -> Iterator[Picture]:
    for row in rows:
        image = row["image"]
        yield Picture(image["path"] or "An image without a name", image["bytes"], row["label"])
