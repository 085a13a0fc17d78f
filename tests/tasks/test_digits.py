import builtins

import pytest
import torch
from sklearn.datasets import load_digits

from rewire.tasks.digits import digits


def test_digits_are_scikit_learns():
    data = digits()
    assert data.train_images.dtype == data.test_images.dtype == torch.uint8
    assert data.train_images.shape == (1438, 1, 8, 8)
    assert data.test_images.shape == (359, 1, 8, 8)
    ours = torch.cat([data.train_images, data.test_images]).flatten(1).tolist()
    assert sorted(ours) == sorted(load_digits().data.astype(int).tolist())
    assert data.note == ""


def test_test_set_is_a_fixed_fifth_of_each_class():
    data, again = digits(), digits()
    assert torch.equal(data.test_images, again.test_images)
    test, train = data.test_labels.bincount(), data.train_labels.bincount()
    assert ((test - 0.2 * (test + train)).abs() < 1).all()
    # The same on every machine: the first labels of the test set, written down.
    assert data.test_labels[:8].tolist() == [6, 6, 0, 0, 9, 8, 1, 6]


def test_mean_is_of_the_training_images():
    data = digits()
    assert data.mean.item() == pytest.approx(data.train_images.double().mean().item())


def test_without_scikit_learn_it_says_what_to_type(monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r'scikit-learn, which is not installed\. Type: pip install "rewire\[cli\]"'):
        digits()
