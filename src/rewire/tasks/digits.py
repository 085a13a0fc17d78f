"""The embedded data set: scikit-learn's digits, real scans that ship inside the package, no download."""

import torch

from rewire.tasks.data import Dataset, channel_statistics, held_out


def digits() -> Dataset:
    """1797 handwritten digits, 8x8 pixels of 17 grey levels, as 1438 training and 359 test images.

    The test set is a fifth of each class, the same on every machine and for every seed.

    >>> digits()
    Dataset(digits: 1438 training and 359 test images 1x8x8, 10 classes)

    Reference: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998,
    https://archive.ics.uci.edu/dataset/80
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The digits cannot be read: they ship with scikit-learn, which is not installed. "
            'Type: pip install "rewire[cli]"'
        ) from error
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    test = held_out(labels, 0.2, seed=0)
    mean, std = channel_statistics(images[~test])
    return Dataset(
        name="digits",
        train_images=images[~test],
        train_labels=labels[~test],
        test_images=images[test],
        test_labels=labels[test],
        classes=10,
        mean=mean,
        std=std,
    )
