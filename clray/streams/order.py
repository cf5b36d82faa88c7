"""In which order a pass shows the examples of a task, also of one that memory cannot hold.

A task that fits in the shuffle window is shuffled whole. A larger one is cut into rounds: runs of
batches that fit. Its blocks are shuffled and laid in a row, the row is cut into lanes, and every
batch takes the same share of each lane; within a round, each lane's rows are shuffled. So a batch
mixes blocks from all over the task, a round reads little more than its own rows, and a worker
reads only the lanes that its share of the batches is made of.

The order is a function of the seed, the epoch, the batch size and the blocks: how the examples are
read changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from clray.spec import derive_seed
from clray.task import cut

LANES = 24
"""Divisible by 2, 3, 4, 6, 8 and 12: so many workers read no row that they do not use."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class EpochOrder:
    """The order of one pass.

    Attributes:
        blocks: rows of each block, in the order of files.
        size: most examples of a batch.
        window: rows that may be shuffled together, 1 or more.
        seed: None keeps the order of blocks and rows.
        epoch: which pass.
        natural: the order that a pass without a seed has where the task fits in the window, and
            that is shuffled where there is one; None: that of files.
    """

    blocks: tuple[int, ...]
    size: int
    window: int
    seed: int | None
    epoch: int
    natural: Indices | None = None

    @cached_property
    def total(self) -> int:
        """How many examples there are."""
        return sum(self.blocks)

    @property
    def is_whole(self) -> bool:
        """Whether the task fits in the window."""
        return self.total <= self.window

    @cached_property
    def batches(self) -> list[int]:
        """How many examples each batch has, over all workers."""
        return [part.stop - part.start for part in cut(self.total, self.size)]

    @cached_property
    def rounds(self) -> list[slice]:
        """The batches of each round."""
        if self.is_whole:
            return [slice(0, len(self.batches))] if self.batches else []
        return cut(len(self.batches), max(1, self.window // self.size))

    def lengths(self, number: int, rank: int = 0, world: int = 1) -> list[int]:
        """How many examples of each batch of a round one worker takes."""
        sizes = np.array(self.batches[self.rounds[number]])
        lengths: list[int] = ((rank + 1) * sizes // world - rank * sizes // world).tolist()
        return lengths

    def rows(self, number: int, rank: int = 0, world: int = 1) -> tuple[Indices, list[int]]:
        """What one worker takes in a round.

        Returns:
            The rows, in the order of files counted, batch after batch; how many each batch has.
        """
        sizes = np.array(self.batches[self.rounds[number]])
        starts, lows = sizes.cumsum() - sizes, rank * sizes // world
        lengths = self.lengths(number, rank, world)
        if self.is_whole:
            order, firsts = self._whole, starts + lows
        else:
            first, last = rank * LANES // world, -(-(rank + 1) * LANES // world)
            order, read = self._dealt(number, first, last, sizes)
            # Where these lanes begin in a batch, the worker's share may begin later.
            firsts = read.cumsum() - read + lows - first * sizes // LANES
        if world == 1:
            return order, lengths
        ranges = [np.arange(low, low + n) for low, n in zip(firsts, lengths, strict=True)]
        return order[np.concatenate(ranges)], lengths

    def _dealt(self, number: int, first: int, last: int, sizes: Indices) -> tuple[Indices, Indices]:
        """The rows of some lanes in a round, dealt out to its batches: all of them, batch after
        batch, and how many each batch has."""
        shares = self._shares(sizes)[first:last]
        batch = np.concatenate([np.arange(len(sizes)).repeat(own) for own in shares])
        rows = np.concatenate([self._lane(number, lane) for lane in range(first, last)])
        return rows[batch.argsort(kind="stable")], shares.sum(0)

    @cached_property
    def _whole(self) -> Indices:
        natural = np.arange(self.total) if self.natural is None else self.natural
        if self.seed is None:
            return natural
        return natural[self._permutation(self.total, "epoch")]

    def _lane(self, number: int, lane: int) -> Indices:
        """The rows of a lane in a round, shuffled."""
        ends = self._ends
        low = ends[number - 1, lane] if number else 0
        start = self._starts[lane]
        rows = self._in_sequence(start + low, start + ends[number, lane])
        if self.seed is None:
            return rows
        return rows[self._permutation(len(rows), "round", number, lane)]

    @staticmethod
    def _shares(sizes: Indices) -> Indices:
        """[LANES, batches]: how many rows each lane gives to batches of these sizes."""
        bounds = np.arange(LANES + 1)[:, None] * sizes // LANES
        return np.diff(bounds, axis=0)

    @cached_property
    def _ends(self) -> Indices:
        """[rounds, LANES]: the rows that each lane has given when a round ends."""
        shares = self._shares(np.array(self.batches)).cumsum(1)
        return shares[:, [part.stop - 1 for part in self.rounds]].T

    @cached_property
    def _starts(self) -> Indices:
        """Where each lane begins in the sequence."""
        return np.concatenate([[0], self._ends[-1].cumsum()[:-1]])

    @cached_property
    def _sequence(self) -> tuple[Indices, Indices, Indices]:
        """The shuffled blocks: where each ends in the sequence, its first row, its size."""
        sizes = np.array(self.blocks)
        firsts = sizes.cumsum() - sizes
        if self.seed is not None:
            order = self._permutation(len(sizes), "blocks")
            sizes, firsts = sizes[order], firsts[order]
        return sizes.cumsum(), firsts, sizes

    def _in_sequence(self, low: int, high: int) -> Indices:
        """The rows at positions low .. high - 1 of the sequence."""
        ends, firsts, sizes = self._sequence
        positions = np.arange(low, high)
        block = ends.searchsorted(positions, side="right")
        return firsts[block] + positions - (ends[block] - sizes[block])

    def _permutation(self, count: int, *names: str | int) -> Indices:
        assert self.seed is not None
        drawn = derive_seed(self.seed, names[0], self.epoch, *names[1:])
        generator = torch.Generator().manual_seed(drawn)
        return torch.randperm(count, generator=generator).numpy()
