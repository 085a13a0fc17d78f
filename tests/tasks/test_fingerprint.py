"""Fingerprints tell data of one name apart, and do not change with the seed that divides the data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from rewire.assembly import build_task
from rewire.recipe import Recipe
from rewire.tasks.data import fingerprint
from rewire.tasks.digits import digits
from rewire.tasks.folder import image_folder
from rewire.tasks.image_files import READ, image_files

torch.set_num_threads(1)

EDGES = [(n, (n * step) % 31) for n in range(1, 31) for step in (2, 3, 5)]


def images(folder: Path) -> None:
    for part, count in (("train", 10), ("val", 4)):
        for label in "ab":
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / part / label / f"{number:03}.png")


def text(folder: Path) -> None:
    (folder / "tinyshakespeare.txt").write_text("To be, or not to be. " * 50)


def graph(folder: Path) -> None:
    (folder / "ring.txt").write_text("".join(f"{head} {tail}\n" for head, tail in EDGES))


def repaint(folder: Path) -> None:
    Image.new("RGB", (4, 4), (0, 0, 99)).save(folder / "train/a/003.png")


def rename(folder: Path) -> None:
    (folder / "train/a/003.png").rename(folder / "train/a/zzz.png")


def change_letter(folder: Path) -> None:
    path = folder / "tinyshakespeare.txt"
    path.write_text(path.read_text().replace("be,", "he,", 1))


def events(folder: Path) -> None:
    (folder / "ring.txt").write_text("".join(f"{head} {tail} {time}\n" for time, (head, tail) in enumerate(EDGES)))


def change_time(folder: Path) -> None:
    path = folder / "ring.txt"
    path.write_text(path.read_text().replace("30 29 87\n", "30 29 1\n"))


def forget_times(folder: Path) -> None:
    graph(folder)


def turn_edge(folder: Path) -> None:
    path = folder / "ring.txt"
    path.write_text(path.read_text().replace("30 29 ", "29 30 "))


def change_edge(folder: Path) -> None:
    path = folder / "ring.txt"
    path.write_text(path.read_text().replace("30 29\n", "30 14\n"))


FOLDER = Recipe(task="folder", image_size=4, batch_size=4, validation=0.2)
STREAMED = replace(FOLDER, task="imagenet", model="resnet20")
TEXT = Recipe(task="shakespeare", model="gpt", context=8, batch_size=4)
GRAPH = Recipe(task="gnn-ring", model="gcn", batch_size=1)
PAIRS = Recipe(task="linkpred-ring", model="mlp", hidden=(4,), batch_size=4)


@pytest.mark.parametrize(
    ("recipe", "make", "change"),
    [
        (FOLDER, images, repaint),
        (FOLDER, images, rename),
        (STREAMED, images, repaint),
        (STREAMED, images, rename),
        (TEXT, text, change_letter),
        (GRAPH, graph, change_edge),
        (GRAPH, events, change_time),
        (GRAPH, events, forget_times),
        (PAIRS, graph, change_edge),
        (PAIRS, events, change_time),
        (PAIRS, events, turn_edge),
    ],
    ids=lambda value: value.task if isinstance(value, Recipe) else value.__name__,
)
def test_other_data_has_another_fingerprint(
    recipe: Recipe, make: Callable[[Path], None], change: Callable[[Path], None], tmp_path: Path
) -> None:
    for name in ("a", "b", "changed"):
        (tmp_path / name).mkdir()
        make(tmp_path / name)
    change(tmp_path / "changed")
    found = build_task(recipe, tmp_path / "a", workers=0).fingerprint
    assert len(found) == 16
    contents = [sorted(file.read_bytes() for file in (tmp_path / name).rglob("*.*")) for name in ("a", "changed")]
    assert contents[0] != contents[1] or change is rename
    for seed in (0, 1):
        assert build_task(replace(recipe, seed=seed), tmp_path / "b", workers=0).fingerprint == found
    assert build_task(recipe, tmp_path / "changed", workers=0).fingerprint != found


def test_tensors_in_memory_are_their_own_fingerprint() -> None:
    data = digits()
    assert data.fingerprint == digits().fingerprint
    changed = data.train_images.clone()
    changed[700, 0, 3, 3] += 1
    assert replace(data, train_images=changed).fingerprint != data.fingerprint
    assert replace(data, test_labels=data.test_labels.flip(0)).fingerprint != data.fingerprint
    assert fingerprint(torch.zeros(4)) != fingerprint(torch.zeros(2, 2)) != fingerprint(torch.zeros(4).long())


def test_pixels_that_another_decoder_makes_are_no_other_data(tmp_path: Path) -> None:
    images(tmp_path)
    assert image_folder(tmp_path, size=4).fingerprint == image_folder(tmp_path, size=8).fingerprint


def test_a_large_folder_is_not_read_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, count in (("train", 2 * READ + 1), ("val", READ)):
        (tmp_path / part / "a").mkdir(parents=True)
        for number in range(count):
            (tmp_path / part / "a" / f"{number:04}.jpg").write_bytes(b"x")
    read: list[str] = []
    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.parts[-3]) or whole(path))
    image_files(tmp_path, validation=0.1, seed=0).fingerprint  # noqa: B018 (it is what reads)
    assert (read.count("train"), read.count("val")) == (67, READ)  # every third, every one
