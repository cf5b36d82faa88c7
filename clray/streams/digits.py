"""scikit-learn's handwritten digits: 1,797 images of 8 x 8, in the package.

A quarter of them can be reserved, for what a model learns before the stream begins; the source
``digits-rest`` is without it.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from clray.streams.dataset import Source
from clray.streams.opened_halves import Half, cut
from clray.streams.pieces import Listing

CLASSES = tuple(str(n) for n in range(10))


def check(name: str, source: Source) -> int:
    """The number of classes."""
    return 10


def identity(name: str) -> object:
    """Never changes."""
    return None


def listing(name: str, source: Source) -> Listing:
    """The test set is every fifth image of each class, in file order."""
    train, test = (cut(functools.partial(_half, half), 10, source) for half in ("train", "test"))
    return Listing(train, test, CLASSES, {"dataset": "digits"})


def whole() -> tuple[Tensor, Tensor]:
    """All images, uint8 [1797, 1, 8, 8], and labels, int64 [1797], in file order."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().byte().unsqueeze(1)
    return images, torch.from_numpy(bunch.target).long()


def reserved() -> Tensor:
    """bool [1797], whether an image is of the reserved quarter: every fourth of each class."""
    return every(4, whole()[1])


def every(nth: int, labels: Tensor) -> Tensor:
    """bool [N], true for every ``nth`` example of each class in their order."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in set(labels.tolist()):
        chosen[(labels == label).nonzero().squeeze(1)[nth - 1 :: nth]] = True
    return chosen


@functools.cache
def _half(half: str) -> Half:
    images, labels = whole()
    chosen = every(5, labels)
    if half == "train":
        chosen = ~chosen
    return Half(f"digits ({half})", labels[chosen], images[chosen])
