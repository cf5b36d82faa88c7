"""Pieces of datasets that a process opens whole, once, and then reads any rows of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from clray.streams.dataset import Source
from clray.streams.decoding import (
    UNKNOWN_SIDE,
    Shape,
    bad_labels,
    bad_rows,
    empty_shape,
    fit_all,
    open_each,
    rows_per_piece,
)
from clray.streams.pieces import BadRow


@dataclass(frozen=True)
class Half:
    """The training or the test set of a dataset, open in this process.

    Attributes:
        where: names it in an error.
        labels: int64 [N].
        pixels: uint8 [N, 1 or 3, H, W]; None: images are opened one by one.
        image: opens image i; used only without ``pixels``.
    """

    where: str
    labels: Tensor
    pixels: Tensor | None = None
    image: Callable[[int], Image.Image] | None = None


@dataclass(frozen=True)
class HalfRows:
    """Neighbouring rows of a half (``clray.streams.pieces.Piece``).

    Attributes:
        half: opens it, or finds it open; must pickle.
        name: of the half, in an error.
        start, stop: its rows.
        num_classes: labels are 0 .. num_classes - 1.
        source: channels and size that are asked for.
    """

    half: Callable[[], Half]
    name: str
    start: int
    stop: int
    num_classes: int
    source: Source

    @property
    def where(self) -> str:
        """See ``Piece.where``."""
        return f"{self.name}, rows {self.start} to {self.stop - 1}"

    def __len__(self) -> int:
        return self.stop - self.start

    def labels(self) -> tuple[Tensor, list[BadRow]]:
        """See ``Piece.labels``."""
        labels = self.half().labels[self.start : self.stop].clone()
        faults = bad_labels(labels, self.num_classes)
        labels[list(faults)] = -1
        return labels, bad_rows(faults, range(len(self)), lambda row: f"{self._row(row)}: label")

    def images(self, rows: Sequence[int], shape: Shape | None) -> tuple[Tensor, list[BadRow]]:
        """See ``Piece.images``."""
        half = self.half()
        own = [self.start + row for row in rows]
        if not own:
            return torch.zeros((0, *(shape or empty_shape(self.source))), dtype=torch.uint8), []
        if half.pixels is not None:
            images, faults = fit_all(half.pixels[own], torch.arange(len(own)), self.source, shape)
        else:
            read = half.image
            assert read is not None
            images, faults = open_each(len(own), lambda i: read(own[i]), self.source, shape)
        return images, bad_rows(faults, rows, lambda row: f"{self._row(row)}: image")

    def _row(self, row: int) -> str:
        return f"{self.name}, row {self.start + row}"


def cut(half: Callable[[], Half], num_classes: int, source: Source) -> tuple[HalfRows, ...]:
    """All pieces of a half, which is opened to learn its length."""
    opened = half()
    count = len(opened.labels)
    size = rows_per_piece(source, lambda: _size(opened))
    return tuple(
        HalfRows(half, opened.where, start, min(start + size, count), num_classes, source)
        for start in range(0, count, size)
    )


def _size(half: Half) -> tuple[int, int]:
    if half.pixels is not None:
        return half.pixels.shape[2], half.pixels.shape[3]
    try:
        assert half.image is not None
        image = half.image(0)
    except Exception:  # reported when the row is read
        return UNKNOWN_SIDE, UNKNOWN_SIDE
    return image.height, image.width
