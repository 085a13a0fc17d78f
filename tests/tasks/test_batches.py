import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewire.tasks.batches import PADDING, Batches


def made(n: int = 23, channels: int = 3, height: int = 6, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Images without two equal pixels in a channel, none of them black, with their number as label."""
    pixels = torch.arange(1, 1 + channels * height * width, dtype=torch.uint8).reshape(channels, height, width)
    return pixels.repeat(n, 1, 1, 1), torch.arange(n)


def batches_of(images: torch.Tensor, labels: torch.Tensor, **options) -> Batches:
    channels = images.shape[1]
    return Batches(
        images, labels, **{"batch_size": 4, "mean": torch.zeros(channels), "std": torch.ones(channels)} | options
    )


def same(first, second) -> bool:
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(first, second, strict=True)
    )


def test_normalised_by_hand():
    images = torch.tensor([[[[10, 30]], [[0, 4]]]], dtype=torch.uint8)
    batches = batches_of(
        images, torch.tensor([1]), batch_size=1, mean=torch.tensor([20.0, 2.0]), std=torch.tensor([5.0, 2.0])
    )
    ((x, y),) = batches.epoch(0)
    assert x.tolist() == [[[[-2.0, 2.0]], [[-1.0, 1.0]]]]
    assert x.dtype == torch.float32
    assert y.tolist() == [1]


def test_float_images_are_taken_as_they_are_and_left_alone():
    images = torch.rand(8, 1, 2, 2)
    before = images.clone()
    x = torch.cat(
        [x for x, _ in batches_of(images, torch.arange(8), shuffle=False, std=torch.full((1,), 2.0)).epoch(0)]
    )
    assert torch.equal(x, images / 2)
    assert torch.equal(images, before)


def test_an_epoch_holds_each_image_once_in_an_order_of_its_own():
    batches = batches_of(*made(24))
    first, second = (torch.cat([y for _, y in batches.epoch(e)]).tolist() for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
    assert first != list(range(24))


def test_images_stay_with_their_labels():
    images = torch.arange(23, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    for x, y in batches_of(images, torch.arange(23)).epoch(3):
        assert torch.equal(x.flatten().long(), y)


def test_last_batch():
    images, labels = made(23)
    dropped = batches_of(images, labels)
    kept = batches_of(images, labels, shuffle=False, drop_last=False)
    assert (len(dropped), len(kept)) == (5, 6)
    assert [len(y) for _, y in dropped.epoch(0)] == [4] * 5
    assert torch.equal(torch.cat([y for _, y in kept.epoch(7)]), labels)


@given(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3), st.sampled_from(["none", "crop_flip"]))
def test_starting_late_is_skipping(start, epoch, seed, augment):
    batches = batches_of(*made(), augment=augment, seed=seed)
    assert same(batches.epoch(epoch, start=start), list(batches.epoch(epoch))[start:])


@given(st.integers(0, 3), st.sampled_from([1, 2, 3, 6]), st.booleans(), st.sampled_from(["none", "crop_flip"]))
def test_ranks_together_are_one_process(epoch, world_size, drop_last, augment):
    images, labels = made(23)
    options = {"batch_size": 6, "augment": augment, "drop_last": drop_last, "seed": 4}
    ranks = [
        batches_of(images, labels, rank=r, world_size=world_size, **options).epoch(epoch) for r in range(world_size)
    ]
    joined = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*ranks, strict=True)]
    assert same(joined, batches_of(images, labels, **options).epoch(epoch))


def test_nothing_but_seed_and_epoch_counts():
    images, labels = made()
    state = torch.get_rng_state()
    first = list(batches_of(images, labels, augment="crop_flip", seed=1).epoch(2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    assert same(first, batches_of(images, labels, augment="crop_flip", seed=1).epoch(2))
    assert not same(first, batches_of(images, labels, augment="crop_flip", seed=2).epoch(2))
    assert not same(first, batches_of(images, labels, augment="crop_flip", seed=1).epoch(1))


def crops(image: torch.Tensor) -> list[torch.Tensor]:
    """Every crop of the padded image, and every one mirrored: the table that crop_flip draws from."""
    _, height, width = image.shape
    padded = torch.zeros(image.shape[0], height + 2 * PADDING, width + 2 * PADDING)
    padded[:, PADDING : PADDING + height, PADDING : PADDING + width] = image
    windows = [
        padded[:, row : row + height, column : column + width]
        for row in range(2 * PADDING + 1)
        for column in range(2 * PADDING + 1)
    ]
    return windows + [window.flip(2) for window in windows]


def test_augmentation_draws_every_crop_and_nothing_else():
    images, labels = made(2000, channels=2)
    table = {tuple(crop.flatten().tolist()) for crop in crops(images[0])}
    assert len(table) == 2 * 9 * 9
    ((x, _),) = batches_of(images, labels, batch_size=2000, augment="crop_flip").epoch(0)
    drawn = {tuple(image.flatten().tolist()) for image in x}
    assert drawn == table


def test_channels_last_changes_the_layout_only():
    images, labels = made(24)
    plain = batches_of(images, labels, augment="crop_flip")
    other = batches_of(images, labels, augment="crop_flip", channels_last=True)
    assert same(plain.epoch(0), other.epoch(0))
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in other.epoch(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"batch_size": 24},
            "batch_size 24 gives no batch: there are 23 images to draw from. Use a batch_size from 1 to 23.",
        ),
        (
            {"batch_size": 0},
            "batch_size 0 gives no batch: there are 23 images to draw from. Use a batch_size from 1 to 23.",
        ),
        (
            {"batch_size": 7, "world_size": 2},
            "batch_size 7 is not a multiple of the 2 processes, so their parts would differ and their mean gradient "
            "would not be that of the batch. Use batch_size 6.",
        ),
        ({"augment": "mixup"}, "Unknown augmentation 'mixup'. Known: none, flip, crop_flip."),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        batches_of(*made(23), **options)


def test_flip_mirrors_about_half_of_the_images_and_moves_none():
    images = torch.arange(6, dtype=torch.uint8).reshape(1, 1, 2, 3).expand(400, 1, 2, 3)
    batches = Batches(
        images,
        torch.zeros(400, dtype=torch.int64),
        batch_size=400,
        mean=torch.zeros(1),
        std=torch.ones(1),
        augment="flip",
    )
    (seen,) = [x for x, _ in batches.epoch(0)]
    plain, mirrored = images[0].float(), images[0].flip(-1).float()
    kinds = [
        torch.equal(image, mirrored) for image in seen if torch.equal(image, plain) or torch.equal(image, mirrored)
    ]
    assert len(kinds) == 400
    assert 150 < sum(kinds) < 250
