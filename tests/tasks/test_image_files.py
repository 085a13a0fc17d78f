"""A folder of images that stay in their files until they are needed."""

import builtins
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from rewire.tasks.data import held_out
from rewire.tasks.image_files import image_files

torch.set_num_threads(1)


def made(folder: Path, train: dict[str, int], test: dict[str, int], name: str = "val") -> Path:
    """A folder with so many images of each class."""
    for part, classes in (("train", train), (name, test)):
        for label, count in classes.items():
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / part / label / f"{number:03}.png")
    return folder


def test_three_parts_by_hand(tmp_path: Path) -> None:
    folder = made(tmp_path, {"wine": 3, "sea": 5}, {"sea": 2})
    (folder / "train/sea/notes.txt").write_text("no image")
    (folder / "train/.cache").mkdir()
    images = image_files(folder, validation=0.25, seed=0)
    assert (images.classes, images.count, len(images.validation), len(images.test), images.note) == (2, 6, 2, 2, "")
    everything = [files[number] for files in (images.train, images.validation) for number in range(len(files))]
    places = [folder / "train/sea" / f"{n:03}.png" for n in range(5)]
    places += [folder / "train/wine" / f"{n:03}.png" for n in range(3)]
    assert sorted(picture.name for picture in everything) == [str(place) for place in places]
    assert all((picture.label == 1) == ("wine" in picture.name) for picture in everything)
    assert all(picture.content is None for picture in everything)
    assert images.test[1].name == str(folder / "val/sea/001.png")


def test_the_same_images_are_held_out_as_of_a_folder_in_memory(tmp_path: Path) -> None:
    folder = made(tmp_path, {"a": 10, "b": 20}, {"a": 1})
    held = held_out(torch.tensor([0] * 10 + [1] * 20), 0.3, seed=7)
    images = image_files(folder, validation=0.3, seed=7)
    assert torch.equal(images.validation.labels, torch.tensor([0] * 10 + [1] * 20)[held])
    assert images.validation.labels.tolist() == [0] * 3 + [1] * 6
    names = [f"a/{n:03}.png" for n in range(10)] + [f"b/{n:03}.png" for n in range(20)]
    assert images.validation.names == [name for name, out in zip(names, held.tolist(), strict=True) if out]
    assert not set(images.validation.names) & set(images.train.names)


def test_a_part_is_shared_out_among_processes(tmp_path: Path) -> None:
    images = image_files(made(tmp_path, {"a": 10}, {"a": 7}), validation=0.3, seed=0)
    for part, count in (("validation", 3), ("test", 7)):
        shares = [list(images.measure(part, rank, 2)) for rank in (0, 1)]  # type: ignore[arg-type]
        assert sorted(shares[0] + shares[1]) == list(images.measure(part, 0, 1))  # type: ignore[arg-type]
        assert len(shares[0]) + len(shares[1]) == count


def test_the_sample_is_of_all_training_images_and_the_same_at_every_call(tmp_path: Path) -> None:
    images = image_files(made(tmp_path, {"a": 20, "b": 20}, {"a": 1}), validation=0.1, seed=0)
    sample = list(images.sample(12))
    assert sample == list(images.sample(12))
    assert len(set(sample)) == 12
    assert {picture.label for picture in sample} == {0, 1}
    assert {picture.name for picture in sample} <= {images.train[n].name for n in range(images.count)}


def test_val_comes_before_test_which_imagenet_has_without_classes(tmp_path: Path) -> None:
    folder = made(tmp_path, {"a": 4}, {"a": 1})
    (folder / "test").mkdir()
    assert image_files(folder, 0.25, 0).test[0].name == str(folder / "val/a/000.png")


def test_test_stands_in_for_val(tmp_path: Path) -> None:
    assert len(image_files(made(tmp_path, {"a": 4}, {"a": 2}, "test"), 0.25, 0).test) == 2


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    message = f"No images: there is no folder {tmp_path / 'train'}. Lay the images out as train/CLASS/*.jpg"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}.* and type: --data {tmp_path}$"):
        image_files(tmp_path, 0.1, 0)
    (tmp_path / "train").mkdir()
    message = f"No images: there is no folder {tmp_path / 'val'} or {tmp_path / 'test'}. Lay the images out"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}"):
        image_files(tmp_path, 0.1, 0)


def test_a_folder_without_an_image(tmp_path: Path) -> None:
    message = rf"^No images in {tmp_path / 'train'}: no class folder holds a \.png, \.jpg, \.jpeg file\. Lay the images"
    with pytest.raises(FileNotFoundError, match=message):
        image_files(made(tmp_path, {"a": 0}, {"a": 1}), 0.1, 0)


def test_a_class_that_training_has_not(tmp_path: Path) -> None:
    message = f"{tmp_path / 'val'} has classes that {tmp_path / 'train'} has not: y, z. A network cannot name what it"
    with pytest.raises(ValueError, match=f"^{re.escape(message)} was never shown. Give both the same class folders.$"):
        image_files(made(tmp_path, {"a": 4}, {"a": 1, "z": 1, "y": 1}), 0.25, 0)


def test_without_pillow_it_says_what_to_type_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: object) -> object:
        if name == "PIL":
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r'Pillow, which is not installed\. Type: pip install "rewire\[cli\]"$'):
        image_files(tmp_path, 0.1, 0)
