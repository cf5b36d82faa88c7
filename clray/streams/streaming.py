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

from clray.streams.order import EpochOrder
from clray.streams.sharded import AHEAD, Arrays, Content, taken


class Streamed:
    """Reads round by round (``clray.streams.sharded.Reader``).

    Args:
        device: where batches go.
        memory: bytes; a quarter of them keeps tasks that fit in one round, and what is read ahead
            may take no more than half.
        through_ray: whether Ray Data reads.
    """

    def __init__(self, device: torch.device, memory: int, through_ray: bool) -> None:
        self.device = device
        self.kept = _Kept(memory // 4)
        self.read_rounds = _on_a_thread
        if through_ray:
            from clray.streams.ray_rounds import read_rounds

            self.read_rounds = read_rounds

    def rounds(
        self, content: Content, order: EpochOrder, rank: int, world: int
    ) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        """See ``Reader.rounds``."""
        if order.is_whole:
            if order.batches:
                x, y = self.kept.get(content)
                yield taken(x, y, *order.rows(0, rank, world), self.device)
            return
        for number, arrays in enumerate(self.read_rounds(content, order, rank, world)):
            yield self._in_turn(*arrays, order.lengths(number, rank, world))
            del arrays  # or it would outlast the next one's arrival

    def _in_turn(
        self, x: NDArray[Any], y: NDArray[np.int64], lengths: list[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of these lengths, copied: a batch that is kept must not keep the round."""
        start = 0
        for length in lengths:
            batch = slice(start, start + length)
            yield self._moved(x[batch].copy()), self._moved(y[batch].copy())
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
        self.kept: OrderedDict[tuple[str, ...], tuple[Tensor, Tensor]] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, content: Content) -> tuple[Tensor, Tensor]:
        """All examples and labels of a content."""
        name = tuple(shard.path for shard in content.shards)
        with self.lock:
            if name not in self.kept:
                self._make_room(self.room - content.num_bytes)
                x, y = content.read()
                self.kept[name] = (torch.from_numpy(x), torch.from_numpy(y))
            self.kept.move_to_end(name)
            tensors = self.kept[name]
            self._make_room(self.room)
            return tensors

    def _make_room(self, room: int) -> None:
        while self.kept and sum(x.nbytes + y.nbytes for x, y in self.kept.values()) > room:
            self.kept.popitem(last=False)
