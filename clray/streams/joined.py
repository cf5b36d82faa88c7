"""Several datasets in a row as one: ``first + second + third``.

The classes of each follow those of the ones before; their rows follow one another. Images must
have one shape, which ``image_size`` and ``channels`` bring about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from clray.streams.decoding import Shape
from clray.streams.pieces import BadRow, Listing, Piece

PLUS = " + "
"""What parts the names; the spaces set it apart from a plus sign in a path."""


@dataclass(frozen=True)
class ShiftedPiece:
    """A piece of a part (``clray.streams.pieces.Piece``).

    Attributes:
        piece: of the part.
        first_class: how many classes the parts before it have.
    """

    piece: Piece
    first_class: int

    @property
    def where(self) -> str:
        """See ``Piece.where``."""
        return self.piece.where

    def __len__(self) -> int:
        return len(self.piece)

    def labels(self) -> tuple[Tensor, list[BadRow]]:
        """See ``Piece.labels``."""
        labels, bad = self.piece.labels()
        return labels.where(labels < 0, labels + self.first_class), bad

    def images(self, rows: Sequence[int], shape: Shape | None) -> tuple[Tensor, list[BadRow]]:
        """See ``Piece.images``."""
        return self.piece.images(rows, shape)


def names_in(dataset: str) -> list[str]:
    """The names of the parts, one or more."""
    return [part.strip() for part in dataset.split(PLUS)]


def join(names: Sequence[str], parts: Sequence[Listing], counts: Sequence[int]) -> Listing:
    """The parts as one listing; ``counts`` are their classes."""
    starts = [0, *accumulate(counts)]
    train, test = (
        tuple(
            ShiftedPiece(piece, start)
            for part, start in zip(parts, starts, strict=False)
            for piece in getattr(part, half)
        )
        for half in ("train", "test")
    )
    classes = tuple(
        f"{name}: {own}"
        for name, part, count in zip(names, parts, counts, strict=True)
        for own in part.class_names or map(str, range(count))
    )
    return Listing(train, test, classes, {"joined": [part.identity for part in parts]})
