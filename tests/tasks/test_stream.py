"""Batches of images that are decoded as they are needed."""

import multiprocessing
import os
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rewire.tasks.batches import Batches
from rewire.tasks.image_files import Files, ImageFiles
from rewire.tasks.pictures import centre_crop
from rewire.tasks.stream import MEAN, STD, Loader, Stream

torch.set_num_threads(1)

CPU = torch.device("cpu")
COUNT = 23


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageFiles:
    """23 images to learn from, of which the n-th is grey level 5 n and is labelled n; 7 to measure by."""
    folder = tmp_path_factory.mktemp("grey")
    names = [f"{n:02}.png" for n in range(COUNT)]
    for n, name in enumerate(names):
        Image.new("RGB", (9, 7), (5 * n,) * 3).save(folder / name)
    train, some = Files(folder, names, torch.arange(COUNT)), torch.arange(COUNT) < 7
    return ImageFiles(train, train.chosen(some), train.chosen(some), classes=COUNT)


def stream(images: ImageFiles, *, workers: int = 0, channels_last: bool = False, **options) -> Stream:
    return Stream(images, Loader(4, CPU, workers, channels_last), **{"batch_size": 4, "seed": 3} | options)


def same(first, second) -> bool:
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(first, second, strict=True)
    )


def test_images_stay_with_their_labels_and_are_normalised_by_hand(images: ImageFiles) -> None:
    for x, y in stream(images).epoch(2):
        expected = (5.0 * y[:, None] - MEAN) / STD
        torch.testing.assert_close(x, expected[:, :, None, None].expand(-1, -1, 4, 4))
    assert MEAN.tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert STD.tolist() == pytest.approx([58.395, 57.12, 57.375])


def test_an_epoch_holds_each_image_once_in_the_order_of_batches_in_memory(images: ImageFiles) -> None:
    in_memory = Batches(
        torch.zeros(COUNT, 1, 1, 1), torch.arange(COUNT), batch_size=4, mean=torch.zeros(1), std=torch.ones(1), seed=3
    )
    source = stream(images)
    assert len(source) == len(in_memory) == 5
    for epoch in (0, 1):
        labels = [y.tolist() for _, y in source.epoch(epoch)]
        assert labels == [y.tolist() for _, y in in_memory.epoch(epoch)]
        assert max(Counter(label for batch in labels for label in batch).values()) == 1


@settings(max_examples=15)
@given(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3))
def test_starting_late_is_skipping(images: ImageFiles, start: int, epoch: int, seed: int) -> None:
    source = stream(images, seed=seed)
    assert same(source.epoch(epoch, start), list(source.epoch(epoch))[start:])


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_ranks_together_are_one_process(images: ImageFiles, world_size: int) -> None:
    ranks = [stream(images, batch_size=6, rank=r, world_size=world_size).epoch(1, 1) for r in range(world_size)]
    joined = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*ranks, strict=True)]
    assert same(joined, stream(images, batch_size=6).epoch(1, 1))
    assert len(joined) == 2


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> ImageFiles:
    """12 times the same picture, a ramp, so that crops tell each other apart."""
    folder = tmp_path_factory.mktemp("ramp")
    image = Image.new("RGB", (64, 64))
    image.putdata([(3 * x, 3 * y, 0) for y in range(64) for x in range(64)])
    image.save(folder / "1.png")
    train = Files(folder, ["1.png"] * 12, torch.zeros(12, dtype=torch.int64))
    return ImageFiles(train, train, train, classes=1)


def test_every_image_of_every_epoch_has_a_crop_of_its_own(pictures: ImageFiles) -> None:
    source = stream(pictures)
    crops = {x.numpy().tobytes() for epoch in range(3) for batch, _ in source.epoch(epoch) for x in batch}
    assert len(crops) == 36
    assert not crops & {x.numpy().tobytes() for batch, _ in stream(pictures, seed=4).epoch(0) for x in batch}


def test_workers_change_no_batch_and_nothing_changes_torch_s_numbers(pictures: ImageFiles) -> None:
    before = torch.get_rng_state()
    alone = list(stream(pictures).epoch(1, 1))
    torch.manual_seed(123)
    assert same(stream(pictures, workers=2).epoch(1, 1), alone)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), before)
    list(stream(pictures).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_signal_to_all_processes_leaves_the_workers_to_the_one_that_trains(pictures: ImageFiles) -> None:
    """Ctrl-C and torchrun's SIGTERM go to a whole group; a worker that died would end the run before its checkpoint."""
    batches = stream(pictures, workers=1).epoch(0)
    next(batches)
    (worker,) = multiprocessing.active_children()
    assert os.getpgid(worker.pid) == worker.pid != os.getpgid(0)
    assert len(list(batches)) == 2
    assert not multiprocessing.active_children()


def test_channels_last_changes_the_layout_only(images: ImageFiles) -> None:
    other = list(stream(images, channels_last=True).epoch(0))
    assert same(stream(images).epoch(0), other)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in other)


def test_what_is_measured_is_in_order_and_cropped_in_the_middle(images: ImageFiles, pictures: ImageFiles) -> None:
    loader = Loader(4, CPU)
    found = [y.tolist() for _, y in loader.in_order(images.measure("test", 0, 1), 3)]
    assert found == [[0, 1, 2], [3, 4, 5], [6]]
    ((x, _),) = loader.in_order(pictures.measure("test", 0, 1), 12)
    middle = (centre_crop(pictures.train[0], 4) - MEAN[:, None, None]) / STD[:, None, None]
    assert all(torch.equal(image, middle) for image in x)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named_in_one_sentence(workers: int, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    train = Files(tmp_path, ["1.png", "2.png"], torch.zeros(2, dtype=torch.int64))
    source = stream(ImageFiles(train, train, train, classes=1), batch_size=2, workers=workers)
    message = rf"^{re.escape(str(tmp_path / '2.png'))} cannot be read as an image: [^\n]*\. Replace it [^\n]*folder\.$"
    with pytest.raises(ValueError, match=message):
        list(source.epoch(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 24}, "batch_size 24 gives no batch: there are 23 images to draw from."),
        ({"batch_size": 7, "world_size": 2}, "batch_size 7 is not a multiple of the 2 processes, so their parts"),
    ],
)
def test_what_cannot_be_a_batch_is_refused(images: ImageFiles, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        stream(images, **options)
