"""scikit-learn's handwritten digits: 1,797 images of 8 x 8, in the package."""

from __future__ import annotations

import functools

import torch

from clray.streams.dataset import Source
from clray.streams.opened_halves import Half, cut
from clray.streams.pieces import Listing


def check(name: str, source: Source) -> int:
    """The number of classes."""
    return 10


def identity(name: str) -> object:
    """Never changes."""
    return None


def listing(name: str, source: Source) -> Listing:
    """The test set is every fifth image of each class, in file order."""
    train, test = (cut(functools.partial(_half, half), 10, source) for half in ("train", "test"))
    return Listing(train, test, tuple(str(n) for n in range(10)), {"dataset": "digits"})


@functools.cache
def _half(half: str) -> Half:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().byte().unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        chosen[(labels == digit).nonzero().squeeze(1)[4::5]] = True
    if half == "train":
        chosen = ~chosen
    return Half(f"digits ({half})", labels[chosen], images[chosen])
