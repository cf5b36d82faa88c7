"""A dataset read whole, piece by piece, into two tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from clray.errors import BadData
from clray.streams.dataset import Dataset
from clray.streams.decoding import Shape, bad_labels
from clray.streams.pieces import BadRow, Listing, Piece

THREADED_PIXELS = 128 * 128
"""Images from this size on are decoded by threads; for smaller ones the interpreter's lock makes
threads no faster than one (measured: 32 x 32 PNG, 20,000 a second with one and with two)."""


def load(listing: Listing) -> Dataset:
    """All images and labels of both halves.

    Raises:
        BadData: the first row that cannot be used, or a file.
    """
    train_y = _labels(listing.train)
    classes = listing.class_names or tuple(str(n) for n in range(int(train_y.max()) + 1))
    test_y = _labels(listing.test)
    _check_known(test_y, listing.test, len(classes))
    train_x = _images(listing.train, None)
    channels, height, width = train_x.shape[1:]
    test_x = _images(listing.test, (channels, height, width))
    return Dataset(train_x, train_y, test_x, test_y, classes)


def count_classes(pieces: Sequence[Piece]) -> int:
    """How many classes there are, from the labels alone.

    Raises:
        BadData: the first row without a label, or a file.
    """
    return int(_labels(pieces).max()) + 1


def _labels(pieces: Sequence[Piece]) -> Tensor:
    found = []
    for piece in pieces:
        labels, bad = piece.labels()
        _refuse(bad)
        found.append(labels)
    return torch.cat(found)


def _images(pieces: Sequence[Piece], shape: Shape | None) -> Tensor:
    """uint8 [N, C, H, W]; the shape is that of the first good image if it is None."""
    first, bad = pieces[0].images(range(len(pieces[0])), shape)
    _refuse(bad)
    channels, height, width = first.shape[1:]
    images = first.new_empty((sum(map(len, pieces)), channels, height, width))
    images[: len(first)] = first

    def read(piece: Piece, start: int) -> list[BadRow]:
        own, bad = piece.images(range(len(piece)), (channels, height, width))
        images[start : start + len(own)] = own
        return bad

    starts, start = [], len(first)
    for piece in pieces[1:]:
        starts.append(start)
        start += len(piece)
    threads = min(8, os.cpu_count() or 1) if height * width >= THREADED_PIXELS else 1
    if threads == 1:
        for piece, start in zip(pieces[1:], starts, strict=True):
            _refuse(read(piece, start))
        return images
    with ThreadPoolExecutor(threads) as pool:
        for bad in pool.map(read, pieces[1:], starts):
            _refuse(bad)
    return images


def _check_known(labels: Tensor, pieces: Sequence[Piece], num_classes: int) -> None:
    faults = bad_labels(labels, num_classes)
    if not faults:
        return
    row, fault = min(faults.items())
    for piece in pieces:
        if row < len(piece):
            raise BadData(f"{piece.where}: label of row {row} there", fault.given, fault.accepted)
        row -= len(piece)


def _refuse(bad: Sequence[BadRow]) -> None:
    if bad:
        raise BadData(bad[0].where, bad[0].given, bad[0].accepted)
