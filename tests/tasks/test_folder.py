import builtins
import re

import pytest
import torch
from PIL import Image

from rewire.tasks.folder import image_folder

RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (90, 90, 90)


def paint(path, colour, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_classes_by_name_and_colours_by_hand(tmp_path):
    paint(tmp_path / "train/wine/a.png", RED)
    paint(tmp_path / "train/sea/b.PNG", BLUE)
    paint(tmp_path / "test/sea/c.png", BLUE)
    (tmp_path / "train/sea/notes.txt").write_text("not an image")
    (tmp_path / "train/.hidden").mkdir()
    data = image_folder(tmp_path, size=4)
    assert data.train_labels.tolist() == [0, 1]
    assert data.train_images.dtype == torch.uint8
    assert data.train_images[:, :, 0, 0].tolist() == [list(BLUE), list(RED)]
    assert data.test_images.shape == (1, 3, 4, 4)
    assert (data.classes, data.name, data.note) == (2, tmp_path.name, "")


def test_val_stands_in_for_test(tmp_path):
    paint(tmp_path / "train/a/1.png", RED)
    paint(tmp_path / "val/a/1.png", BLUE)
    assert image_folder(tmp_path, size=2).test_images[0, :, 0, 0].tolist() == list(BLUE)


def test_middle_square_is_kept(tmp_path):
    """A red field in the middle of a wide blue one, larger than the crop and its filter: the crop is red alone."""
    picture = Image.new("RGB", (48, 8), BLUE)
    picture.paste(RED, (12, 0, 36, 8))
    (tmp_path / "train/a").mkdir(parents=True)
    picture.save(tmp_path / "train/a/wide.png")
    paint(tmp_path / "test/a/1.png", RED)
    image = image_folder(tmp_path, size=4).train_images[0]
    assert torch.equal(image, torch.tensor(RED, dtype=torch.uint8).reshape(3, 1, 1).expand(3, 4, 4))


def test_grey_and_jpeg_images_become_rgb(tmp_path):
    (tmp_path / "train/a").mkdir(parents=True)
    Image.new("L", (6, 6), 90).save(tmp_path / "train/a/1.jpg")
    Image.new("L", (6, 6), 90).save(tmp_path / "train/a/2.jpeg")
    paint(tmp_path / "test/a/1.png", GREY)
    assert image_folder(tmp_path, size=6).train_images.unique().tolist() == [90]


def test_without_a_test_folder_a_fifth_is_held_out(tmp_path):
    for number in range(5):
        paint(tmp_path / f"train/a/{number}.png", (number, 0, 0))
        paint(tmp_path / f"train/b/{number}.png", (10 + number, 0, 0))
    data = image_folder(tmp_path, size=2)
    assert data.train_labels.tolist() == [0] * 4 + [1] * 4
    assert data.test_labels.tolist() == [0, 1]
    assert data.note == "no test folder: the test set is a fixed fifth of train"


def test_missing_folder(tmp_path):
    message = f"No images: there is no folder {tmp_path / 'train'}. Lay the images out as train/CLASS/*.png"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}.* and type: --data {tmp_path}$"):
        image_folder(tmp_path)


def test_empty_folder(tmp_path):
    (tmp_path / "train/a").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no class folder holds a \.png, \.jpg, \.jpeg file\. Lay the images"):
        image_folder(tmp_path)


def test_truncated_image_is_named(tmp_path):
    path = tmp_path / "train/a/broken.png"
    paint(path, RED, size=(64, 64))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=rf"^{path} cannot be read as an image: .*Replace it or take it out"):
        image_folder(tmp_path)


def test_test_classes_must_be_known(tmp_path):
    paint(tmp_path / "train/a/1.png", RED)
    paint(tmp_path / "test/z/1.png", RED)
    with pytest.raises(
        ValueError, match=r"test has classes that .*train has not: z\. .*Give both the same class folders"
    ):
        image_folder(tmp_path)


def test_size_must_hold_something(tmp_path):
    with pytest.raises(ValueError, match=r"^Images of 0 pixels hold nothing\. Type a size of at least 1"):
        image_folder(tmp_path, size=0)


def test_without_pillow_it_says_what_to_type(tmp_path, monkeypatch):
    paint(tmp_path / "train/a/1.png", RED)
    real = builtins.__import__

    def absent(name, *rest):
        if name == "PIL":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r'Pillow, which is not installed\. Type: pip install "rewire\[cli\]"'):
        image_folder(tmp_path)


def test_images_that_do_not_fit_into_memory_are_refused_before_any_is_read(tmp_path, monkeypatch):
    for name in ("a", "b"):
        paint(tmp_path / "train" / name / "1.png", (1, 2, 3))
    monkeypatch.setattr("rewire.tasks.folder._physical_memory", lambda: 3 * 8 * 8)
    monkeypatch.setattr("rewire.tasks.folder.square", lambda *_: pytest.fail("an image was read"))
    with pytest.raises(ValueError, match=r"holds 2 images, which take 0\.0 GB at 8 pixels.*Use smaller images"):
        image_folder(tmp_path, size=8)
