"""Examples of a stored stream, read whole or block by block: the batches are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clray.streams.manifest import Manifest, Shard
from clray.streams.order import EpochOrder, Indices
from clray.streams.shards import read_blocks, read_labels

AHEAD = 2
"""Rounds that are read before they are needed."""

Arrays = tuple[NDArray[Any], NDArray[np.int64]]
"""Examples [n, C, H, W] and labels [n]."""


@dataclass(frozen=True)
class Part:
    """The examples of one split of one task.

    Attributes:
        task: position of the task in the stored stream.
        split: train, validation or test.
        shards: its files, in the order of rows.
    """

    task: int
    split: str
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Content:
    """What a ShardedExamples is made of.

    Attributes:
        uri: where the stream lies.
        manifest: of the stream.
        parts: one after the other; those of one task stand together.
    """

    uri: str
    manifest: Manifest
    parts: tuple[Part, ...]

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All files, one after the other."""
        return tuple(shard for part in self.parts for shard in part.shards)

    @cached_property
    def blocks(self) -> tuple[tuple[str, int], ...]:
        """File and number in it of each block."""
        size = self.manifest.block_rows
        return tuple(
            (shard.path, number)
            for shard in self.shards
            for number in range(-(-shard.rows // size))
        )

    @cached_property
    def block_sizes(self) -> tuple[int, ...]:
        """Rows of each block."""
        size = self.manifest.block_rows
        return tuple(
            min(size, shard.rows - start)
            for shard in self.shards
            for start in range(0, shard.rows, size)
        )

    @cached_property
    def num_rows(self) -> int:
        """How many examples there are."""
        return sum(shard.rows for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """What they take in memory."""
        return self.num_rows * (self.manifest.row_bytes + 8)

    @cached_property
    def natural(self) -> Indices | None:
        """Rows in the order of the dataset that they come from, task by task; None: as they lie.

        Only a task of several splits lies in another order.
        """
        tasks = [part.task for part in self.parts]
        if len(set(tasks)) == len(tasks):
            return None
        _, ids = read_labels(self.uri, [shard.path for shard in self.shards])
        rows = [sum(shard.rows for shard in part.shards) for part in self.parts]
        return np.lexsort([ids, np.array(tasks).repeat(rows)])

    def read(self) -> Arrays:
        """All examples, as they lie: [n, C, H, W] of the stream's type, and labels int64 [n].

        Raises:
            BadData: a file is missing, truncated or damaged.
        """
        row_bytes = self.manifest.row_bytes
        x, y = read_blocks(self.uri, self.blocks, self.block_sizes, row_bytes)
        return self.shaped(x), y

    def read_rows(self, rows: Indices) -> Arrays:
        """Some examples, no one twice, in the order given: as ``read``; only their blocks are read.

        Raises:
            BadData: a file is missing, truncated or damaged.
        """
        sizes = np.array(self.block_sizes)
        ends = sizes.cumsum()
        blocks, index = np.unique(ends.searchsorted(rows, side="right"), return_inverse=True)
        starts = sizes[blocks].cumsum() - sizes[blocks]
        places = np.full(sizes[blocks].sum(), -1)
        places[starts[index] + rows - (ends - sizes)[blocks][index]] = np.arange(len(rows))
        wanted = [self.blocks[block] for block in blocks]
        row_bytes = self.manifest.row_bytes
        x, y = read_blocks(self.uri, wanted, sizes[blocks].tolist(), row_bytes, places)
        return self.shaped(x), y

    def shaped(self, x: NDArray[np.uint8]) -> NDArray[Any]:
        """Bytes [n, row_bytes] as examples [n, C, H, W] of the stream's type."""
        return x.view(self.manifest.dtype).reshape(len(x), *self.manifest.shape)


class Reader(Protocol):
    """One of the ways to read a stored stream."""

    def rounds(
        self, content: Content, order: EpochOrder, rank: int, world: int
    ) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        """For each round of the order, a worker's batches, on the stream's device."""
        ...


class ShardedExamples:
    """Labelled examples in Parquet shards (``clray.task.Examples``).

    Attributes:
        content: what they are made of.
        reader: how they are read.
        window: rows that are shuffled together.
    """

    def __init__(self, content: Content, reader: Reader, window: int) -> None:
        self.content, self.reader, self.window = content, reader, window

    def __len__(self) -> int:
        return self.content.num_rows

    def batches(
        self, size: int, seed: int | None = None, epoch: int = 0, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See ``clray.task.Examples.batches`` and ``clray.streams.order``; without a seed, a task
        that exceeds the window has a fixed order that is not quite that of its files.

        Raises:
            BadData: a file is missing, truncated or damaged.
        """
        fits = len(self) <= self.window
        natural = self.content.natural if fits else None
        order = EpochOrder(self.content.block_sizes, size, self.window, seed, epoch, natural)
        for batches in self.reader.rounds(self.content, order, rank, world):
            yield from batches

    def join(self, others: Sequence[ShardedExamples]) -> ShardedExamples:
        """These examples followed by those of ``others``, of the same stream.

        Raises:
            ValueError: of another stream, or read in another way.
        """
        parts = self.content.parts
        for other in others:
            if other.reader is not self.reader or other.content.uri != self.content.uri:
                raise ValueError("only examples of one stream can be joined")
            parts += other.content.parts
        content = Content(self.content.uri, self.content.manifest, parts)
        return ShardedExamples(content, self.reader, self.window)


class Resident:
    """Reads each part whole, once, and cuts batches out of it.

    Args:
        load: a part as tensors: examples [n, C, H, W] and labels int64 [n].
        device: where batches go.
    """

    def __init__(self, load: Loader, device: torch.device) -> None:
        self.load, self.device = load, device

    def rounds(
        self, content: Content, order: EpochOrder, rank: int, world: int
    ) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        """See ``Reader.rounds``."""
        parts = [self.load(content, part) for part in content.parts if part.shards]
        for number in range(len(order.rounds)):
            rows, lengths = order.rows(number, rank, world)
            if len(parts) == 1:
                yield taken(*parts[0], rows, lengths, self.device)
            else:
                yield self._from_several(parts, rows, lengths)

    def _from_several(
        self, parts: list[tuple[Tensor, Tensor]], rows: Indices, lengths: list[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        sizes = np.array([len(y) for _, y in parts])
        owners = sizes.cumsum().searchsorted(rows, side="right")
        local = rows - (sizes.cumsum() - sizes)[owners]
        start = 0
        for length in lengths:
            batch = slice(start, start + length)
            by_owner = owners[batch].argsort(kind="stable")
            own, inside = owners[batch][by_owner], local[batch][by_owner]
            xs, ys = [], []
            for owner in np.unique(own):
                x, y = parts[owner]
                index = torch.from_numpy(inside[own == owner]).to(x.device)
                xs.append(x.index_select(0, index))
                ys.append(y.index_select(0, index))
            back = torch.from_numpy(by_owner.argsort()).to(xs[0].device if xs else self.device)
            x, y = parts[0]
            x = torch.cat(xs or [x[:0]]).index_select(0, back)
            y = torch.cat(ys or [y[:0]]).index_select(0, back)
            yield x.to(self.device), y.to(self.device)
            start += length


def taken(
    x: Tensor, y: Tensor, rows: Indices, lengths: list[int], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of these lengths, on the device: ``rows`` of ``x`` and ``y``, batch after batch."""
    index = torch.from_numpy(rows).to(x.device)
    labels = torch.split(y.index_select(0, index).to(device), lengths)
    for own, label in zip(torch.split(index, lengths), labels, strict=True):
        yield x.index_select(0, own).to(device), label


class Loader(Protocol):
    """Gives a part of a stream as tensors: examples [n, C, H, W] and labels int64 [n]."""

    def __call__(self, content: Content, part: Part) -> tuple[Tensor, Tensor]:
        """The part; the tensors are shared and must not be written to.

        Raises:
            BadData: a file is missing, truncated or damaged.
        """
        ...
