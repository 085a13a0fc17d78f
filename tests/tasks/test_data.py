import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewire import tasks
from rewire.tasks.data import Dataset, channel_statistics, held_out, split


def of_labels(labels: list[int]) -> Dataset:
    """A data set whose image i is a single pixel of grey level i."""
    images = torch.arange(len(labels), dtype=torch.uint8).reshape(-1, 1, 1, 1)
    mean, std = channel_statistics(images)
    target = torch.tensor(labels)
    return Dataset("made", images, target, images[:2], target[:2], max(labels) + 1, mean=mean, std=std)


def test_statistics_by_hand():
    images = torch.tensor([[[[0, 2]], [[7, 7]]], [[[4, 6]], [[7, 7]]]], dtype=torch.uint8)
    mean, std = channel_statistics(images)
    assert mean.tolist() == [3.0, 7.0]  # (0 + 2 + 4 + 6) / 4
    assert std.tolist() == [pytest.approx(5**0.5), 1.0]  # (9 + 1 + 1 + 9) / 4; a constant channel is left as it is


@given(st.integers(0, 2**31))
def test_statistics_of_grey_levels_are_those_of_the_same_floats(seed):
    images = torch.randint(256, (5, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    for exact, other in zip(channel_statistics(images), channel_statistics(images.float()), strict=True):
        torch.testing.assert_close(exact, other)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.floats(0, 0.9), st.integers(0, 9))
def test_held_out_is_exact_and_stratified(labels, fraction, seed):
    count = round(fraction * len(labels))
    if count == len(labels):
        return
    taken = held_out(torch.tensor(labels), fraction, seed)
    assert int(taken.sum()) == count
    for label in set(labels):
        share = count * labels.count(label) / len(labels)
        got = sum(t for t, value in zip(taken.tolist(), labels, strict=True) if value == label)
        assert abs(got - share) < 1


def test_held_out_depends_on_its_seed_alone():
    labels = torch.arange(200) % 10
    state = torch.get_rng_state()
    first = held_out(labels, 0.1, seed=1)
    torch.manual_seed(99)
    assert torch.equal(first, held_out(labels, 0.1, seed=1))
    assert not torch.equal(first, held_out(labels, 0.1, seed=2))
    torch.set_rng_state(state)
    held_out(labels, 0.1, seed=1)
    assert torch.equal(state, torch.get_rng_state())


def test_split_parts_are_disjoint_and_whole():
    parts = split(of_labels([0, 1, 1, 0, 1, 0, 1, 1, 0, 0]), validation=0.4, seed=5)
    train, validation = parts.train.images.flatten().tolist(), parts.validation.images.flatten().tolist()
    assert (len(train), len(validation), len(parts.test)) == (6, 4, 2)
    assert sorted(train + validation) == list(range(10))
    assert train == sorted(train)
    assert parts.validation.labels.bincount().tolist() == [2, 2]


def test_split_of_nothing_leaves_all():
    parts = split(of_labels([0, 1, 2]), validation=0.0)
    assert (len(parts.train), len(parts.validation)) == (3, 0)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 0.99])
def test_split_refuses_to_take_everything(fraction):
    message = (
        f"A fraction of {fraction} cannot be held out of 3 training images: something must be left to train on. "
        "Use a fraction from 0 to well below 1, like 0.1."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        split(of_labels([0, 1, 2]), validation=fraction)


def test_repr_names_shape_and_note():
    made = of_labels([0, 1, 1])
    assert repr(made) == "Dataset(made: 3 training and 2 test images 1x1x1, 2 classes)"
    assert (made.channels, made.size) == (1, 1)


def test_unknown_task_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"^Unknown task 'mnist'\. Known: digits, cifar10, cifar100, folder\.$"):
        tasks.load("mnist")


def test_folder_task_asks_for_its_folder():
    with pytest.raises(ValueError, match=r"no folder was given\. Type: --data DIR$"):
        tasks.load("folder")
