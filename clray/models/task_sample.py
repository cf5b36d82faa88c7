"""Some or all of a task's training examples, once, shared by workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clray.learner import Setup
from clray.task import Task, cut

BATCH = 256
"""Examples of all workers at once; it changes nothing but memory and time."""


@dataclass(frozen=True)
class Share:
    """A worker's part of a batch.

    Attributes:
        x, y: uint8 [B, C, H, W] and int64 [B]; none where all that count are other workers'.
        size: examples in all workers' parts, some of which may not count.
        part: where these B lie among them: by it, what is drawn for all is the same on any number
            of workers.
    """

    x: Tensor
    y: Tensor
    size: int
    part: slice


class Shares:
    """This worker's parts of a task's training examples, the same in each pass.

    Args:
        examples: how many of the task's, drawn at random; None, or more than it has: all, in order.

    Attributes:
        count: how many they are on all workers.
    """

    def __init__(self, task: Task, examples: int | None, setup: Setup) -> None:
        self.task, self.setup = task, setup
        total = len(task.train)
        self.count = min(total, examples or total)
        self.seed = None
        if self.count < total:
            self.seed = int(torch.randint(2**62, (), generator=setup.generator))

    def __iter__(self) -> Iterator[Share]:
        group, train = self.setup.distributed, self.task.train
        batches = train.batches(BATCH, seed=self.seed, rank=group.rank, world=group.world)
        for whole, (x, y) in zip(cut(len(train), BATCH), batches, strict=True):
            if whole.start >= self.count:
                break
            size = whole.stop - whole.start
            part = group.slice(size)
            keep = max(0, min(self.count - whole.start, part.stop) - part.start)
            yield Share(x[:keep], y[:keep], size, slice(part.start, part.start + keep))
