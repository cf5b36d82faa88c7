"""A dataset as small pieces that can be read one by one, on any machine, and so by many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

PIECE_BYTES = 128 << 20
"""About how much a piece takes once it is decoded."""
PIECE_ROWS = 4096
"""The most rows of a piece."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        index: its position in its piece, from 0.
        where: names the file and the row, such as ``train-0003.parquet, row 1712: label``.
        given: what stands there.
        accepted: what would do.
    """

    index: int
    where: str
    given: str
    accepted: str


class Piece(Protocol):
    """Neighbouring rows of one file, or of whatever a source is made of.

    A piece names data and holds none: it is small, and can be pickled and sent to where it is read.
    Where a whole piece is unusable (a file that is gone, truncated or unreadable, a column that is
    missing or of another type), its methods raise BadData that names the file.
    """

    @property
    def where(self) -> str:
        """Names the file, and the rows where it has several pieces, in an error."""
        ...

    def __len__(self) -> int:
        """How many rows it has."""
        ...

    def labels(self) -> tuple[Tensor, list[BadRow]]:
        """int64 [n], -1 where there is no label, and the rows of which that is true.

        Nothing but labels is read. Classes are those of the whole listing.
        """
        ...

    def images(
        self, rows: Sequence[int], shape: tuple[int, int, int] | None
    ) -> tuple[Tensor, list[BadRow]]:
        """The images of some rows (positions in this piece, ascending).

        Args:
            rows: which.
            shape: (C, H, W) that every image must have; None: that of the first good one.

        Returns:
            uint8 [len(rows), C, H, W], zeros where an image is bad (undecodable, of another shape),
            and the bad rows.
        """
        ...


@dataclass(frozen=True)
class Listing:
    """A dataset as pieces.

    Attributes:
        train, test: pieces in the order of rows; together they are the whole of each half.
        class_names: one per class; None: not known before all labels are.
        identity: plain JSON that changes when the data do (files with sizes and times, say).
    """

    train: tuple[Piece, ...]
    test: tuple[Piece, ...]
    class_names: tuple[str, ...] | None
    identity: Any
