import hashlib
import pickle
import re
import sys
import types

import numpy as np
import pytest
import torch

from rewire.tasks import cifar
from rewire.tasks.cifar import cifar10, cifar100

NOT_OFFICIAL = "not the official files (checksum differs)"
CIFAR10_FILES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def batch(first: int, labels: list[int], key: bytes = b"labels") -> dict:
    """Rows whose every byte is `first` plus the row's number."""
    rows = np.arange(first, first + len(labels), dtype=np.uint8)
    return {b"data": np.repeat(rows[:, None], 3072, axis=1), key: labels}


@pytest.fixture
def small_cifar10(tmp_path):
    """The standard layout with two images a file: grey levels 0, 1, ... over the six files in order."""
    place = tmp_path / "cifar-10-batches-py"
    place.mkdir()
    for number, name in enumerate(CIFAR10_FILES):
        content = batch(2 * number, [number, 9 - number])
        (place / name).write_bytes(pickle.dumps(content, protocol=4))
    return tmp_path


def test_layout_by_hand(small_cifar10):
    data = cifar10(small_cifar10)
    assert data.train_images.shape == (10, 3, 32, 32)
    assert data.train_images[:, 2, 31, 31].tolist() == list(range(10))
    assert data.train_labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert data.test_images[:, 0, 0, 0].tolist() == [10, 11]
    assert (data.name, data.classes, data.note) == ("cifar10", 10, NOT_OFFICIAL)
    assert data.mean.tolist() == [4.5] * 3


def test_the_folder_itself_or_the_one_that_holds_it(small_cifar10):
    outer, inner = cifar10(str(small_cifar10)), cifar10(small_cifar10 / "cifar-10-batches-py")
    assert torch.equal(outer.train_images, inner.train_images)


def test_channels_come_first_then_rows(small_cifar10):
    content = {b"data": np.arange(3072, dtype=np.int64).astype(np.uint8)[None], b"labels": [0]}
    (small_cifar10 / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps(content))
    image = cifar10(small_cifar10).test_images[0]
    assert image[1, 2, 3].item() == (1024 + 2 * 32 + 3) % 256


def test_text_keys_are_read_as_bytes_keys_are(small_cifar10):
    path = small_cifar10 / "cifar-10-batches-py/test_batch"
    content = {key.decode(): value for key, value in pickle.loads(path.read_bytes()).items()}
    path.write_bytes(pickle.dumps(content, protocol=2))
    assert cifar10(small_cifar10).test_labels.tolist() == [5, 4]


def test_cifar100_takes_the_fine_labels(tmp_path):
    for name, labels in (("train", [99, 0, 41]), ("test", [7])):
        content = batch(0, labels, b"fine_labels") | {b"coarse_labels": [1] * len(labels)}
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol=4))
    data = cifar100(tmp_path)
    assert data.train_labels.tolist() == [99, 0, 41]
    assert (data.name, data.classes) == ("cifar100", 100)


def test_official_files_bear_no_note(small_cifar10, monkeypatch):
    """Files are official by checksum: with those of our own files put in, the note is gone."""
    for parts in (cifar._CIFAR10.train, cifar._CIFAR10.test):
        for name in parts:
            content = (small_cifar10 / "cifar-10-batches-py" / name).read_bytes()
            monkeypatch.setitem(parts, name, hashlib.md5(content).hexdigest())
    assert cifar10(small_cifar10).note == ""
    monkeypatch.setitem(cifar._CIFAR10.train, "data_batch_3", "0" * 32)
    assert cifar10(small_cifar10).note == NOT_OFFICIAL


ADVICE = r"Unpack cifar-10-python\.tar\.gz from https://\S+ and type: --data DIR"


def test_missing_folder(tmp_path):
    absent = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match=rf"^No CIFAR-10: there is no folder {absent}\. {ADVICE}"):
        cifar10(absent)


def test_empty_folder_names_the_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"data_batch_1, .*, test_batch missing\. {ADVICE}"):
        cifar10(tmp_path)


def test_one_missing_file_is_named(small_cifar10):
    (small_cifar10 / "cifar-10-batches-py/data_batch_4").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"^No whole CIFAR-10 in \S+cifar-10-batches-py: data_batch_4 missing\."
    ):
        cifar10(small_cifar10)


def wrong_files() -> dict[str, tuple[bytes, str]]:
    good = batch(0, [1, 2])
    return {
        "truncated": (pickle.dumps(good)[:-100], "truncated|damaged or cut short"),
        "empty": (b"", "damaged or cut short"),
        "list": (pickle.dumps([1, 2]), "it holds a list in place of a dict"),
        "other keys": (pickle.dumps({"a": 1}), "it has no 'data' and no 'labels'"),
        "label too many": (pickle.dumps(good | {b"labels": [1, 2, 3]}), "'data' is not a uint8 array of 3 rows"),
        "floats": (pickle.dumps(good | {b"data": np.zeros((2, 3072))}), "'data' is not a uint8 array of 2 rows"),
        "no array": (pickle.dumps(good | {b"data": b"bytes"}), "'data' is not a uint8 array of 2 rows"),
        "label too large": (pickle.dumps(good | {b"labels": [1, 10]}), "'labels' is not a list of classes from 0 to 9"),
        "text labels": (
            pickle.dumps(good | {b"labels": ["cat", "dog"]}),
            "'labels' is not a list of classes from 0 to 9",
        ),
        "no list": (pickle.dumps(good | {b"labels": None}), "'labels' is not a list of classes from 0 to 9"),
        "no image": (pickle.dumps(batch(0, [])), "it holds no image"),
    }


@pytest.mark.parametrize("kind", wrong_files())
def test_wrong_files_are_named(small_cifar10, kind):
    content, reason = wrong_files()[kind]
    path = small_cifar10 / "cifar-10-batches-py/data_batch_2"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} cannot be read as a file of CIFAR-10: .*({reason})") as caught:
        cifar10(small_cifar10)
    assert re.search(r"Unpack cifar-10-python\.tar\.gz from \S+ again, then type: --data \S+$", str(caught.value))


def test_a_malicious_file_is_refused_and_nothing_runs(small_cifar10, tmp_path):
    class Malicious:
        def __reduce__(self):
            return eval, (f"open({str(tmp_path / 'trace')!r}, 'w').close()",)

    (small_cifar10 / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps({b"data": Malicious()}))
    with pytest.raises(ValueError, match=r"it asks for builtins\.eval, not an array or a plain container"):
        cifar10(small_cifar10)
    assert not (tmp_path / "trace").exists()


def test_without_the_datasets_library_it_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError) as caught:
        cifar10(None)
    assert str(caught.value) == (
        "No CIFAR-10: no folder was given, and the datasets library, which fetches it by name, is not installed. "
        "Type: --data DIR, with the folder into which cifar-10-python.tar.gz from "
        'https://www.cs.toronto.edu/~kriz/cifar.html was unpacked; or: pip install "rewire[data]"'
    )


def test_without_a_network_it_says_what_to_type(monkeypatch):
    def load_dataset(name):
        raise RuntimeError(f"cannot reach {name}")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(
        ConnectionError, match=r"cannot reach uoft-cs/cifar100\)\. Type: --data DIR, .* with a network\."
    ):
        cifar100()


class HubPart:
    """As much of a datasets.Dataset as is used: columns of numpy arrays, images as rows, columns, channels."""

    def __init__(self, **columns):
        self.columns = columns

    def with_format(self, name):
        assert name == "numpy"
        return self

    def __getitem__(self, rows):
        return {key: column[rows] for key, column in self.columns.items()}


def test_by_name(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    labels = np.array([5, 3, 0, 9])
    parts = {"train": HubPart(img=images[:3], label=labels[:3]), "test": HubPart(img=images[3:], label=labels[3:])}
    monkeypatch.setitem(
        sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda name: {"uoft-cs/cifar10": parts}[name])
    )
    data = cifar10()
    assert data.train_images.shape == (3, 3, 32, 32)
    assert data.train_images[1, 2, 5, 7].item() == images[1, 5, 7, 2]
    assert data.test_labels.tolist() == [9]
    assert data.note == "by name, uoft-cs/cifar10"


def test_real_cifar10(cifar10_folder):
    data = cifar10(cifar10_folder)
    assert data.train_images.shape == (50_000, 3, 32, 32)
    assert data.test_images.shape == (10_000, 3, 32, 32)
    assert data.train_labels.bincount().tolist() == [5000] * 10
    assert data.test_labels.bincount().tolist() == [1000] * 10
    published = torch.tensor([0.4914, 0.4822, 0.4465]) * 255  # of the official files; a JPEG copy moves it by less
    assert (data.mean - published).abs().max() < 0.5


def test_real_cifar100(cifar100_folder):
    data = cifar100(cifar100_folder.parent)
    assert data.train_images.shape == (50_000, 3, 32, 32)
    assert data.train_labels.bincount().tolist() == [500] * 100
    assert data.test_labels.bincount().tolist() == [100] * 100
