"""How a build goes about: which rows are decoded from which piece, and which make each shard.

A row is decoded once, into the fragment of its piece, whatever number of tasks it belongs to; a
fragment is in the order of tasks, so that a shard reads little more than its own rows of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from clray.streams.layout import Layout
from clray.streams.manifest import SPLITS, SplitName, shard_path
from clray.streams.pieces import Listing, Piece

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Fragment:
    """A piece, decoded.

    Attributes:
        path: below the folder of the build.
        piece: where the rows come from.
        rows: positions in the piece, in the order of the fragment.
        labels: of these rows, int64.
    """

    path: str
    piece: Piece
    rows: Indices
    labels: Indices


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be written.

    Attributes:
        path: below the stream's folder.
        domain: the guise of its task.
        ids: rows of the half of the dataset, int64, sorted.
        found: for each fragment that holds some of them, its path, its rows, and the positions in
            it; in the order of ``ids``.
    """

    path: str
    domain: int
    ids: Indices
    found: tuple[tuple[str, int, Indices], ...]


class Cut:
    """The fragments of a build, and after they are written, its shards.

    Args:
        listing: the dataset as pieces.
        labels: of the training half and the test half, int64; -1 for rows that cannot be used.
        layout: which rows make each task.
    """

    def __init__(self, listing: Listing, labels: tuple[Indices, Indices], layout: Layout) -> None:
        self.layout = layout
        self.halves = [
            _Half("train", listing.train, labels[0], _groups(layout, ("train", "validation"))),
            _Half("test", listing.test, labels[1], _groups(layout, ("test",))),
        ]

    @property
    def fragments(self) -> list[Fragment]:
        """What is decoded, piece by piece; pieces without a row that is used are left out."""
        return [fragment for half in self.halves for fragment in half.fragments()]

    def shards(
        self, bad: dict[str, list[int]], size: int
    ) -> dict[tuple[int, SplitName], list[ShardPlan]]:
        """The shards of each task and split.

        Args:
            bad: positions of the rows that could not be decoded, by the fragment's path.
            size: most rows of a shard.
        """
        for half in self.halves:
            half.drop(bad)
        found: dict[tuple[int, SplitName], list[ShardPlan]] = {}
        for index, task in enumerate(self.layout.tasks):
            for split in SPLITS:
                half = self.halves[split == "test"]
                rows = half.kept(getattr(task, split).numpy())
                found[index, split] = [
                    half.shard(
                        shard_path(index, split, number), task.domain, rows[start : start + size]
                    )
                    for number, start in enumerate(range(0, len(rows), size))
                ]
        return found


class _Half:
    """One half of the dataset: where each of its rows lies once it is decoded."""

    def __init__(
        self, name: str, pieces: Sequence[Piece], labels: Indices, groups: Sequence[Indices]
    ) -> None:
        self.name, self.pieces, self.labels = name, pieces, labels
        self.starts = np.array([0, *accumulate(len(piece) for piece in pieces)])
        count = len(labels)
        first_use = np.full(count, len(groups))
        for number in reversed(range(len(groups))):
            first_use[groups[number]] = number
        piece_of = self.starts[1:].searchsorted(np.arange(count), side="right")
        order = np.lexsort([first_use, piece_of])
        self.order = order[first_use[order] < len(groups)]  # used rows, fragment after fragment
        ends = piece_of[self.order].searchsorted(np.arange(len(pieces)), side="right")
        self.bounds = [(int(low), int(high)) for low, high in pairwise([0, *ends])]
        self.piece_of = piece_of
        self.position = np.full(count, -1)
        for low, high in self.bounds:
            self.position[self.order[low:high]] = np.arange(high - low)

    def path(self, number: int) -> str:
        return f"{self.name}-{number:05d}"

    def fragments(self) -> list[Fragment]:
        return [
            Fragment(
                self.path(number),
                self.pieces[number],
                self.order[low:high] - self.starts[number],
                self.labels[self.order[low:high]],
            )
            for number, (low, high) in enumerate(self.bounds)
            if high > low
        ]

    def drop(self, bad: dict[str, list[int]]) -> None:
        """Forget rows that could not be decoded."""
        for number, (low, high) in enumerate(self.bounds):
            rows = self.order[low:high][bad.get(self.path(number), [])]
            self.position[rows] = -1

    def kept(self, rows: Indices) -> Indices:
        return rows[self.position[rows] >= 0]

    def shard(self, path: str, domain: int, rows: Indices) -> ShardPlan:
        owners = self.piece_of[rows]
        found = []
        for number in np.unique(owners).tolist():
            low, high = self.bounds[number]
            positions = self.position[rows[owners == number]]
            found.append((self.path(number), high - low, positions))
        return ShardPlan(path, domain, rows, tuple(found))


def _groups(layout: Layout, splits: Sequence[SplitName]) -> list[Indices]:
    return [getattr(task, split).numpy() for task in layout.tasks for split in splits]
