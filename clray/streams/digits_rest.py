"""scikit-learn's digits without the quarter that is reserved: 1,352 images of 8 x 8.

For models that have seen that quarter, and nothing else, before the stream begins (``digits_mlp``).
"""

from __future__ import annotations

import functools

from clray.streams.dataset import Source
from clray.streams.digits import CLASSES, check, every, identity, reserved, whole
from clray.streams.opened_halves import Half, cut
from clray.streams.pieces import Listing

__all__ = ["check", "identity", "listing"]


def listing(name: str, source: Source) -> Listing:
    """The test set is every fifth image of each class that is left, in file order."""
    train, test = (cut(functools.partial(_half, half), 10, source) for half in ("train", "test"))
    return Listing(train, test, CLASSES, {"dataset": "digits-rest"})


@functools.cache
def _half(half: str) -> Half:
    left = ~reserved()
    images, labels = (column[left] for column in whole())
    chosen = every(5, labels)
    if half == "train":
        chosen = ~chosen
    return Half(f"digits-rest ({half})", labels[chosen], images[chosen])
