"""Images that are streamed by name: a data set of some Parquet files stands in for the hub."""

import io
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rewire.tasks import hub, imagenet
from rewire.tasks.pictures import Picture, centre_crop
from rewire.tasks.stream import Loader, Stream

torch.set_num_threads(1)

SHARDS, IN_A_SHARD = 6, 11
ADVICE = (
    "Type: --data DIR, with the images as train/CLASS/ and val/CLASS/; or accept the terms on "
    "https://huggingface.co/datasets/ILSVRC/imagenet-1k and type: hf auth login"
)


def rows(first: int, count: int) -> list[dict[str, Any]]:
    """Images of one colour, whose red is their number; the label is the number modulo 3."""
    found = []
    for number in range(first, first + count):
        buffer = io.BytesIO()
        Image.new("RGB", (6, 4), (number, 0, 0)).save(buffer, "PNG")
        found.append({"image": {"bytes": buffer.getvalue(), "path": f"{number}.png"}, "label": number % 3})
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As on the hub: data/train-00000-of-00006.parquet, ... and one file of validation images."""
    datasets = pytest.importorskip("datasets", reason="the library is an extra: pip install rewire[data]")
    datasets.disable_progress_bars()
    place = tmp_path_factory.mktemp("hub")
    (place / "data").mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    parts = [(f"train-{n:05}-of-{SHARDS:05}", IN_A_SHARD * n, IN_A_SHARD) for n in range(SHARDS)]
    for name, first, count in (*parts, ("validation-00000-of-00001", 200, 9)):
        datasets.Dataset.from_list(rows(first, count), features=features).to_parquet(place / f"data/{name}.parquet")
    return place


@pytest.fixture
def images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> hub.HubImages:
    """A sixth of 66 images held out, one shard, as `by_name` gives ImageNet."""
    monkeypatch.setattr(imagenet, "HUB", str(folder))
    monkeypatch.setattr(imagenet, "TRAINING_IMAGES", SHARDS * IN_A_SHARD)
    # Seconds that the library waits before its threads end, at the end of every stream.
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    return imagenet.by_name(validation=1 / SHARDS, seed=0)


def numbers(pictures: Any) -> list[int]:
    return [int(picture.name.removesuffix(".png")) for picture in pictures]


def epoch(images: hub.HubImages, number: int, *, skip: int = 0, rank: int = 0, world_size: int = 1) -> list[int]:
    """The images of a process in an epoch of batches of 5, after those that are left out."""
    batches = [
        list(range(first, first + 5 // world_size)) for first in range(0, 55 // world_size - skip, 5 // world_size)
    ]
    found = list(images.learn(batches, number, skip, rank, world_size))
    assert [[n for n, _ in batch] for batch in found] == batches
    return numbers(picture for batch in found for _, picture in batch)


def test_a_shard_is_held_out_and_the_rest_is_learned_from(images: hub.HubImages) -> None:
    held, seen, test = (
        set(numbers(pictures))
        for pictures in (images.measure("validation", 0, 1), images.sample(99), images.measure("test", 0, 1))
    )
    assert len(held) == IN_A_SHARD == max(held) - min(held) + 1
    assert held | seen == set(range(SHARDS * IN_A_SHARD))
    assert not held & seen
    assert test == set(range(200, 209))
    assert (images.count, images.classes) == (55, 3)
    assert images.note.startswith("by name, ")


def test_pictures_hold_what_was_encoded_and_its_label(images: hub.HubImages) -> None:
    for picture in images.measure("test", 0, 1):
        (number,) = numbers([picture])
        assert picture.label == number % 3
        assert centre_crop(picture, 4)[:, 0, 0].tolist() == [number, 0, 0]


def test_an_epoch_has_every_image_once_in_an_order_of_its_own(images: hub.HubImages) -> None:
    first, second = epoch(images, 0), epoch(images, 1)
    assert sorted(first) == sorted(second) == sorted(numbers(images.sample(99)))
    assert first != second
    assert first != sorted(first)
    assert (first, second) == (epoch(images, 0), epoch(images, 1))


def test_another_seed_holds_out_other_shards_and_gives_another_order(
    images: hub.HubImages, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [imagenet.by_name(validation=1 / SHARDS, seed=seed) for seed in range(5)]
    assert len({min(numbers(each.measure("validation", 0, 1))) for each in found}) > 1
    assert len({tuple(epoch(each, 0)) for each in found}) == 5
    assert epoch(found[0], 3) == epoch(images, 3)


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 5), (4, 5)])
def test_going_on_is_as_if_it_had_never_stopped(images: hub.HubImages, number: int, rank: int, world_size: int) -> None:
    whole = epoch(images, number, rank=rank, world_size=world_size)
    skip = 5 // world_size * 3
    assert epoch(images, number, skip=skip, rank=rank, world_size=world_size) == whole[skip:]


@pytest.mark.parametrize("world_size", [2, 5])
def test_processes_share_no_image_whether_or_not_each_has_shards_of_its_own(
    images: hub.HubImages, world_size: int
) -> None:
    def learned(number: int, rank: int) -> list[int]:
        (batch,) = images.learn([list(range(55 // world_size))], number, 0, rank, world_size)
        return numbers(picture for _, picture in batch)

    for number in (0, 3):
        found = [image for rank in range(world_size) for image in learned(number, rank)]
        assert len(set(found)) == len(found) == 55 // world_size * world_size
    measured = [numbers(images.measure("test", rank, world_size)) for rank in range(world_size)]
    assert sorted(number for share in measured for number in share) == list(range(200, 209))


def test_a_process_with_too_few_images_takes_its_first_ones_again(images: hub.HubImages) -> None:
    (batch,) = images.learn([list(range(14))], 1, 0, 2, 5)
    found = numbers(picture for _, picture in batch)
    assert len(set(found)) == IN_A_SHARD
    assert found[IN_A_SHARD:] == found[:3]
    (rest,) = images.learn([[0, 1]], 1, 12, 2, 5)
    assert numbers(picture for _, picture in rest) == found[12:], "as it would have gone on"


def test_batches_of_it_resume_and_do_not_depend_on_workers(images: hub.HubImages) -> None:
    alone = list(Stream(images, Loader(4, torch.device("cpu")), batch_size=10, seed=0).epoch(1))
    resumed = list(Stream(images, Loader(4, torch.device("cpu"), workers=2), batch_size=10, seed=0).epoch(1, 2))
    assert [len(y) for _, y in alone] == [10] * 5
    assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(alone[2:], resumed, strict=True))


@pytest.mark.parametrize(("validation", "advice"), [(0.05, "0.167"), (0.95, "0.833")])
def test_a_part_without_a_shard_is_refused(images: hub.HubImages, validation: float, advice: str) -> None:
    message = f"validation={validation} of 6 shards of training images is not one shard, or all of them. Use validation"
    with pytest.raises(ValueError, match=f"^{message}={advice}.$"):
        imagenet.by_name(validation, 0)
    imagenet.by_name(float(advice), 0)


# ---- without the library, or without what it needs


def test_without_the_library_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError) as caught:
        imagenet.by_name(0.02, 0)
    assert str(caught.value) == (
        "No ImageNet: no folder was given, and the datasets library, which fetches it by name, is not installed. "
        f'{ADVICE}; or: pip install "rewire[data]"'
    )


def test_without_a_network_or_access_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, *, streaming: bool) -> None:
        assert streaming
        raise RuntimeError(f"{name}\nis gated")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(ConnectionError) as caught:
        imagenet.by_name(0.02, 0)
    assert str(caught.value) == (
        "No ImageNet: no folder was given, and ILSVRC/imagenet-1k could not be fetched by name (RuntimeError: "
        f"ILSVRC/imagenet-1k is gated). {ADVICE}, or try again with a network."
    )


def test_a_picture_without_a_name_has_one() -> None:
    (found,) = hub._pictures([{"image": {"bytes": b"", "path": None}, "label": 1}])
    assert found == Picture("An image without a name", b"", 1)
