"""MNIST-10k: the first 8,000 images of MNIST's test file for training, the last 2,000 for testing.

Small enough for minutes on a CPU; from ``$CLRAY_DATA/mnist``.
"""

from __future__ import annotations

import dataclasses

from clray.streams import parquet_files
from clray.streams.dataset import Source
from clray.streams.pieces import Listing

FOLDER = "$CLRAY_DATA/mnist"
CUTS = (0, 8000, 10_000)


def check(name: str, source: Source) -> int:
    """The number of classes.

    Raises:
        BadData: the file is not there.
    """
    parquet_files.find(FOLDER, ("test",))
    return 10


def identity(name: str) -> object:
    """What changes when the file does."""
    return tuple(parquet_files.find(FOLDER, ("test",))["test"])


def listing(name: str, source: Source) -> Listing:
    """Both halves as rows of the one file.

    Raises:
        BadData: the file is not there, damaged, or another one.
    """
    plain = dataclasses.replace(source, image_column="image", label_column="label")
    return parquet_files.list_one(FOLDER, "test", CUTS, [str(n) for n in range(10)], plain)
