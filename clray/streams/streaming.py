"""Streams that memory cannot hold: each round of a pass is read while the last one is learned.

Where Ray is on, Ray Data reads: its tasks read, shuffle and copy on any machine of the cluster, and
hand a worker blocks of its own batches alone, in order. They ask for no CPU, since the slots hold
them all; two at a time keep a worker busy. Without Ray, a thread reads ahead.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clray.streams.order import EpochOrder, Indices
from clray.streams.sharded import Arrays, Content

AHEAD = 2
"""Rounds that are read before they are needed."""


class Streamed:
    """Reads round by round (``clray.streams.sharded.Reader``).

    Args:
        device: where batches go.
        memory: bytes; a quarter of them keeps tasks that fit in one round.
        through_ray: whether Ray Data reads.
    """

    def __init__(self, device: torch.device, memory: int, through_ray: bool) -> None:
        self.device, self.through_ray = device, through_ray
        self.kept = _Kept(memory // 4)

    def rounds(
        self, content: Content, order: EpochOrder, rank: int, world: int
    ) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        """See ``Reader.rounds``."""
        if order.is_whole:
            if order.batches:
                x, y = self.kept.get(content)
                yield self._whole(x, y, *order.rows(0, rank, world))
            return
        if self.through_ray:
            from clray.streams.ray_rounds import read_rounds
        else:
            read_rounds = _on_a_thread
        for number, (x, y) in enumerate(read_rounds(content, order, rank, world)):
            yield self._in_turn(x, y, order.lengths(number, rank, world))

    def _whole(
        self, x: NDArray[Any], y: NDArray[np.int64], rows: Indices, lengths: list[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        start = 0
        for length in lengths:
            own = rows[start : start + length]
            yield self._moved(x[own]), self._moved(y[own])
            start += length

    def _in_turn(
        self, x: NDArray[Any], y: NDArray[np.int64], lengths: list[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        labels = self._moved(y.copy())
        start = 0
        for length in lengths:
            batch = slice(start, start + length)
            yield self._moved(x[batch].copy()), labels[batch]
            start += length

    def _moved(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def read_round(content: Content, order: EpochOrder, number: int, rank: int, world: int) -> Arrays:
    """What a worker takes in a round, in the order of its batches: examples and labels.

    Raises:
        BadData: a file is missing, truncated or damaged.
    """
    return content.read_rows(order.rows(number, rank, world)[0])


def _on_a_thread(content: Content, order: EpochOrder, rank: int, world: int) -> Iterator[Arrays]:
    with ThreadPoolExecutor(1) as pool:
        numbers = range(len(order.rounds))
        ahead = [pool.submit(read_round, content, order, n, rank, world) for n in numbers[:AHEAD]]
        try:
            for number in numbers:
                arrays = ahead.pop(0).result()
                if number + AHEAD in numbers:
                    plan = (content, order, number + AHEAD, rank, world)
                    ahead.append(pool.submit(read_round, *plan))
                yield arrays
        finally:
            for future in ahead:
                future.cancel()


class _Kept:
    """Tasks that fit in one round, while there is room; the one used longest ago goes first."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.kept: OrderedDict[tuple[str, ...], Arrays] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, content: Content) -> Arrays:
        """All examples and labels of a content."""
        name = tuple(shard.path for shard in content.shards)
        with self.lock:
            if name not in self.kept:
                self.kept[name] = content.read()
            self.kept.move_to_end(name)
            arrays = self.kept[name]
            while self.kept and sum(x.nbytes + y.nbytes for x, y in self.kept.values()) > self.room:
                self.kept.popitem(last=False)
            return arrays
