"""Made-up images of any number and size, ``synthetic/<classes>x<training examples per class>``.

Each class has a smooth pattern, drawn from its number; an image is its class's pattern plus noise
that is drawn from the half and the row alone, so that any rows can be made anywhere. Row i is of
class i modulo the classes. The test set is a fifth of the training set, at least one per class.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clray.errors import UnknownName
from clray.streams.dataset import Source
from clray.streams.decoding import Shape, differing
from clray.streams.pieces import PIECE_BYTES, PIECE_ROWS, BadRow, Listing

GRID = 8
"""Patterns are drawn on so many points a side and smoothed in between."""
PART = 512
"""Rows that are made at a time, so that they stay in the processor's cache."""
GOLDEN, MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class SyntheticRows:
    """Neighbouring rows (``clray.streams.pieces.Piece``).

    Attributes:
        half: 0 for training, 1 for testing.
        start, stop: rows of the half.
        num_classes: how many there are.
        shape: (C, H, W).
    """

    half: int
    start: int
    stop: int
    num_classes: int
    shape: Shape

    @property
    def where(self) -> str:
        """See ``Piece.where``."""
        half = "test" if self.half else "train"
        return f"synthetic ({half}), rows {self.start} to {self.stop - 1}"

    def __len__(self) -> int:
        return self.stop - self.start

    def labels(self) -> tuple[Tensor, list[BadRow]]:
        """See ``Piece.labels``."""
        return torch.arange(self.start, self.stop) % self.num_classes, []

    def images(self, rows: Sequence[int], shape: Shape | None) -> tuple[Tensor, list[BadRow]]:
        """See ``Piece.images``."""
        if shape is not None and shape != self.shape:
            fault = differing(self.shape, shape)
            bad = [BadRow(row, self.where, fault.given, fault.accepted) for row in rows]
            return torch.zeros((len(rows), *shape), dtype=torch.uint8), bad
        numbers = torch.tensor(list(rows), dtype=torch.int64) + self.start
        images = torch.empty((len(numbers), *self.shape), dtype=torch.uint8)
        classes, which = torch.unique(numbers % self.num_classes, return_inverse=True)
        few = len(classes) <= len(numbers) // 2
        patterns = _patterns(classes, self.shape) if few else None
        for part in range(0, len(numbers), PART):
            own = slice(part, part + PART)
            if patterns is not None:
                images[own] = patterns[which[own]]
            else:
                images[own] = _patterns(classes[which[own]], self.shape)
            images[own].flatten(1).add_(_noise(self.half, numbers[own], self.shape))
        return images, []


def check(name: str, source: Source) -> int:
    """The number of classes.

    Raises:
        UnknownName: not two whole numbers from 1 up.
    """
    return _parse(name)[0]


def identity(name: str) -> object:
    """Never changes."""
    return None


def listing(name: str, source: Source) -> Listing:
    """Both halves."""
    classes, each = _parse(name)
    side = source.image_size or 32
    shape = (source.channels or 3, side, side)
    size = max(1, min(PIECE_ROWS, PIECE_BYTES // (shape[0] * side * side)))
    halves = [
        tuple(
            SyntheticRows(half, start, min(start + size, count), classes, shape)
            for start in range(0, count, size)
        )
        for half, count in enumerate((classes * each, classes * max(1, each // 5)))
    ]
    names = tuple(str(n) for n in range(classes))
    return Listing(
        halves[0], halves[1], names, {"dataset": f"synthetic/{classes}x{each}", "version": 1}
    )


def _parse(name: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,8})", name)
    if found is None:
        accepted = "synthetic/<classes>x<examples per class>, such as synthetic/10x500"
        raise UnknownName("benchmark.dataset", f"synthetic/{name}", accepted)
    return int(found[1]), int(found[2])


def _patterns(classes: Tensor, shape: Shape) -> Tensor:
    """uint8 [n, C, H, W] in 0 .. 127: a random grid for each class, smoothed."""
    channels, height, width = shape
    keys = _keys(2, classes.numpy())
    grid = _bytes(keys, channels * GRID * GRID)[:, : channels * GRID * GRID] >> 1
    points = torch.from_numpy(grid).view(-1, channels, GRID, GRID).float()
    smooth = F.interpolate(points, (height, width), mode="bilinear", align_corners=True)
    return smooth.byte()


def _noise(half: int, rows: Tensor, shape: Shape) -> Tensor:
    """uint8 [n, C * H * W], even in 0 .. 127, so that a pattern plus noise stays within a byte."""
    pixels = shape[0] * shape[1] * shape[2]
    noise = torch.from_numpy(_bytes(_keys(half, rows.numpy()), pixels))
    return noise[:, :pixels].bitwise_right_shift_(1)


def _keys(stream: int, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A key for each number, apart for each stream."""
    keys = (numbers.astype(np.uint64) << np.uint64(2)) + np.uint64(stream)
    return _mix(_mix(keys * GOLDEN))


def _bytes(keys: NDArray[np.uint64], count: int) -> NDArray[np.uint8]:
    """uint8 [n, count or a few more]: random bytes, a counter hashed (Steele et al., 2014)."""
    steps = np.arange(-(-count // 8), dtype=np.uint64) * GOLDEN
    return _mix(_mix(keys[:, None] + steps)).astype("<u8", copy=False).view(np.uint8)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x ^= x >> np.uint64(32)
    x *= MIX
    x ^= x >> np.uint64(32)
    return x
